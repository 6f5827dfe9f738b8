"""Real clients over nginx: each gives over a URL what it gives over the local file."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import struct
import tarfile
import wave
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import feather

import hctef
from tests.helpers import pattern
from tests.nginx_server import NginxServer
from tests.range_server import RangeServer, status

RANDOM = np.random.default_rng(7)


def magic(file: BinaryIO) -> bytes:
    """As users annotate their functions: mypy looks at the call."""
    return file.read(6)


def test_it_is_an_open_file_to_type_checkers(range_server: RangeServer) -> None:
    with hctef.HttpFile(range_server.add("f", pattern(100))) as file:
        assert magic(file) == pattern(100)[:6]


@pytest.mark.parametrize("length", [0, 4, 21])
def test_what_is_too_short_for_its_format_is_told_as_of_a_local_file(range_server: RangeServer, length: int) -> None:
    """Libraries seek before the start then, and look for an OSError."""
    data = b"PK\3\4"[:length] + bytes(max(0, length - 4))
    with hctef.HttpFile(range_server.add("short", data)) as file:
        assert not zipfile.is_zipfile(file)
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the formats that users read."""
    folder = tmp_path_factory.mktemp("clients")
    np.save(folder / "a.npy", RANDOM.random((2000, 100), dtype="f4"))
    RANDOM.random(500_000, dtype="f4").tofile(folder / "raw.f4")
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(200):
            archive.writestr(f"dir/{n}.txt", f"member {n}\n" * (n * 20))
        archive.writestr("big.bin", pattern(1_000_000))
    with tarfile.open(folder / "a.tar", "w") as tar:
        tar.add(folder / "a.npy", "a.npy")
        tar.add(folder / "a.zip", "a.zip")
    with h5py.File(folder / "a.h5", "w") as h5:
        for n in range(10):
            h5.create_dataset(f"group{n}/data", data=RANDOM.random((300, 200)), chunks=(50, 50), compression="gzip")
        h5["group3"].attrs["unit"] = "K"
    numbers = {f"c{n}": RANDOM.random(50_000) for n in range(8)}
    table = pa.table(numbers | {"name": [f"n{i % 97}" for i in range(50_000)]})
    pq.write_table(table, folder / "a.parquet", row_group_size=10_000)
    feather.write_feather(table, folder / "a.arrow", compression="uncompressed")
    Image.fromarray(RANDOM.integers(0, 255, (300, 400, 3), dtype="u1")).save(folder / "a.png")
    Image.fromarray(RANDOM.integers(0, 255, (300, 400, 3), dtype="u1")).save(folder / "a.tiff")
    text = "".join(f"línea {n} — {'x' * (n % 50)}\n" for n in range(20_000)).encode()
    (folder / "a.txt").write_bytes(text)
    (folder / "a.txt.gz").write_bytes(gzip.compress(text))
    (folder / "a.txt.bz2").write_bytes(bz2.compress(text))
    (folder / "a.txt.xz").write_bytes(lzma.compress(text))
    with wave.open(str(folder / "a.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(pattern(160_000))
    return folder


@pytest.fixture
def remote(nginx: NginxServer, folder: Path) -> Any:
    """URL of a file of the folder."""
    return lambda name: nginx.add(f"clients-{name}", folder / name)


def opened(url: str) -> Any:
    """An HttpFile, for those whose annotations ask for typing.IO, which no io.BufferedIOBase is."""
    return hctef.HttpFile(url)


def test_zipfile(remote: Any, folder: Path) -> None:
    """The directory, and members, compressed and all."""
    with zipfile.ZipFile(hctef.HttpFile(remote("a.zip"))) as there, zipfile.ZipFile(folder / "a.zip") as here:
        assert there.namelist() == here.namelist()
        assert there.testzip() is None
        assert there.read("dir/77.txt") == here.read("dir/77.txt")
        with there.open("big.bin") as member:
            member.seek(500_000)
            assert member.read(100) == pattern(1_000_000)[500_000:500_100]


def test_tarfile(remote: Any, folder: Path) -> None:
    """A member of an uncompressed archive."""
    with tarfile.open(fileobj=hctef.HttpFile(remote("a.tar"))) as tar:
        assert tar.getnames() == ["a.npy", "a.zip"]
        member = tar.extractfile("a.zip")
        assert member is not None
        assert member.read() == (folder / "a.zip").read_bytes()


def test_h5py(remote: Any, folder: Path) -> None:
    """Compressed chunks and attributes."""
    with h5py.File(hctef.HttpFile(remote("a.h5")), "r") as there, h5py.File(folder / "a.h5", "r") as here:
        assert np.array_equal(there["group3/data"][10:80, 20:90], here["group3/data"][10:80, 20:90])
        assert there["group3"].attrs["unit"] == "K"
        assert list(there) == list(here)


def test_parquet(remote: Any, folder: Path) -> None:
    """Columns of a table."""
    there = pq.read_table(hctef.HttpFile(remote("a.parquet")), columns=["c2", "name"])
    assert there.equals(pq.read_table(folder / "a.parquet", columns=["c2", "name"]))


def test_arrow_ipc_by_buffer_and_by_file(remote: Any, folder: Path) -> None:
    """`pa.py_buffer(RemoteBuffer(url))` and the file interface."""
    here = pa.ipc.open_file(folder / "a.arrow").read_all()
    assert pa.ipc.open_file(pa.py_buffer(hctef.RemoteBuffer(remote("a.arrow")))).read_all().equals(here)
    assert pa.ipc.open_file(hctef.HttpFile(remote("a.arrow"))).read_all().equals(here)


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_pillow(remote: Any, folder: Path, name: str) -> None:
    """Pixels."""
    with Image.open(opened(remote(name))) as there, Image.open(folder / name) as here:
        assert np.array_equal(np.asarray(there), np.asarray(here))


def test_numpy(remote: Any, folder: Path) -> None:
    """np.load and np.fromfile's forms, np.frombuffer, np.ndarray, over the same bytes."""
    here = np.load(folder / "a.npy")
    assert np.array_equal(np.load(hctef.HttpFile(remote("a.npy"))), here)
    raw = np.fromfile(folder / "raw.f4", "<f4")
    with hctef.RemoteBuffer(remote("raw.f4")) as buf:
        assert np.array_equal(np.frombuffer(buf, "<f4"), raw)
        assert np.array_equal(np.ndarray((500, 1000), "<f4", buffer=buf), raw.reshape(500, 1000))
        assert np.array_equal(buf.array("<f4", (10, 10), offset=4000), raw[1000:1100].reshape(10, 10))


@pytest.mark.parametrize(("suffix", "opener"), [("gz", gzip.open), ("bz2", bz2.open), ("xz", lzma.open)])
def test_decompressors(remote: Any, folder: Path, suffix: str, opener: Any) -> None:
    """They read, seek and iterate over lines."""
    text = (folder / "a.txt").read_bytes()
    with hctef.HttpFile(remote(f"a.txt.{suffix}")) as file, opener(file) as stream:
        assert stream.readline() == text.splitlines(keepends=True)[0]
        stream.seek(100_000)
        assert stream.read() == text[100_000:]


def test_io_wrappers(remote: Any, folder: Path) -> None:
    """TextIOWrapper, BufferedReader, copyfileobj and wave."""
    text = (folder / "a.txt").read_bytes()
    with io.TextIOWrapper(hctef.HttpFile(remote("a.txt")), "utf-8") as stream:
        assert stream.read() == text.decode()
    with io.BufferedReader(hctef.HttpFile(remote("a.txt"), prefetch_bytes=0)) as buffered:
        assert buffered.peek(5)[:5] == text[:5]
        assert list(buffered) == text.splitlines(keepends=True)
    target = io.BytesIO()
    with hctef.HttpFile(remote("a.txt"), prefetch_bytes=0) as file:
        shutil.copyfileobj(file, target)
        assert file.stats.requests < 30  # a sequential reader is read ahead for
    assert target.getvalue() == text
    with wave.open(opened(remote("a.wav"))) as sound:
        assert sound.readframes(80_000) == pattern(160_000)


def test_buffer_clients(remote: Any, folder: Path) -> None:
    """struct, re, hashlib and zlib over the buffer."""
    text = (folder / "a.txt").read_bytes()
    with hctef.RemoteBuffer(remote("a.txt")) as buf:
        assert struct.unpack_from("<IHB", buf, 1001) == struct.unpack_from("<IHB", text, 1001)
        assert hashlib.sha256(buf).digest() == hashlib.sha256(text).digest()
        assert zlib.crc32(buf) == zlib.crc32(text)
        found = [[m.start() for m in re.finditer(rb"nea 19\d\d ", where)] for where in (buf, text)]
        assert found[0] == found[1] != []
    with hctef.HttpFile(remote("a.txt")) as file:
        assert hashlib.file_digest(file, "md5").digest() == hashlib.md5(text).digest()


def test_copy_to(remote: Any, folder: Path, tmp_path: Path) -> None:
    """The whole file on disk, and nothing beside it."""
    with hctef.HttpFile(remote("a.zip")) as file:
        file.copy_to(tmp_path / "copy.zip")
        assert file.stats.bytes_fetched == file.size
    assert (tmp_path / "copy.zip").read_bytes() == (folder / "a.zip").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["copy.zip"]


def test_copy_to_follows_a_symlink(remote: Any, folder: Path, tmp_path: Path) -> None:
    """The link stays, and its target is what is written, with the permissions that it had; it may be new."""
    (tmp_path / "there").mkdir()
    old, new = tmp_path / "there" / "old", tmp_path / "there" / "new"
    old.write_text("old")
    old.chmod(0o640)
    expected = (folder / "a.zip").read_bytes()
    with hctef.HttpFile(remote("a.zip")) as file:
        for target in (old, new):
            link = tmp_path / f"to {target.name}"
            link.symlink_to(Path("there") / target.name)
            file.copy_to(link)
            assert link.is_symlink()
            assert target.read_bytes() == expected
    assert old.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["new", "old"]


def test_copy_to_takes_paths_as_open_does(
    remote: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of bytes, and relative ones; long names too."""
    monkeypatch.chdir(tmp_path)
    with hctef.HttpFile(remote("a.zip")) as file:
        for path in (os.fsencode(tmp_path / "bytes"), "relative", "n" * 255):
            file.copy_to(path)
            assert Path(os.fsdecode(path)).read_bytes() == (folder / "a.zip").read_bytes()
        bad: Any
        for bad in (None, 1):
            with pytest.raises(TypeError):
                file.copy_to(bad)


def test_copy_to_replaces_regular_files_only(remote: Any, tmp_path: Path) -> None:
    """What else is there stays, and the error names the path that was given."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to a folder").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    cases: list[tuple[str, type[OSError], int]] = [
        ("fifo", OSError, errno.EINVAL),
        ("", IsADirectoryError, errno.EISDIR),
        ("to a folder", IsADirectoryError, errno.EISDIR),
        ("loop", OSError, errno.ELOOP),
        ("no folder/x", FileNotFoundError, errno.ENOENT),
        ("new/", FileNotFoundError, errno.ENOENT),
        ("fifo/x", NotADirectoryError, errno.ENOTDIR),
    ]
    with hctef.HttpFile(remote("a.zip")) as file:
        for name, kind, number in cases:
            path = f"{tmp_path}/{name}"
            with pytest.raises(kind) as caught:
                file.copy_to(path)
            assert (caught.value.errno, caught.value.filename) == (number, path)
            assert caught.value.filename2 is None
        with pytest.raises(FileNotFoundError):
            file.copy_to("")
    assert sorted(tmp_path.iterdir()) == before


def test_copy_to_that_fails_leaves_nothing(range_server: RangeServer, tmp_path: Path) -> None:
    """The network's error stays what it is, and what was there before stays too."""
    url = range_server.add("f", pattern(300_000))
    (tmp_path / "old").write_text("old")
    with hctef.HttpFile(url, prefetch_bytes=0, retries=0) as file:
        range_server.behave("f", status(500))
        for name in ("old", "new"):
            with pytest.raises(hctef.HctefNetworkError, match="status 500"):
                file.copy_to(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"
