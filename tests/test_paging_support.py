"""Where demand paging is not to be had: the reason in words, and all else as elsewhere."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hctef
from hctef import _paging
from hctef.exceptions import PagerError
from tests import sandbox
from tests.helpers import by_fault, needs_address_space, pattern
from tests.nginx_server import NginxServer

ROOT = Path(__file__).parents[1]
DATA = pattern(300_000)

LOOK = """
import json, sys
import numpy as np
import hctef
support = hctef.paging_support()
with hctef.RemoteBuffer(sys.argv[1]) as buf:
    array = np.frombuffer(buf, "u1")
    total = int(array.sum(dtype="u8"))
    found = [support.available, support.mode, support.reason, buf.paging, buf.resident_bytes, total]
try:
    hctef.RemoteBuffer(sys.argv[1], paging="fault").close()
    found.append("")
except hctef.PagerError as error:
    found.append(str(error))
print(json.dumps(found))
"""


@pytest.fixture(autouse=True)
def _asked_anew() -> Any:
    """Each test's answer is its own."""
    _paging._probe.cache_clear()
    yield
    _paging._probe.cache_clear()


def sandboxed(kind: str, *arguments: str) -> str:
    """What Python prints in a sandbox."""
    if (why := sandbox.why_not(kind)) is not None:
        pytest.skip(why)
    done = subprocess.run(
        sandbox.command(kind, arguments), capture_output=True, text=True, check=False, cwd=ROOT, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        pytest.param("eperm", r"userfaultfd: EPERM: .*not permitted.*seccomp", marks=needs_address_space),
        pytest.param("enosys", r"userfaultfd: ENOSYS: .*not implemented", marks=needs_address_space),
        ("ulimit", r"1 TiB of address space.*ulimit -v is 8388608 KiB"),
    ],
)
def test_views_are_filled_where_userfaultfd_is_refused(nginx: NginxServer, kind: str, words: str) -> None:
    """The reason is said where it is asked for, and where paging by fault was."""
    url = nginx.add("refused", DATA)
    available, mode, reason, paging, resident, total, error = json.loads(sandboxed(kind, "-c", LOOK, url))
    assert not available
    assert mode is None
    assert re.search(words, reason)
    assert paging == "fill"
    assert resident == len(DATA)
    assert total == np.frombuffer(DATA, "u1").sum(dtype="u8")
    assert reason in error


@by_fault
def test_an_unprivileged_user_pages_in_user_mode(nginx: NginxServer) -> None:
    """No right is needed, where vm.unprivileged_userfaultfd and /dev/userfaultfd are as kernels come."""
    url = nginx.add("unprivileged", DATA)
    available, mode, reason, paging, _, total, error = json.loads(sandboxed("nobody", "-B", "-c", LOOK, url))
    if Path("/proc/sys/vm/unprivileged_userfaultfd").read_text() == "0\n":
        assert mode == "user-mode-only"
        assert "EFAULT" in reason
    assert available
    assert paging == "fault"
    assert total == np.frombuffer(DATA, "u1").sum(dtype="u8")
    assert error == ""


@pytest.mark.parametrize(
    ("kind", "files"),
    [("eperm", ["tests/test_clients.py", "tests/test_lifecycle.py"]), ("ulimit", ["tests/test_clients.py"])],
)
def test_the_clients_work_all_the_same(kind: str, files: list[str]) -> None:
    """The tests with real clients and those of lifetimes pass where demand paging is not to be had."""
    arguments = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *files,
        "-k",
        "not fork and not ctrl_c and not closing_stops and not threads_of_transfers",
    ]  # they take seconds
    assert re.search(r"\d+ passed", sandboxed(kind, *arguments))


@pytest.mark.parametrize(
    ("wish", "words"), [("fill", "HCTEF_PAGING=fill"), ("falut", "'falut'"), ("user-mode-only", "EFAULT")]
)
def test_the_environment_may_wish(monkeypatch: pytest.MonkeyPatch, wish: str, words: str) -> None:
    """HCTEF_PAGING asks for less than there is; a word that it does not know is no demand paging."""
    if wish == "user-mode-only" and not hctef.paging_support():
        pytest.skip(hctef.paging_support().reason)
    monkeypatch.setenv("HCTEF_PAGING", wish)
    support = hctef.paging_support()
    assert support.mode == (wish if wish == "user-mode-only" else None)
    assert bool(support) == support.available == (support.mode is not None)
    assert words in support.reason


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize(
    ("target", "value", "words"),
    [
        ("sys.platform", "darwin", "darwin has no userfaultfd"),
        ("sys.executable", "", "no Python interpreter"),
        ("sys.executable", None, "no Python interpreter"),
        ("os.memfd_create", None, "memfd_create"),
        ("os.pidfd_open", None, "pidfd_open"),
        pytest.param("hctef._uffd.open_uffd", refuse, "EACCES: Permission denied", marks=needs_address_space),
    ],
)
def test_what_else_may_be_missing(monkeypatch: pytest.MonkeyPatch, target: str, value: Any, words: str) -> None:
    """Another system, a program that embeds Python, an old Python: the reason says which."""
    if sys.platform != "linux":
        pytest.skip("Linux only")
    if value is None and target.startswith("os."):
        monkeypatch.delattr(target, raising=False)
    else:
        monkeypatch.setattr(target, value)
    assert not hctef.paging_support()
    assert words in hctef.paging_support().reason


def test_a_frozen_program_cannot_start_the_pager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its executable is the program itself."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not hctef.paging_support()


def test_a_kernel_without_shared_memory_in_userfaultfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 4.11."""
    if not hctef.paging_support():
        pytest.skip(hctef.paging_support().reason)
    _paging._probe.cache_clear()
    monkeypatch.setattr("hctef._uffd._offered", lambda _: 0)
    assert "does not know shared memory" in hctef.paging_support().reason


def test_the_reason_stands_in_the_error_of_a_view_that_is_too_large(
    nginx: NginxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do instead; a part can be had."""
    url = nginx.add("too-large", DATA)
    with hctef.RemoteBuffer(url, paging="fill", max_export_bytes=1000) as buf:
        with pytest.raises(BufferError, match=r"paging is 'fill'\): take buf\.view\(a, b\)"):
            memoryview(buf)
        assert buf.view(5, 1000) == DATA[5:1000]
    with (
        hctef.RemoteBuffer(lambda: url, max_export_bytes=1000) as buf,
        pytest.raises(BufferError, match="url is a callable" if hctef.paging_support() else "not by fault"),
    ):
        memoryview(buf)
    monkeypatch.setenv("HCTEF_PAGING", "fill")
    with (
        hctef.RemoteBuffer(url, max_export_bytes=1000) as buf,
        pytest.raises(BufferError, match="HCTEF_PAGING=fill"),
    ):
        memoryview(buf)
    with pytest.raises(PagerError, match="HCTEF_PAGING=fill"):
        hctef.RemoteBuffer(url, paging="fault")


def test_what_is_resident_needs_no_leave(nginx: NginxServer) -> None:
    """max_export_bytes bounds what a view makes somebody wait for."""
    with hctef.RemoteBuffer(nginx.add("resident", DATA), paging="fill", max_export_bytes=1000) as buf:
        buf.prefetch([(0, len(DATA))])
        assert memoryview(buf) == DATA
