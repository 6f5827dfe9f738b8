"""The command line: `info`, `cat`, `serve`, `demo`. Errors are one line on stderr and exit status 1; wrong usage is
2."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hctef import HctefError, HctefUrlError, HttpFile, RangeRequestsUnsupportedError, RemoteBuffer, __version__
from hctef._http import checked_headers
from hctef._repr import format_bytes
from hctef._serve import NEEDED

INTERRUPTED = 130  # as shells give for SIGINT

_SPELT = {
    "on_no_range='download'": "--on-no-range download",
    "validate='size'": "--validate size",
    "pass headers=…, or a callable url or headers that returns fresh ones": "pass them by -H 'NAME: VALUE'",
}
"""How what the library's messages advise is spelt here."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("hctef", description="Read files behind http(s) URLs by Range requests.")
    parser.add_argument("--version", action="version", version=f"hctef {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("url", metavar="URL")
    common.add_argument(
        "-H", "--header", type=_header, action="append", default=[], metavar="'NAME: VALUE'", help="may be repeated"
    )
    common.add_argument("--timeout", type=_seconds, default=30.0, help="seconds, to connect and between bytes")
    common.add_argument("--retries", type=_count, default=5, help="attempts after the first")
    common.add_argument("--validate", choices=["strict", "size"], default="strict")
    common.add_argument("--on-no-range", choices=["error", "download"], default="error")
    commands.add_parser("info", parents=[common], help="size, validator, range support, paging")
    cat = commands.add_parser("cat", parents=[common], help="bytes of a file, to stdout")
    cat.add_argument(
        "range", type=_slice, nargs="?", default=":", metavar="START:STOP", help="as in a slice; -100: are the last 100"
    )
    cat.add_argument("--progress", action="store_true", help="on stderr, also where that is no terminal")
    serve = commands.add_parser("serve", help="serve a folder with Range requests")
    serve.add_argument("folder", type=Path, metavar="DIR")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=_port, default=8000, help="0: any that is free (default: %(default)s)")
    demo = commands.add_parser("demo", help="make data, serve it, read it, show what it cost")
    demo.add_argument("--keep", type=Path, metavar="DIR", help="make the data there, and leave it")
    return parser


# the types of arguments: each raises ArgumentTypeError, whose message, unlike a ValueError's, names no function of ours


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("a header is 'NAME: VALUE'; one has no colon")  # what it has may be a token
    try:
        [checked] = checked_headers({name.strip(): value.strip()}).items()
    except HctefUrlError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return checked


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"not a positive number of seconds: {text.strip()!r}")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if int(text) >= 0:
            return int(text)
    raise argparse.ArgumentTypeError(f"not a number from 0 on: {text.strip()!r}")


def _port(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= int(text) < 1 << 16:
            return int(text)
    raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text.strip()!r}")


def _slice(text: str) -> slice:
    start, colon, stop = text.strip().partition(":")
    with contextlib.suppress(ValueError):
        if colon:
            return slice(int(start) if start else None, int(stop) if stop else None)
    raise argparse.ArgumentTypeError(f"a range is START:STOP, not {text.strip()!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["cat"]:  # a range like -100: is no option
        given = [f" {word}" if word.startswith("-") and word[1:2].isdigit() else word for word in given]
    parser = _parser()
    arguments, rest = parser.parse_known_args(given)
    if rest and arguments.command == "cat" and arguments.range == slice(None) and len(rest) == 1:
        with contextlib.suppress(argparse.ArgumentTypeError):  # an option stood between it and the URL
            arguments.range, rest = _slice(rest[0]), []
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # not everything that is shown is in every encoding
    try:
        if sys.stdout is None and arguments.command != "serve":  # a server needs nobody who reads what it says
            raise OSError("stdout is closed")
        status = int({"info": _info, "cat": _cat, "serve": _serve, "demo": _demo}[arguments.command](arguments))
        if sys.stdout is not None:
            sys.stdout.flush()  # here an error can be told
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader had enough
        _give_up_stdout()
        return 0
    except ImportError as error:
        _complain(NEEDED if error.name == "aiohttp" else str(error))
    except (HctefError, OSError, ValueError) as error:
        _complain(str(error))
        _give_up_stdout()
    return 1


def _complain(message: str) -> None:
    for ours, spelt in _SPELT.items():
        message = message.replace(ours, spelt)
    if sys.stderr is not None:  # print would take stdout instead
        print(f"hctef: error: {message}", file=sys.stderr)


def _give_up_stdout() -> None:
    """Let what cannot be written go, or the interpreter would try once more when it ends, and say so."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("timeout", "retries", "validate", "on_no_range")
    return {
        "headers": dict(arguments.header),
        "prefetch_bytes": 0,
        **{name: getattr(arguments, name) for name in names},
    }


def _info(arguments: argparse.Namespace) -> int:
    options, ranges = _options(arguments), "yes"
    try:
        opened = RemoteBuffer(arguments.url, **{**options, "on_no_range": "error"})
    except RangeRequestsUnsupportedError:
        if arguments.on_no_range == "error":
            raise
        opened, ranges = RemoteBuffer(arguments.url, **options), "no: the whole file was downloaded"
    with opened as buf:
        print(f"url        {buf.file().name}")
        print(f"size       {buf.size()} ({format_bytes(buf.size())})")
        print(f"validator  {buf.validator or 'none: a change of the file is noticed by its size only'}")
        print(f"ranges     {ranges if buf.size() else 'not needed: the file is empty'}")
        print(f"paging     {buf.paging}")
    return 0


def _cat(arguments: argparse.Namespace) -> int:
    shown = sys.stderr is not None and (arguments.progress or sys.stderr.isatty())
    begin = time.monotonic()

    def show(done: int, total: int) -> None:
        rate = format_bytes(int(done / max(time.monotonic() - begin, 1e-6)))
        print(f"\r{format_bytes(done)} of {format_bytes(total)}, {rate}/s  ", end="", file=sys.stderr)

    with HttpFile(arguments.url, progress=show if shown else None, **_options(arguments)) as file:
        start, stop, _ = arguments.range.indices(file.size)
        for piece in file.stream(start, max(start, stop)):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        if shown:
            length, seconds = format_bytes(max(0, stop - start)), time.monotonic() - begin
            print(f"\r{length} in {seconds:.1f} s" + " " * 20, file=sys.stderr)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from hctef._serve import serve  # noqa: PLC0415  # asyncio takes as long as all the rest

    def ready(url: str) -> None:
        print(f"serving {arguments.folder} at {url}/ (Ctrl-C stops)", flush=True)

    serve(arguments.folder, arguments.host, arguments.port, ready)
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from hctef import _demo  # noqa: PLC0415  # numpy takes longer than all the rest

    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        return 0 if _demo.run(arguments.keep, print) else 1
    with tempfile.TemporaryDirectory(prefix="hctef-demo-") as folder:
        return 0 if _demo.run(Path(folder), print) else 1
