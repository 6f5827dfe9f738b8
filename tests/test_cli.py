"""The command line where its arguments or its surroundings are wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hctef import _demo, cli
from hctef._serve import background_server
from tests.helpers import pattern
from tests.range_server import RangeServer, ignore_range, status


def test_info_of_a_small_file(range_server: RangeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """That one request brings all of it does not mean that the server knows no ranges."""
    url = range_server.add("f", pattern(5000))
    assert cli.main(["info", url, "--on-no-range", "download"]) == 0
    assert "ranges     yes\n" in capsys.readouterr().out
    range_server.behave("f", ignore_range)
    assert cli.main(["info", url, "--on-no-range", "download"]) == 0
    assert "ranges     no" in capsys.readouterr().out
    assert cli.main(["info", url]) == 1


def test_info_of_an_empty_file(range_server: RangeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """It says nothing about ranges that it cannot know."""
    assert cli.main(["info", range_server.add("f", b"")]) == 0
    assert "ranges     not needed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cat", "URL", "5"], "argument START:STOP: a range is START:STOP, not '5'"),
        (["cat", "URL", "a:b"], "argument START:STOP: a range is START:STOP, not 'a:b'"),
        (["cat", "URL", "-6"], "argument START:STOP: a range is START:STOP, not '-6'"),
        (["cat", "URL", "0:10:2"], "argument START:STOP: a range is START:STOP, not '0:10:2'"),
        (["info", "URL", "--timeout", "0"], "argument --timeout: not a positive number of seconds: '0'"),
        (["info", "URL", "--timeout", "nan"], "argument --timeout: not a positive number of seconds: 'nan'"),
        (["cat", "URL", "--timeout", "x"], "argument --timeout: not a positive number of seconds: 'x'"),
        (["cat", "URL", "--retries", "1", "0:5", "6:7"], "unrecognized arguments: 0:5 6:7"),
        (["cat", "URL", "0:5", "--retries", "1", "6:7"], "unrecognized arguments: 6:7"),
        (["cat", "URL", "--retries", "-1"], "argument --retries: not a number from 0 on: '-1'"),
        (["cat", "URL", "--retries", "1.5"], "argument --retries: not a number from 0 on: '1.5'"),
        (["info", "URL", "-H", "SECRET"], "argument -H/--header: a header is 'NAME: VALUE'; one has no colon"),
        (["info", "URL", "-H", "Range: SECRET"], "argument -H/--header: hctef sets the header 'Range' itself"),
        (["info", "URL", "-H", "X: SEC\nRET"], "argument -H/--header: the value of header 'X' holds a line break"),
        (["serve", ".", "--port", "99999"], "argument --port: a port is a number from 0 to 65535, not '99999'"),
        (["serve", ".", "--port=-1"], "argument --port: a port is a number from 0 to 65535, not '-1'"),
        (["serve", ".", "--port", "x"], "argument --port: a port is a number from 0 to 65535, not 'x'"),
    ],
)
def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """It says which argument is wrong, and why; a header's value may be a token, and is not shown."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.endswith(f"error: {message}\n")
    assert "SECRET" not in shown


def test_advice_is_spelt_as_on_the_command_line(range_server: RangeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Options rather than keyword arguments."""
    url = range_server.add("f", pattern(500_000))
    for behaviour, advice in (
        (ignore_range, "--on-no-range download fetches it once, whole"),
        (status(401), "pass them by -H 'NAME: VALUE'"),
        (status(412), "where a CDN's ETag differs from node to node: --validate size"),
    ):
        range_server.behave("f", behaviour)
        assert cli.main(["cat", url]) == 1
        shown = capsys.readouterr().err
        assert f"{advice})\n" in shown
        assert "=" not in shown


@pytest.mark.parametrize("command", ["cat", "info"])
@pytest.mark.parametrize(("target", "message"), [("&-", "stdout is closed"), ("/dev/full", "[Errno 28]")])
def test_a_stdout_that_takes_nothing(range_server: RangeServer, command: str, target: str, message: str) -> None:
    """Closed or full: an error in a line, and exit status 1."""
    url = range_server.add("f", pattern(100))
    if target == "/dev/full" and not Path(target).exists():
        pytest.skip("a device of Linux")
    line = f'exec "{sys.executable}" -m hctef {command} {url} >{target}'
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith(f"hctef: error: {message}")
    assert done.stderr.count("\n") == 1


def test_a_closed_stderr_leaves_stdout_alone(range_server: RangeServer) -> None:
    """Neither progress nor errors go where the bytes go."""
    url = range_server.add("f", pattern(100))
    for name, code, expected in ((url, 0, pattern(100)), (range_server.url("missing"), 1, b"")):
        line = f'exec "{sys.executable}" -m hctef cat --progress {name} 2>&-'
        done = subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE, check=False)
        assert (done.returncode, done.stdout) == (code, expected)


def test_serve_refuses_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing in it to serve."""
    (tmp_path / "f").write_bytes(b"")
    assert cli.main(["serve", str(tmp_path / "f"), "--port", "0"]) == 1
    assert capsys.readouterr().err.startswith("hctef: error: ")
    with pytest.raises(NotADirectoryError), background_server(tmp_path / "f"):
        pass


def test_listings_link_to_what_they_list(tmp_path: Path) -> None:
    """Names with %, ? and spaces too, and from a folder's URL without its slash."""
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "c%20?d").write_bytes(b"found")
    with background_server(tmp_path) as base:
        with urllib.request.urlopen(f"{base}/a%20b") as response:
            href = response.read().decode().split('href="')[1].split('"')[0]
        with urllib.request.urlopen(base + href) as response:
            assert response.read() == b"found"


def test_paths_that_lead_nowhere_are_not_found(tmp_path: Path) -> None:
    """Nor do they hide what a listing has besides."""
    (tmp_path / "loop").symlink_to("loop")
    odd = os.fsencode(tmp_path) + b"/odd \xff.txt"
    Path(os.fsdecode(odd)).write_bytes(b"odd")
    with background_server(tmp_path) as base:
        for path in ("loop", "%00", "a" * 300, "missing", "../etc"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{base}/{path}")
            assert caught.value.code == 404
            caught.value.close()
        with urllib.request.urlopen(base) as response:
            href = next(part for part in response.read().decode().split('"') if "odd" in part)
        with urllib.request.urlopen(base + href) as response:
            assert response.read() == b"odd"


def test_what_no_encoding_has_is_shown_all_the_same(range_server: RangeServer) -> None:
    """A query's value is shown as an ellipsis."""
    url = range_server.add("f", pattern(100)) + "?token=1"
    command = [sys.executable, "-m", "hctef", "info", url]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0
    assert b"token=\\u2026" in done.stdout


def test_options_may_stand_between_url_and_range(
    range_server: RangeServer, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """As with other commands."""
    url = range_server.add("f", pattern(100))
    assert cli.main(["cat", url, "-H", "A: b", "1:5"]) == 0
    assert cli.main(["cat", url, "--timeout", "1e30", "-3:"]) == 0
    assert capfdbinary.readouterr().out == pattern(100)[1:5] + pattern(100)[-3:]


def test_demo_without_aiohttp_makes_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what to install first."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ImportError):
        _demo.run(tmp_path, print)
    assert cli.main(["demo", "--keep", str(tmp_path)]) == 1
    assert "pip install aiohttp" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
