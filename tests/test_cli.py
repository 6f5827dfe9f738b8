"""The command line where its arguments or its surroundings are wrong."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

import pytest

from hctef import _demo, cli
from hctef._serve import background_server
from tests.helpers import pattern
from tests.range_server import RangeServer, ignore_range


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


def test_a_header_without_a_colon_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """It may be a token."""
    assert cli.main(["info", "http://127.0.0.1:1/f", "-H", "SECRET"]) == 1
    assert "SECRET" not in capsys.readouterr().err


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_serve_refuses_a_port_that_is_none(tmp_path: Path, port: str) -> None:
    """As wrong usage."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", str(tmp_path), f"--port={port}"])
    assert caught.value.code == 2


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


def test_demo_without_aiohttp_makes_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what to install first."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ImportError):
        _demo.run(tmp_path, print)
    assert cli.main(["demo", "--keep", str(tmp_path)]) == 1
    assert "pip install 'hctef[async]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
