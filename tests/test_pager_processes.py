"""The pager's processes: what dies, what fails, what ends.

Each test has its program (`pager_programs.py`), which touches pages in a process of its own; servers are others."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import trustme

import hctef
from tests import pager_programs
from tests.helpers import by_fault, pattern, wait_until
from tests.nginx_server import NginxServer
from tests.pager_programs import children, descriptors, helpers, pair, state
from tests.range_server_process import ROOT, RangeServerProcess

pytestmark = by_fault

SIZE = 4 * 1024 * 1024 + 1232
MODES = pytest.mark.parametrize("mode", ["", "user-mode-only"], ids=["full", "user-mode-only"])


class Program:
    """One of `pager_programs`, while it runs."""

    def __init__(self, name: str, *arguments: object, env: dict[str, str] | None = None, **popen: Any) -> None:
        command = popen.pop("command", [sys.executable, "-m", "tests.pager_programs"])
        options: Any = {"cwd": ROOT, "env": {**os.environ, **(env or {})}, "stderr": subprocess.PIPE} | popen
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [*command, name, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
        )
        self.pid = self.process.pid
        self._said = b""

    def hears(self) -> str:
        """The next line of its stdout."""
        assert self.process.stdout is not None
        while b"\n" not in self._said:
            assert select.select([self.process.stdout], [], [], 60)[0], "it says nothing"
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise AssertionError(f"it ended: {self.process.communicate()[1].decode()}")
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def tell(self, word: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def complains(self, *words: str) -> str:
        """Wait for a line on its stderr that has these words."""
        assert self.process.stderr is not None
        while True:
            assert select.select([self.process.stderr], [], [], 60)[0], "it complains of nothing"
            line: str = self.process.stderr.readline().decode()
            assert line, "it ended"
            if all(word in line for word in words):
                return line

    def ends(self) -> tuple[int, str]:
        """How it ended, and what is left of its stderr."""
        errors = self.process.communicate(timeout=60)[1] or b""
        return self.process.returncode, errors.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with contextlib.suppress(ValueError):  # closed pipes
            self.process.communicate()


def answer(name: str, *arguments: object, env: dict[str, str] | None = None, **popen: Any) -> Any:
    """What a program says last. It must end well, and complain of nothing."""
    with Program(name, *arguments, env=env, **popen) as program:
        output, errors = program.process.communicate(timeout=60)
        assert (program.process.returncode, errors.decode()) == (0, "")
        line = output.decode().splitlines()[-1]
        return json.loads(line) if line[0] in "[{" else line


@pytest.fixture(scope="module")
def url(nginx: NginxServer) -> str:
    return nginx.add("paged.bin", pattern(SIZE))


@pytest.fixture
def server() -> Iterator[RangeServerProcess]:
    with RangeServerProcess() as found:
        yield found


# what dies


class Stress:
    """`pager_programs.stress`, and how far it is."""

    def __init__(self, url: str, path: Path, kind: str, mode: str) -> None:
        path.write_bytes(bytes(64))
        self._count = np.memmap(path, "<u8", "r", shape=(4, 2))
        self.program = Program("stress", url, SIZE, path, kind, env={"HCTEF_PAGING": mode})
        self.program.hears()

    def goes_on(self) -> None:
        """Each of its threads reads on."""
        before = self._count.sum(axis=1).copy()
        wait_until(lambda: bool((self._count.sum(axis=1) > before).all()), 60)
        assert not self._count[:, 1].any()

    def ends(self) -> None:
        """Each word that it read was right."""
        self.program.tell()
        good, bad = json.loads(self.program.hears())
        assert bad == 0
        assert good > 0
        assert self.program.ends()[0] == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.program.__exit__()


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@MODES
@pytest.mark.parametrize("kind", ["gather", "compare"])
def test_two_hundred_workers_die(url: str, tmp_path: Path, mode: str, kind: str) -> None:
    """Whoever reads, and holds the GIL or not, reads the right bytes, while extents are evicted too."""
    rng = random.Random(1)
    with Stress(url, tmp_path / "count", kind, mode) as stress:
        for _ in range(50):  # in each mode, with the GIL and without
            kill(pair(stress.program.pid)[1])
            time.sleep(rng.random() * 0.02)
        stress.goes_on()
        stress.ends()


@MODES
def test_supervisors_die(url: str, tmp_path: Path, mode: str) -> None:
    """Reading goes on; another supervisor comes, and survives its worker's death as the first would have."""
    with Stress(url, tmp_path / "count", "gather", mode) as stress:
        for _ in range(3):
            old = pair(stress.program.pid)
            kill(old[0])
            stress.goes_on()
            wait_until(lambda old=old: pair(stress.program.pid)[0] != old[0])  # type: ignore[misc]
            wait_until(lambda old=old: not state(old[1]))  # type: ignore[misc]
            kill(pair(stress.program.pid)[1])
            stress.goes_on()
        stress.ends()


@MODES
def test_both_die_at_once(url: str, tmp_path: Path, mode: str) -> None:
    """Where no thread holds the GIL in a fault, the client starts others, and all that was not answered is."""
    with Stress(url, tmp_path / "count", "compare", mode) as stress:
        for _ in range(5):
            kill(*pair(stress.program.pid))
            stress.goes_on()
        stress.ends()


def test_helpers_end_with_their_process(url: str, tmp_path: Path) -> None:
    """However it ends."""
    with Stress(url, tmp_path / "count", "gather", "") as stress:
        found = pair(stress.program.pid)
        kill(stress.program.pid)
        wait_until(lambda: not any(state(pid) not in ("", "Z") for pid in found))


def test_ctrl_c_is_not_for_helpers(url: str, tmp_path: Path) -> None:
    """SIGINT goes to the process group of a terminal, or of a notebook's kernel."""
    with Program("touch_once", url, SIZE, start_new_session=True) as program:
        program.hears()
        found = pair(program.pid)
        for pid in found:
            assert os.getsid(pid) == found[0]
            os.kill(pid, signal.SIGINT)
        program.tell()
        assert program.hears() == "True"
        assert program.ends()[0] == 0


@MODES
def test_signals_to_blocked_threads(url: str, mode: str) -> None:
    """Each queues the thread's fault again; the bytes are right, and Python's handlers run."""
    assert answer("interrupted", url, SIZE, env={"HCTEF_PAGING": mode}) == [True, True]


def test_a_hold_outlives_workers(url: str) -> None:
    """What view() shows stays in memory under a bound, is good for a system call in user-mode-only, and is let go."""
    assert answer("holds", url, SIZE, env={"HCTEF_PAGING": "user-mode-only"}) == "good"


# the network


def test_a_server_that_is_away_is_waited_for(server: RangeServerProcess) -> None:
    """As on a hard-mounted NFS: stderr says so, again and again, and when it is back the thread goes on."""
    url = server.add("f", SIZE)
    with Program("touch_once", f"{url}?token=SECRET", SIZE) as program:
        program.hears()
        server.down()
        program.tell()
        for _ in range(2):
            line = program.complains("waiting for", "Connection refused")
            assert f"[{SIZE // 2 // 4096 * 4096}, {SIZE // 2 // 4096 * 4096 + 4096})" in line
            assert "SECRET" not in line
        server.up()
        assert program.hears() == "True"
        assert program.ends()[0] == 0


def test_what_has_come_is_told_while_more_comes(server: RangeServerProcess) -> None:
    """Not when a connection has nothing more to bring, which may be as long as its reader goes on."""
    url = server.add("f", 1 << 22)
    with hctef.RemoteBuffer(url, paging="fault") as buf, memoryview(buf):
        before = buf.stats.bytes_fetched
        server.do("server.behave('f', trickle(1 << 20))")
        buf.prefetch([(0, 1 << 22)], wait=False)
        wait_until(lambda: buf.stats.bytes_fetched > before and buf.resident_bytes > 0)
        assert buf.stats.bytes_fetched - before < 3 << 20


@pytest.mark.parametrize("failure", ["refused", "404", "403", "503", "hang_up"])
def test_past_the_timeout_a_touch_is_a_bus_error(server: RangeServerProcess, failure: str) -> None:
    """After a line that names the bytes, the URL without its query's values, and why."""
    url = server.add("f", SIZE)
    with Program("touch_once", f"{url}?token=SECRET", SIZE, env={"FAULT_TIMEOUT": "0.7"}) as program:
        program.hears()
        if failure == "refused":
            server.down()
        else:
            server.do(f"server.behave('f', {failure if failure == 'hang_up' else f'status({failure})'})")
        program.tell()
        why = {"refused": "Connection refused", "hang_up": "connection broke"}.get(failure, failure)
        at = SIZE // 2 // 4096 * 4096
        line = program.complains("gave up", "SIGBUS", why, f"[{at}, {at + 4096})", f"127.0.0.1:{server.port}/f?token=")
        assert "SECRET" not in line
        assert program.ends()[0] == -signal.SIGBUS


def test_after_a_bus_error(server: RangeServerProcess) -> None:
    """A call in words raises as long as the server fails, then brings the bytes, for touches too."""
    url = server.add("f", SIZE)
    with Program("poisoned", url, SIZE) as program:
        program.hears()
        server.do("server.behave('f', status(503))")
        program.tell()
        assert program.hears() == str(-signal.SIGBUS)
        assert program.hears() == "HctefNetworkError"
        program.hears()
        server.do("server.behave('f')")
        program.tell()
        assert program.hears() == "[True, True, 0]"
        assert program.ends()[0] == 0


def test_a_file_that_changed_is_a_failure_at_once(server: RangeServerProcess) -> None:
    """RemoteFileChangedError of calls, SIGBUS of touches, though the timeout is far away; never bytes of both."""
    url = server.add("f", SIZE)
    with Program("changed", url, SIZE) as program:
        assert program.hears() == "True"
        server.add("f", SIZE, 5, etag='"v2"')
        program.tell()
        for _ in range(4):
            assert program.hears() == "changed"
        program.complains("gave up", "SIGBUS", "not the one that was opened")
        assert program.ends()[0] == -signal.SIGBUS


@pytest.mark.filterwarnings("ignore")
def test_errors_in_words_are_the_same(server: RangeServerProcess) -> None:
    """Class, message and status of what calls raise, whoever it is that fetches."""
    url = server.add("f", SIZE)
    with Program("same_errors", url, SIZE) as program:
        program.hears()
        for behaviour in (
            "status(404)",
            "status(403)",
            "status(503)",
            "status(418)",
            "ignore_range",
            "etag('\"v2\"')",
            "shift(8192)",
            "hang_up",
            "header('Content-Encoding', 'gzip')",
        ):
            server.do(f"server.behave('f', {behaviour})")
            program.tell()
            while (line := program.hears()) != "done":
                fill, fault = json.loads(line)
                # Two policies may ask for more or less around the same bytes; aiohttp has names of its own.
                differing = re.compile(r"\[\d+, \d+\)|\((Server|Remote)Disconnected(Error)?\)")
                fill, fault = ([differing.sub("…", part) for part in outcome] for outcome in (fill, fault))
                assert fill == fault, behaviour
                assert fill[0] != "nothing was raised"
        server.do("server.behave('f')")


# lives


def test_helpers_live_as_long_as_mappings(url: str) -> None:
    """Opening, slicing and view() start none; views keep them over close(); they end, and start anew."""
    assert answer("lives", url, SIZE) == "good"


def test_nothing_leaks(url: str) -> None:
    """No descriptor, thread or process, here or there."""
    assert answer("rounds", url, SIZE) == "good"


def test_garbage_in_any_order(url: str) -> None:
    """Whatever is let go first, the rest reads on, and at last all is gone."""
    assert answer("orders", url, SIZE) == "good"


def test_the_interpreter_ends_with_live_views(url: str) -> None:
    """Without a word, and the helpers with it."""
    found = answer("ends_with_views", url, SIZE)
    wait_until(lambda: not any(map(state, found)))


def test_the_interpreter_ends_while_a_thread_is_blocked(server: RangeServerProcess) -> None:
    """Nobody waits for the page any longer."""
    url = server.add("f", SIZE)
    with Program("ends_while_blocked", url, SIZE) as program:
        program.hears()
        server.do("server.behave('f', slow(30))")
        program.tell()
        wait_until(lambda: len(server.log) > 1)
        program.tell()
        found = json.loads(program.hears())
        assert program.ends() == (0, "")
        wait_until(lambda: not any(map(state, found)))


def test_a_program_that_waits_for_all_children(url: str) -> None:
    """waitpid(-1) in a SIGCHLD handler, SIG_IGN, and subprocess: helpers come and go beside them."""
    assert answer("waits_for_all", url, SIZE) == "good"


@pytest.mark.parametrize("redirections", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(url: str, tmp_path: Path, redirections: str) -> None:
    """Their numbers are other files' then; nobody writes to those, or closes them."""
    path = tmp_path / "answer"
    command = ["sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "tests.pager_programs"]
    with Program("reads", url, SIZE, path, command=command) as program:
        assert program.ends()[0] == 0
    assert json.loads(path.read_text())[0]


def test_the_working_directory_is_gone(url: str, tmp_path: Path) -> None:
    """As after `cd build; rm -r ../build`."""
    (tmp_path / "gone").mkdir()
    assert answer("without_directory", url, SIZE, tmp_path / "gone") == "True"


def test_the_package_is_found_where_the_program_found_it(url: str, tmp_path: Path) -> None:
    """By PYTHONPATH, in another working directory, by -c and by a script: never another copy that is installed."""
    home = tmp_path / "path"
    shutil.copytree(ROOT / "hctef", home / "hctef", ignore=shutil.ignore_patterns("__pycache__"))
    mark = tmp_path / "mark"
    with (home / "hctef/pager/supervisor.py").open("a") as module:
        module.write(f"\nopen({str(mark)!r}, 'a').write('here ')\n")
    program = f"""
import sys, hctef, numpy
assert hctef.__file__.startswith({str(home)!r})
print(numpy.frombuffer(hctef.RemoteBuffer({url!r}, paging='fault'), 'u1')[1000])
"""
    script = tmp_path / "script.py"
    script.write_text(program)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(home)}
    for arguments in (["-c", program], [script]):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        assert (done.stdout.strip(), done.stderr) == (str(pattern(1001)[1000]), "")
    assert mark.read_text() == "here here "


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_of_multiprocessing(url: str, method: str) -> None:
    """With buffers of their own and with unpickled ones, beside the parent's."""
    assert answer("spawned", url, SIZE, method) == [True, True]


def test_tls_headers_pool_and_secrets(ca: trustme.CA, ca_file: Path, tmp_path: Path) -> None:
    """The helpers trust whom the program trusts, send what it sends, and show no credential to others."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued = ca.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    relative = os.path.relpath(ca_file, ROOT)
    with RangeServerProcess((certificate, key)) as server:
        url = server.add("f", SIZE).replace("https://", "https://user:SECRET@") + "?key=SECRET"
        for env in ({"SSL_CERT_FILE": str(ca_file)}, {"SSL_CERT_FILE": relative}, {"POOL": relative}):
            secret = {"HEADERS": '{"X-Token": "SECRET"}'} if "POOL" not in env else {}
            good, seen, _ = answer("reads", url, SIZE, env=env | secret)
            assert good
            assert seen == bool(secret)  # there it is in the program's own environment, which they have too
        agents = [request["headers"] for request in server.log]
        assert all("authorization" in headers for headers in agents)
        assert sum(headers.get("x-token") == "SECRET" for headers in agents) > 4


def test_proxies_of_the_environment(server: RangeServerProcess) -> None:
    """Are asked by the helpers too."""
    server.add("f", SIZE)
    server.do("server.files.update({'http://example.test/f': server.files['f']})")
    proxy = {"http_proxy": f"http://127.0.0.1:{server.port}"}
    assert answer("reads", "http://example.test/f", SIZE, env=proxy)[0]
    assert {request["target"] for request in server.log} == {"http://example.test/f"}


def test_callables_are_for_this_process_only(url: str) -> None:
    """'auto' fills; 'fault' says that the callable is why it cannot be."""
    first, url_words, second, header_words = answer("without_buffering", url, SIZE)
    assert first == second == ["fill", True]
    assert "url is a callable" in url_words
    assert "headers is a callable" in header_words


# at once


def test_close_ends_waits(server: RangeServerProcess) -> None:
    """ValueError, as of any closed file, for each that waits in words; views read on."""
    url = server.add("f", SIZE)
    with Program("closes", url, SIZE) as program:
        program.hears()
        server.do("server.behave('f', slow(3))")
        program.tell()
        wait_until(lambda: len(server.log) > 1)
        server.do("server.behave('f')")
        program.tell()
        outcomes = json.loads(program.hears())
        assert len(outcomes) == 4
        assert {"closed" in outcome for outcome in outcomes} == {True}
        program.tell()
        assert program.hears() == "True"
        assert program.ends()[0] == 0


def test_a_cancelled_task_harms_nobody(server: RangeServerProcess) -> None:
    """The other that waits for the same bytes has them, and so has who asks again."""
    url = server.add("f", SIZE)
    with Program("cancels", url, SIZE) as program:
        program.hears()
        server.do("server.behave('f', times(1, slow(1)))")
        count = len(server.log)
        program.tell()
        wait_until(lambda: len(server.log) > count)
        program.tell()
        program.hears()
        assert json.loads(program.hears()) == [True, True, True, True]
        assert program.ends()[0] == 0


def test_many_ranges_and_many_calls(url: str) -> None:
    """Of any number are cut into messages, and each is answered."""
    assert answer("floods", url, SIZE) == [True, True, True]


@MODES
def test_forks_while_threads_read(url: str, mode: str) -> None:
    """No lock is waited for in a circle, and each child reads the right bytes."""
    env = {"HCTEF_PAGING": mode, "PYTHONWARNINGS": "ignore"}
    assert answer("forks_while_reading", url, SIZE, env=env) == [True, True, True]


# trouble


def test_the_client_fails(url: str) -> None:
    """An exception that nobody thought of is told, and nobody waits for ever."""
    with Program("client_fails", url, SIZE) as program:
        lines = list(iter(program.hears, "good"))
        code, errors = program.ends()
        assert code == 0
        assert errors.count("ZeroDivisionError: in") == 4
        assert all("the pager's client failed" in line for line in lines)


def test_helpers_that_cannot_be_started(url: str) -> None:
    """PagerError, or filled instead."""
    with Program("cannot_start", url, SIZE) as program:
        assert "ended at once" in program.hears()
        assert program.hears() == "['fault', True]"
        assert program.ends()[0] == 0


def test_helpers_that_cannot_be_started_again(url: str) -> None:
    """Calls raise PagerError until there are others; who touches waits, and stderr says why."""
    with Program("cannot_start_again", url, SIZE) as program:
        assert "the pager's process" in program.hears()
        assert program.hears() == "True"
        assert program.hears() == "True"
        code, errors = program.ends()
        assert code == 0
        assert "trying again" in errors


def test_a_worker_hears_nonsense() -> None:
    """Unknown words are answered with an error, what is no message ends the conversation, and no descriptor is kept."""
    code = "import sys; from hctef.pager.supervisor import main; main(int(sys.argv[1]))"
    from hctef.pager import wire  # Linux only

    mine, its = wire.pair()
    process = subprocess.Popen([sys.executable, "-c", code, str(its.fileno())], pass_fds=[its.fileno()])
    its.close()
    try:
        mine.settimeout(30)
        assert wire.receive(mine) == ({"ready": process.pid}, [])
        wait_until(lambda: bool(children(process.pid)))
        worker = children(process.pid)[0]
        numbers = itertools.count(1)

        def ask(message: dict[str, Any], *fds: int) -> dict[str, Any]:
            wire.send(mine, {**message, "id": next(numbers)}, fds)
            found = wire.receive(mine)
            assert found is not None
            return found[0]

        assert "knows no 'dance'" in ask({"op": "dance"})["message"]
        before = descriptors(worker)
        with socket.socket() as some:
            for message in (
                {"op": "dance"},
                {"op": "attach", "link": "a"},
                {"op": "attach", "link": "a", "url": 7},
                {"op": "read", "link": "b", "start": 0, "stop": 1, "hold": None},
                {"op": "read"},
                {"op": "evict", "link": 5},
                {},
            ):
                assert ask(message, some.fileno(), some.fileno(), some.fileno())["error"] == "PagerError"
        assert ask({"op": "detach", "link": "c"}) == {"id": next(numbers) - 1}
        assert descriptors(worker) == before
        for _ in range(20_000):  # nobody reads the answers
            try:
                mine.setblocking(False)
                wire.send(mine, {"op": "dance", "id": 1})
            except BlockingIOError:
                mine.settimeout(30)
                assert wire.receive(mine) is not None
        assert children(process.pid) == [worker]
        mine.setblocking(True)
        mine.send(b"{nonsense")
        assert process.wait(30) == 0
    finally:
        mine.close()
        process.kill()
        process.wait()


def test_programs_are_tested() -> None:
    """Each program has a test."""
    text = Path(__file__).read_text()
    names = [name for name, value in vars(pager_programs).items() if getattr(value, "__code__", None)]
    takes = [name for name in names if getattr(pager_programs, name).__code__.co_varnames[:2] == ("url", "size")]
    assert len(takes) > 20
    assert not [name for name in takes if f'"{name}"' not in text and name != "in_child"]
    assert helpers(os.getpid()) is None
