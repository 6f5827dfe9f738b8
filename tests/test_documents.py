"""What a newcomer sees first works as it stands: README's snippets, the notebook, the demo, the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import hctef
from hctef import cli
from hctef._repr import ASCII_BLOCKS, BLOCKS, filled, format_bytes, page_map_svg, page_map_text
from tests.helpers import pattern
from tests.nginx_server import NginxServer
from tests.range_server import RangeServer, hang_up, ignore_range

ROOT = Path(__file__).parents[1]
DATA = pattern(100_000)


def test_readme(nginx: NginxServer, tmp_path: Path) -> None:
    """Each Python snippet runs, in order, in one namespace; example.org is this machine."""
    np.save(tmp_path / "data.npy", np.arange(2_000_000, dtype="<f4").reshape(-1, 64))
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for n in range(100):
            archive.writestr(f"reports/{n:03}.txt", f"report {n}\n" * 100)
    for name in ("data.npy", "archive.zip"):
        nginx.add(name, (tmp_path / name).read_bytes())
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 5
    namespace: dict[str, Any] = {}
    for snippet in snippets:
        exec(snippet.replace("https://example.org/", nginx.url("")), namespace)
    assert namespace["text"].startswith(b"report 77\n")
    assert namespace["whole"][100] == 100
    assert namespace["last"].shape == (10, 64)


def test_notebook() -> None:
    """It runs from top to bottom, and shows pictures."""
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    NotebookClient(notebook, timeout=100, kernel_name="python3").execute(env=environment)
    shown = [output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    pictures = [data["text/html"] for data in shown if "<svg" in data.get("text/html", "")]
    assert len(pictures) == 4
    assert all("<rect x=" in picture for picture in pictures)


def test_demo() -> None:
    """It reads what the local files give, for a small part of their bytes, and draws it."""
    done = subprocess.run([sys.executable, "-m", "hctef", "demo"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.count("as the local file gives") == 4
    assert "WRONG" not in done.stdout
    assert len(re.findall(r"^  \|.{64}\|$", done.stdout, re.MULTILINE)) == 4


def test_info(range_server: RangeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Size, validator, ranges, paging; the query's values stay hidden."""
    url = range_server.add("f", DATA)
    assert cli.main(["info", f"{url}?sig=SECRET", "-H", "X-Test: yes"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^size +100000 \(97\.7 KiB\)$", out, re.MULTILINE)
    assert re.search(r'^validator +ETag "v1"$', out, re.MULTILINE)
    assert re.search(rf"^paging +{'fault' if hctef.paging_support() else 'fill'}$", out, re.MULTILINE)
    assert "SECRET" not in out
    assert range_server.log[0].headers["x-test"] == "yes"
    range_server.behave("f", ignore_range)
    assert cli.main(["info", url, "--on-no-range", "download"]) == 0
    assert "ranges     no" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":", DATA),
        ("10:20", DATA[10:20]),
        ("-100:", DATA[-100:]),
        (":-99990", DATA[:10]),
        ("50:40", b""),
        ("9999999:", b""),
    ],
)
def test_cat(range_server: RangeServer, capfdbinary: pytest.CaptureFixture[bytes], text: str, expected: bytes) -> None:
    """Slices, as in Python; progress only on demand where stderr is no terminal."""
    url = range_server.add("f", DATA)
    assert cli.main(["cat", url, text]) == 0
    shown = capfdbinary.readouterr()
    assert shown.out == expected
    assert shown.err == b""
    assert cli.main(["cat", "--progress", url, text]) == 0
    assert capfdbinary.readouterr().err


def test_errors_are_one_line(range_server: RangeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with exit status 1; wrong usage is 2."""
    url = range_server.add("f", DATA)
    range_server.behave("f", hang_up)
    for arguments in (
        ["info", "ftp://host/x"],
        ["info", range_server.url("missing")],
        ["cat", url, "--retries", "0"],
        ["serve", "/no/such/folder"],
    ):
        assert cli.main(arguments) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert re.fullmatch(r"hctef: error: [^\n]+\n", shown.err)
    with pytest.raises(SystemExit) as caught:
        cli.main(["eat", url])
    assert caught.value.code == 2


def test_a_reader_that_has_enough(range_server: RangeServer) -> None:
    """A broken pipe is no error."""
    url = range_server.add("f", pattern(4_000_000))
    command = f"{sys.executable} -m hctef cat {url} | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False, cwd=ROOT)
    assert done.stdout == pattern(10)
    assert done.stderr == b""
    assert done.returncode == 0


def test_serve(tmp_path: Path) -> None:
    """Ranges and validators; nothing outside of the folder; a listing for people."""
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "f").write_bytes(DATA)
    (inside / "<b>").write_bytes(b"")
    (tmp_path / "secret").write_bytes(b"SECRET")
    (inside / "link").symlink_to(tmp_path / "secret")
    command = [sys.executable, "-m", "hctef", "serve", str(inside), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found is not None
        with hctef.HttpFile(f"{found[0]}/f", prefetch_bytes=0) as file:
            assert file.read() == DATA
            assert file.validator is not None
        with hctef.HttpFile(f"{found[0]}/", on_no_range="download") as listing:
            assert b"&lt;b&gt;" in listing.read()
        for outside in ("link", "%2e%2e/secret", "..%2fsecret"):
            with pytest.raises(hctef.RemoteFileNotFoundError):
                hctef.HttpFile(f"{found[0]}/{outside}")
        process.terminate()


def test_page_maps() -> None:
    """A single page shows, a full file is full, and the number of bars is bounded."""
    assert page_map_text(1 << 40, [(1 << 39, (1 << 39) + 4096)]).count(BLOCKS[0]) == 63
    assert page_map_text(1000, [(0, 1000)], 10) == BLOCKS[-1] * 10
    assert page_map_text(1000, [(0, 500)], 10, ASCII_BLOCKS) == "@@@@@....."
    assert page_map_text(0, []) == BLOCKS[0] * 64
    assert filled(100, [(0, 10), (15, 20)], 10)[:2] == [1.0, 0.5]
    many = [(n * 8192, n * 8192 + 4096) for n in range(10_000)]
    assert page_map_svg(10_000 * 8192, many).count("<rect") <= 361
    assert [format_bytes(n) for n in (0, 1023, 1024, 1536, 1 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "1.0 TiB",
    ]


def test_the_version_is_the_projects() -> None:
    """pyproject.toml and the package say the same."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == hctef.__version__
