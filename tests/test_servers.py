"""What servers do wrong, and what hctef does about it: a test for each row, with a server that really does it."""

from __future__ import annotations

import email.utils
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import urllib3

import hctef
from tests.helpers import pattern, wait_until
from tests.range_server import (
    Behaviour,
    Gate,
    RangeServer,
    Reply,
    Request,
    after,
    chunked,
    clamp,
    cut,
    early_hints,
    etag,
    expects,
    expires,
    extra,
    hang_up,
    header,
    hide_total,
    ignore_range,
    longer,
    redirect,
    shift,
    slow,
    stale,
    status,
    times,
    trickle,
    until_close,
    when,
)

MIB = 1 << 20
SIZE = 300_000
DATA = pattern(SIZE)
NOW = urllib3.Retry(total=5, backoff_factor=0)


@pytest.fixture
def url(range_server: RangeServer) -> str:
    return range_server.add("f", DATA)


def opened(url: str, **options: Any) -> hctef.HttpFile:
    return hctef.HttpFile(url, **{"prefetch_bytes": 0, "retries": NOW, **options})


def check_all(file: hctef.HttpFile) -> None:
    """Every byte, through the cache."""
    file.seek(0)
    assert file.read() == DATA


# 200 to a Range request


@pytest.mark.parametrize("direction", ["END", "START"])
def test_a_200_is_never_taken_for_the_slice(range_server: RangeServer, url: str, direction: Any) -> None:
    """RangeRequestsUnsupportedError, and the body is not read to its end."""
    big = range_server.add("big", bytes(64 << 20))
    range_server.behave("big", ignore_range)
    with pytest.raises(hctef.RangeRequestsUnsupportedError, match="on_no_range='download'") as caught:
        opened(big, prefetch_direction=direction)
    assert caught.value.reason == "no-range-support"
    assert caught.value.status == 200
    assert range_server.bytes_sent < 32 << 20


def test_a_200_in_the_middle_is_an_error(range_server: RangeServer, url: str) -> None:
    """So is one after a good opening."""
    range_server.behave("f", after(1, ignore_range))
    with opened(url) as file, pytest.raises(hctef.RangeRequestsUnsupportedError) as caught:
        file.read(10)
    assert caught.value.reason == "no-range-support"


@pytest.mark.parametrize("spoil", [[], [chunked], [times(3, cut(100_000))], [chunked, times(3, cut(100_000))]])
def test_the_whole_stream_where_it_is_wished(range_server: RangeServer, url: str, spoil: list[Behaviour]) -> None:
    """on_no_range='download', with and without a Content-Length, cut in the middle or not."""
    range_server.behave("f", ignore_range, *spoil)
    with opened(url, on_no_range="download") as file:
        assert file.size == SIZE
        requests = range_server.requests
        check_all(file)
        file.evict()
        check_all(file)
        assert range_server.requests == requests


def test_a_download_keeps_to_the_bound(range_server: RangeServer, url: str) -> None:
    """What could not be evicted is not fetched."""
    range_server.behave("f", ignore_range)
    with pytest.raises(hctef.RangeRequestsUnsupportedError, match="max_resident_bytes"):
        opened(url, on_no_range="download", max_resident_bytes=100_000)


# headers that lie or are missing


def test_accept_ranges_is_not_needed(range_server: RangeServer, url: str) -> None:
    """A 206 is believed, never the header."""
    range_server.behave("f", header("Accept-Ranges", None))
    with opened(url) as file:
        check_all(file)
    range_server.behave("f", header("Accept-Ranges", "none"))
    with opened(url) as file:
        check_all(file)


def test_a_clamped_range_is_taken_and_the_rest_asked_for(range_server: RangeServer, url: str) -> None:
    """No byte comes twice."""
    range_server.behave("f", after(1, clamp(50_000)))
    with opened(url) as file:
        check_all(file)
    assert range_server.sent_twice() == []
    assert range_server.requests == 1 + 6


@pytest.mark.parametrize(
    "options",
    [{"prefetch_bytes": 50_000}, {"minimum_range_request_bytes": 50_000}, {"prefetch_bytes": MIB}],
    ids=["prefetch", "minimum", "default"],
)
@pytest.mark.parametrize("most", [SIZE, 50_000, 20_000, 1000])
def test_an_opening_that_ends_inside_of_a_page(
    range_server: RangeServer, url: str, options: dict[str, int], most: int
) -> None:
    """Whoever reads on while it comes finds whole pages; of what was answered as asked no byte comes twice."""
    range_server.behave("f", slow(0.01), trickle(2e6), times(1, clamp(most)))
    with opened(url, prefetch_direction="START", **options) as file:
        check_all(file)
    if most == SIZE:
        assert range_server.sent_twice() == []


def test_a_clamped_opening(range_server: RangeServer, url: str) -> None:
    """A suffix answered with fewer bytes from its beginning is no suffix: hctef asks by positions."""
    range_server.behave("f", times(1, clamp(1000)))
    with opened(url, prefetch_bytes=65_536) as file:
        check_all(file)


@pytest.mark.parametrize("spoil", [shift(-4096), shift(4096), shift(-1), longer(1), longer(4096)])
def test_another_range_than_asked_for_is_an_error(range_server: RangeServer, url: str, spoil: Behaviour) -> None:
    """Shifted, or longer: its bytes are never used."""
    range_server.behave("f", after(1, spoil))
    with opened(url) as file, pytest.raises(hctef.HctefNetworkError, match="instead"):
        file.seek(100_000)
        file.read(10)


@pytest.mark.parametrize(
    ("direction", "spoil"),
    [("END", shift(-4096)), ("END", shift(-1)), ("START", shift(4096)), ("START", shift(1)), ("START", longer(4096))],
)
def test_another_range_on_opening(range_server: RangeServer, url: str, direction: Any, spoil: Behaviour) -> None:
    """An error too."""
    range_server.behave("f", spoil)
    with pytest.raises(hctef.HctefNetworkError, match="sent"):
        opened(url, prefetch_bytes=20_000, prefetch_direction=direction)


def test_a_shorter_suffix(range_server: RangeServer, url: str) -> None:
    """It ends where the file does: what came is taken, the rest asked for when it is needed."""
    range_server.behave("f", times(1, shift(5000)))
    with opened(url, prefetch_bytes=20_000) as file:
        check_all(file)
    assert range_server.sent_twice() == []


@pytest.mark.parametrize("direction", ["END", "START"])
@pytest.mark.parametrize("head", [None, "no", 403, 405, "hang"])
def test_a_hidden_total_is_learnt_otherwise(range_server: RangeServer, url: str, direction: Any, head: Any) -> None:
    """`Content-Range: bytes 0-99/*`: by the clamped end of a further request, or by HEAD, or else a clear error."""

    def on_head(request: Request, reply: Reply) -> None:
        if request.method == "HEAD" and isinstance(head, int):
            reply.fail(head)
        if request.method == "HEAD" and head == "no":
            reply.chunked = True
        if request.method == "HEAD" and head == "hang":
            reply.hang_up = True

    range_server.behave("f", hide_total, on_head)
    if direction == "START" and head is not None:
        with pytest.raises(hctef.RangeRequestsUnsupportedError) as caught:
            opened(url, prefetch_direction=direction)
        assert caught.value.reason == "content-range-hidden"
    else:
        with opened(url, prefetch_direction=direction) as file:
            assert file.size == SIZE
            check_all(file)


@pytest.mark.parametrize("direction", ["END", "START"])
@pytest.mark.parametrize("most", [1000, 4096, 8191])
def test_a_hidden_total_and_clamped_ranges(range_server: RangeServer, url: str, direction: Any, most: int) -> None:
    """An end that a server has cut is not the file's: HEAD tells where that is, or a range behind it, or else there is
    a clear error."""
    spoil = [clamp(most), hide_total]
    range_server.behave("f", *spoil)
    with opened(url, prefetch_direction=direction) as file:
        check_all(file)
    range_server.behave("f", *spoil, when(lambda request: request.method == "HEAD", status(405)))
    reaches_the_end = direction == "END" and 2 * most >= 8192
    with nullcontext() if reaches_the_end else pytest.raises(hctef.RangeRequestsUnsupportedError):
        check_all(opened(url, prefetch_direction=direction))


@pytest.mark.parametrize("knows", [True, False], ids=["conditions", "none"])
def test_a_hidden_total_of_a_file_that_changes(range_server: RangeServer, knows: bool) -> None:
    """What tells the size is asked for the version that was opened, and compared with it."""
    url = range_server.add("f", DATA)

    def change(request: Request, reply: Reply) -> None:
        if len(range_server.log) == 1:
            range_server.add("f", DATA[:8192], etag='"v2"')
        if not knows and reply.status == 412:  # as a server that knows no conditions
            reply.fail(416)
            reply.headers["Content-Range"] = "bytes */8192"

    range_server.behave("f", hide_total, change)
    with pytest.raises(hctef.RemoteFileChangedError):
        opened(url, prefetch_direction="START")


def test_a_total_that_is_hidden_later_is_an_error_where_nothing_else_tells_versions(
    range_server: RangeServer, url: str
) -> None:
    """With a validator it is let through, without one it is not."""
    range_server.behave("f", after(1, hide_total))
    with opened(url) as file:
        check_all(file)
    range_server.behave("f", after(1, hide_total))
    with opened(url, validate="size") as file, pytest.raises(hctef.RangeRequestsUnsupportedError):
        file.read(10)


def test_a_206_without_content_range(range_server: RangeServer, url: str) -> None:
    """Nobody can tell which bytes came."""
    range_server.behave("f", header("Content-Range", None))
    with pytest.raises(hctef.RangeRequestsUnsupportedError) as caught:
        opened(url)
    assert caught.value.reason == "content-range-hidden"


@pytest.mark.parametrize(
    "value",
    [
        "bytes 0-9/9223372036854775808",
        f"bytes 0-{10**400}/{10**401}",
        "bytes -5-9/10",
        "garbage",
        "bytes 9-0/10",
        "bytes 291808-299999/-1",
        "x" * 60_000,
    ],
)
def test_garbage_numbers_are_an_error(range_server: RangeServer, url: str, value: str) -> None:
    """Bounded work, no allocation."""
    range_server.behave("f", header("Content-Range", value))
    with pytest.raises(hctef.HctefNetworkError):
        opened(url)


def test_a_size_that_no_machine_can_map(range_server: RangeServer) -> None:
    """Consistent, and impossible: an error at once."""

    def lie(request: Request, reply: Reply) -> None:
        size = 2**62
        reply.headers["Content-Range"] = f"bytes {size - len(reply.body)}-{size - 1}/{size}"

    url = range_server.add("lie", DATA)
    range_server.behave("lie", lie)
    with pytest.raises(hctef.HctefNetworkError, match="address space"):
        opened(url)


def test_a_content_length_that_differs(range_server: RangeServer, url: str) -> None:
    """From the Content-Range: one of them lies."""
    range_server.behave("f", after(1, header("Content-Length", "7")))
    with opened(url) as file, pytest.raises(hctef.HctefNetworkError, match="Content-Length"):
        file.read(10)


def test_content_encoding_on_a_206(range_server: RangeServer, url: str) -> None:
    """hctef always asks for identity; coded bytes are none of the file."""
    range_server.behave("f", after(1, header("Content-Encoding", "gzip")))
    with opened(url) as file, pytest.raises(hctef.HctefNetworkError, match="Content-Encoding"):
        file.read(10)
    assert all(request.headers["accept-encoding"] == "identity" for request in range_server.log)


# bodies


def test_chunked_206(range_server: RangeServer, url: str) -> None:
    """Works without a Content-Length, on one connection."""
    range_server.behave("f", chunked)
    with opened(url, prefetch_bytes=20_000, max_connections=1) as file:
        check_all(file)
    assert range_server.connections <= 2  # the pool is the process's: this file's first may be new


def test_bodies_that_end_with_the_connection(range_server: RangeServer, url: str) -> None:
    """No Content-Length, not chunked (HTTP/1.0's way): whole they are taken, cut ones resumed."""
    range_server.behave("f", until_close)
    with opened(url) as file:
        check_all(file)
    range_server.behave("f", until_close, after(1, times(2, cut(5000))))
    range_server.forget()
    with opened(url) as file:
        check_all(file)
        assert file.stats.retries == 2
    assert range_server.sent_twice() == []


def test_chunked_with_more_bytes_than_the_head_says(range_server: RangeServer, url: str) -> None:
    """An error."""
    range_server.behave("f", after(1, extra(1)))
    with opened(url, readahead="off") as file, pytest.raises(hctef.HctefNetworkError, match="more bytes"):
        file.read(10)


@pytest.mark.parametrize("spoil", [[], [chunked]])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("count", [0, 1, 4096, 70_001])
def test_a_cut_body_is_resumed_where_it_stopped(
    range_server: RangeServer, url: str, count: int, reset: bool, spoil: list[Behaviour]
) -> None:
    """On a fresh connection, and no byte is asked for twice (but those that a reset destroyed on their way)."""
    range_server.behave("f", *spoil, after(1, times(3, cut(count, reset=reset))))
    with opened(url, prefetch_bytes=10_000, readahead="off") as file:
        check_all(file)
        assert file.stats.retries == 3
    if not reset:
        assert range_server.sent_twice() == []


def test_a_cut_opening_is_resumed(range_server: RangeServer, url: str) -> None:
    """The first response as any other."""
    range_server.behave("f", times(2, cut(10_000)))
    with opened(url, prefetch_bytes=64_000) as file:
        check_all(file)
    assert range_server.sent_twice() == []


def test_no_response_at_all(range_server: RangeServer, url: str) -> None:
    """Asked again, within `retries`."""
    range_server.behave("f", times(3, hang_up))
    with opened(url) as file:
        check_all(file)
    range_server.behave("f", hang_up)
    range_server.forget()
    with pytest.raises(hctef.HctefNetworkError, match="connection broke"):
        opened(url, retries=urllib3.Retry(total=2, backoff_factor=0))
    assert range_server.requests == 3


def test_a_long_read_over_a_poor_line_is_no_broken_server(range_server: RangeServer, url: str) -> None:
    """Each 64 KiB of progress gives the attempts back: a line that breaks all the time still gets there."""
    range_server.behave("f", after(1, cut(70_000)))
    with opened(url, retries=urllib3.Retry(total=1, backoff_factor=0)) as file:
        check_all(file)


def test_stale_keep_alive(range_server: RangeServer, url: str) -> None:
    """A connection that the server closed while it was idle costs nothing but a new one."""
    range_server.behave("f", stale)
    with opened(url, retries=NOW) as file:
        for at in range(0, SIZE, 50_000):
            file.seek(at)
            assert file.read(100) == DATA[at : at + 100]
    assert range_server.sent_twice() == []


def test_slow_loris_meets_the_timeout_between_bytes(range_server: RangeServer, url: str) -> None:
    """A byte now and then is progress; none within `timeout` is a failure."""
    range_server.behave("f", after(1, trickle(400)))
    with opened(url, minimum_range_request_bytes=1, timeout=2.0) as file:
        file.seek(SIZE - 20)
        assert file.read(20) == DATA[-20:]
    range_server.behave("f", slow(30))
    with pytest.raises(hctef.HctefNetworkError, match="timeout"):
        opened(url, timeout=0.2, retries=0)


# empty files


@pytest.mark.parametrize("direction", ["END", "START"])
@pytest.mark.parametrize(
    "spoil",
    [[], [ignore_range], [ignore_range, chunked], [header("Content-Range", None)]],
    ids=["416 */0", "200", "200 chunked", "416 without Content-Range"],
)
def test_empty_files(range_server: RangeServer, direction: Any, spoil: list[Behaviour]) -> None:
    """Size 0, reads b''."""
    url = range_server.add("empty", b"")
    range_server.behave("empty", *spoil)
    chunked_200 = len(spoil) == 2
    with opened(url, prefetch_direction=direction, on_no_range="download" if chunked_200 else "error") as file:
        assert file.size == 0
        assert file.read() == b""
        assert file.buffer[:] == b""
        assert bytes(file.buffer) == b""
        assert list(file) == []


NO_RANGES = {
    "416": when(lambda request: bool(request.asked), status(416)),
    "501": when(lambda request: bool(request.asked), status(501)),
    "hidden": header("Content-Range", None),
}


@pytest.mark.parametrize("what", NO_RANGES)
@pytest.mark.parametrize("direction", ["END", "START"])
def test_a_server_of_no_range_at_all(range_server: RangeServer, url: str, direction: Any, what: str) -> None:
    """However it says that: an error, or the whole file where that is wished for."""
    range_server.behave("f", NO_RANGES[what])
    with pytest.raises(hctef.HctefNetworkError):
        opened(url, prefetch_direction=direction)
    with opened(url, prefetch_direction=direction, on_no_range="download") as file:
        check_all(file)


@pytest.mark.parametrize(
    ("spoil", "reset"),
    [([], False), ([], True), ([chunked], False), ([chunked], True), ([until_close], True)],
    ids=["length", "length, reset", "chunked", "chunked, reset", "until close, reset"],
)
def test_what_is_cut_is_not_empty(range_server: RangeServer, url: str, spoil: list[Behaviour], reset: bool) -> None:
    """416 to every range, and a whole file that is cut before its first byte."""
    cuts = when(lambda request: not request.asked, cut(0, reset=reset))
    range_server.behave("f", NO_RANGES["416"], *spoil, cuts)
    with pytest.raises(hctef.HctefNetworkError):
        opened(url, retries=urllib3.Retry(1, backoff_factor=0))


# suffix ranges


@pytest.mark.parametrize(
    "spoil",
    [status(501), status(416), status(416, Content_Range=f"bytes */{SIZE}"), ignore_range],
    ids=["501", "416", "416 with the size", "ignored"],
)
def test_refused_suffix_ranges(range_server: RangeServer, url: str, spoil: Behaviour) -> None:
    """PyPI's CDN, Azure: hctef asks for the tail by its positions."""
    range_server.behave("f", when(lambda request: request.suffix, spoil))
    with opened(url, prefetch_bytes=20_000) as file:
        assert file.size == SIZE
        wait_until(lambda: file.resident_bytes >= 16_000)
        check_all(file)


def test_a_416_for_a_file_that_is_not_empty(range_server: RangeServer, url: str) -> None:
    """Not taken for an empty file."""
    range_server.behave("f", when(lambda request: bool(request.asked), status(416)))
    with pytest.raises(hctef.RangeRequestsUnsupportedError):
        opened(url)


def test_head_is_never_needed(range_server: RangeServer, url: str) -> None:
    """Presigned GET URLs forbid it."""
    with opened(url) as file:
        check_all(file)
    assert {request.method for request in range_server.log} == {"GET"}


# changes


def test_the_file_changes_under_a_strong_etag(range_server: RangeServer, url: str) -> None:
    """If-Match, and 412."""
    with opened(url) as file:
        range_server.add("f", DATA[::-1], etag='"v2"')
        with pytest.raises(hctef.RemoteFileChangedError, match="validate='size'"):
            file.read(10)
    assert range_server.log[-1].headers["if-match"] == '"v1"'
    assert range_server.log[-1].status == 412


def test_the_file_changes_under_a_date(range_server: RangeServer) -> None:
    """If-Unmodified-Since, where there is no ETag."""
    url = range_server.add("f", DATA, etag=None)
    with opened(url) as file:
        range_server.add("f", DATA[::-1], etag=None, last_modified="Thu, 22 Oct 2015 07:28:00 GMT")
        with pytest.raises(hctef.RemoteFileChangedError):
            file.read(10)
    assert range_server.log[-1].headers["if-unmodified-since"] == "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize("size", [SIZE - 100_000, SIZE + 100_000])
def test_the_size_changes_while_it_is_asked_for(range_server: RangeServer, url: str, size: int) -> None:
    """Between its first byte and its end."""

    def change(request: Request, reply: Reply) -> None:
        if request.suffix:
            reply.fail(501)
        else:
            range_server.add("f", pattern(size))

    range_server.behave("f", change)
    with pytest.raises(hctef.RemoteFileChangedError):
        opened(url)


@pytest.mark.parametrize("value", ['"v2"', 'W/"v1"', None])
def test_another_etag_is_a_change_though_the_server_ignores_conditions(
    range_server: RangeServer, url: str, value: str | None
) -> None:
    """Each response is compared; a validator that is missing later is a change."""
    range_server.behave("f", after(1, etag(value)))
    with opened(url) as file, pytest.raises(hctef.RemoteFileChangedError):
        file.read(10)


@pytest.mark.parametrize("date", [None, "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_an_etag_that_comes_later_tells_versions_apart(range_server: RangeServer, date: str | None) -> None:
    """From then on: where there was none on opening, none is needed, but another one is another version."""
    url = range_server.add("f", DATA, etag=None, last_modified=date)
    with opened(url, readahead="off") as file:
        for etag_now in ('"v1"', None, '"v1"'):
            range_server.add("f", DATA, etag=etag_now, last_modified=date)
            file.evict()
            check_all(file)
        range_server.add("f", DATA[::-1], etag='"v2"', last_modified=date)
        file.evict()
        with pytest.raises(hctef.RemoteFileChangedError):
            check_all(file)


def test_the_size_changes(range_server: RangeServer) -> None:
    """With no validator at all the size is compared."""
    url = range_server.add("f", DATA, etag=None, last_modified=None)
    with opened(url) as file:
        range_server.add("f", DATA + b"more", etag=None, last_modified=None)
        with pytest.raises(hctef.RemoteFileChangedError, match="300004"):
            file.read(10)
        range_server.add("f", DATA[:1000], etag=None, last_modified=None)
        with pytest.raises(hctef.RemoteFileChangedError, match="1000"):
            file.seek(200_000)
            file.read(10)


def test_a_weak_etag_is_compared_and_never_sent(range_server: RangeServer) -> None:
    """RFC 9110 section 13.1.1."""
    url = range_server.add("f", DATA, etag='W/"v1"')
    with opened(url) as file:
        file.read(10)
        assert "if-match" not in range_server.log[-1].headers
        range_server.add("f", DATA, etag='W/"v2"')
        with pytest.raises(hctef.RemoteFileChangedError):
            file.seek(100_000)
            file.read(10)


def test_etags_that_differ_from_node_to_node(range_server: RangeServer, url: str) -> None:
    """validate='size' is the way out, and sends no condition."""
    range_server.behave("f", after(1, etag('"node2"')))
    with opened(url, validate="size") as file:
        check_all(file)
    assert all("if-match" not in request.headers for request in range_server.log)


def test_a_change_in_the_middle_of_a_retry(range_server: RangeServer, url: str) -> None:
    """The rest of a cut body is never taken from another version."""
    range_server.behave("f", after(1, times(1, cut(5000))))
    with opened(url, minimum_range_request_bytes=20_000) as file:

        def replace(request: Request, reply: Reply) -> None:
            cut(5000)(request, reply)
            range_server.files["f"].etag = '"v2"'

        range_server.behave("f", times(1, replace))
        with pytest.raises(hctef.RemoteFileChangedError):
            file.read(20_000)
        assert file.tell() == 0


# statuses


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_statuses_that_say_later_are_asked_again(range_server: RangeServer, url: str, code: int) -> None:
    """Within `retries`; then the error names the status."""
    range_server.behave("f", after(1, times(2, status(code))))
    with opened(url) as file:
        assert file.read(10) == DATA[:10]
        assert file.stats.retries == 2
        range_server.behave("f", status(code))
        range_server.forget()
        with pytest.raises(hctef.HctefNetworkError, match=str(code)):
            file.seek(100_000)
            file.read(10)
        assert range_server.requests == 6
        assert file.tell() == 100_000


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, hctef.HctefNetworkError),
        (401, hctef.RemotePermissionError),
        (403, hctef.RemotePermissionError),
        (404, hctef.RemoteFileNotFoundError),
        (410, hctef.RemoteFileNotFoundError),
        (418, hctef.HctefNetworkError),
        (304, hctef.HctefNetworkError),
        (204, hctef.HctefNetworkError),
        (300, hctef.HctefNetworkError),
    ],
)
def test_other_statuses_are_final(range_server: RangeServer, url: str, code: int, kind: type) -> None:
    """At once, after one request; the message names the status and the URL."""
    range_server.behave("f", status(code))
    with pytest.raises(kind, match=str(code)) as caught:
        opened(url)
    assert range_server.requests == 1
    assert url in str(caught.value)
    assert getattr(caught.value, "status", None) == code


@pytest.mark.parametrize("date", [False, True])
def test_retry_after(range_server: RangeServer, url: str, date: bool) -> None:
    """In seconds and as a date; the server sees that it was waited for."""
    value = email.utils.formatdate(time.time() + 2, usegmt=True) if date else "1"
    times_of_requests: list[float] = []
    range_server.behave(
        "f", lambda *_: times_of_requests.append(time.monotonic()), times(1, status(503, Retry_After=value))
    )
    opened(url).close()
    assert len(times_of_requests) == 2
    assert times_of_requests[1] - times_of_requests[0] > 0.5


def test_a_retry_after_of_an_hour_is_shown_instead(range_server: RangeServer, url: str) -> None:
    """Nobody waits an hour in silence."""
    range_server.behave("f", status(503, Retry_After="3600"))
    with pytest.raises(hctef.HctefNetworkError, match="3600"):
        opened(url, retries=5)
    assert range_server.requests == 1


def test_103_before_the_response(range_server: RangeServer, url: str) -> None:
    """http.client takes it for the answer: an error that names it, and the connection is not used again."""
    range_server.add("f", DATA[::-1], etag=None, last_modified=None)
    other = range_server.add("g", DATA, etag=None, last_modified=None)
    range_server.behave("f", times(1, early_hints))
    with pytest.raises(hctef.HctefNetworkError, match="103"):
        opened(url)
    with opened(other) as file:  # else the late response to the first request would pass for this one's
        check_all(file)


# redirects and credentials


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_remembered(range_server: RangeServer, url: str, code: int) -> None:
    """Later requests go to the target, without asking the origin each time."""
    range_server.add("origin", b"")
    range_server.behave("origin", redirect("/f", code))
    with opened(range_server.url("origin")) as file:
        check_all(file)
    assert [request.name for request in range_server.log].count("origin") == 1


def test_redirects_in_a_circle(range_server: RangeServer, url: str) -> None:
    """They end, with an error that says so."""
    range_server.behave("f", redirect("/f"))
    with pytest.raises(hctef.HctefNetworkError, match="redirects"):
        opened(url)
    assert range_server.requests < 20


def test_a_policy_may_allow_no_redirect(range_server: RangeServer, url: str) -> None:
    """`retries` is the one policy object."""
    other = range_server.add("other", DATA)
    range_server.behave("other", redirect("/f"))
    allowed: Any
    for allowed in (0, False):
        with pytest.raises(hctef.HctefNetworkError, match="302"):
            opened(other, retries=urllib3.Retry(5, redirect=allowed))
    for allowed in (1, True, None):
        with opened(other, retries=urllib3.Retry(5, redirect=allowed)) as file:
            check_all(file)


def test_credentials_do_not_cross_hosts(range_server: RangeServer, url: str) -> None:
    """Authorization, Cookie, and what looks like a key."""
    with RangeServer() as origin:
        origin.add("f", b"")
        origin.behave("f", redirect(url))
        secrets = {"Authorization": "Bearer SECRET", "Cookie": "SECRET", "X-Api-Key": "SECRET", "X-Other": "plain"}
        with opened(origin.url("f"), headers=secrets) as file:
            check_all(file)
        assert origin.log[0].headers["authorization"] == "Bearer SECRET"
    assert all("SECRET" not in str(request.headers) for request in range_server.log)
    assert range_server.log[0].headers["x-other"] == "plain"


def test_an_expired_target_sends_back_to_the_origin(range_server: RangeServer, url: str) -> None:
    """A 403 from a remembered target is not the end."""
    valid = ["sig=1"]
    range_server.add("origin", b"")
    range_server.behave("origin", lambda _, reply: reply.fail(302, Location=f"/f?{valid[0]}"))
    range_server.behave("f", expires(lambda: valid[0]))
    with opened(range_server.url("origin")) as file:
        assert file.read(10) == DATA[:10]
        valid[0] = "sig=2"
        check_all(file)
    assert [request.name for request in range_server.log].count("origin") == 2


@pytest.mark.parametrize("code", [400, 401, 403])
def test_a_url_that_expires_is_asked_for_again(range_server: RangeServer, url: str, code: int) -> None:
    """A callable `url`; once a request."""
    current, asked = ["t=1"], []

    def presigned() -> str:
        asked.append(1)
        return f"{url}?{current[0]}"

    range_server.behave("f", expires(lambda: current[0], code))
    with opened(presigned, readahead="off") as file:  # type: ignore[arg-type]
        assert file.read(10) == DATA[:10]
        current[0] = "t=2"
        check_all(file)
        assert len(asked) == 2
        range_server.behave("f", status(code))
        file.evict()
        range_server.forget()
        with pytest.raises(hctef.HctefNetworkError):
            file.seek(0)
            file.read(10)
        assert range_server.requests == 2


def test_readers_of_a_url_that_expired_share_the_next(range_server: RangeServer, url: str) -> None:
    """Nobody asks for one where another reader has just been given it."""
    current, asked = ["t=1"], []

    def presigned() -> str:
        asked.append(1)
        return f"{url}?{current[0]}"

    gate = Gate()
    with opened(presigned, readahead="off") as file:  # type: ignore[arg-type]
        current[0] = "t=2"
        range_server.behave("f", times(8, gate), expires(lambda: current[0]))
        with ThreadPoolExecutor(8) as pool:
            reads = [pool.submit(file.clone().read_ranges, [(n * 32_768, n * 32_768 + 10)]) for n in range(8)]
            gate.wait_for(8)
            gate.open()
            for n, read in enumerate(reads):
                assert read.result() == [DATA[n * 32_768 : n * 32_768 + 10]]
    assert 2 <= len(asked) <= 3  # two threads may ask at the same moment


def test_headers_are_asked_for_each_request(range_server: RangeServer, url: str) -> None:
    """And once more where they were refused."""
    token = ["a"]
    range_server.behave("f", expects("Authorization", lambda: f"Bearer {token[0]}"))
    given: list[str] = []

    def headers() -> dict[str, str]:
        given.append(token[0])
        if len(given) == 3:  # the server's has changed, ours lags behind by a request
            token[0] = "b"
        return {"Authorization": f"Bearer {given[-1]}"}

    with opened(url, headers=headers) as file:
        for at in (0, 100_000):
            file.seek(at)
            assert file.read(10) == DATA[at : at + 10]
    assert [request.status for request in range_server.log] == [206, 206, 401, 206]


def test_basic_auth_from_the_url_is_sent_and_never_shown(
    range_server: RangeServer, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the repr, a message, the log, nor a pickle."""
    caplog.set_level("DEBUG", "hctef")
    secret_url = url.replace("http://", "http://user:SECRET@") + "?sig=SECRET2"
    range_server.behave("f", after(2, status(403)))
    with opened(secret_url) as file:
        file.read(10)
        assert range_server.log[0].headers["authorization"].startswith("Basic ")
        with pytest.raises(hctef.RemotePermissionError) as caught:
            file.seek(100_000)
            file.read(10)
        shown = [repr(file), str(caught.value), repr(caught.value), file.name, file._repr_html_()]
        shown += [record.getMessage() for record in caplog.records if record.name == "hctef"]
        assert not any("SECRET" in text for text in shown)
        assert len(shown) > 7
        assert b"user" not in pickle.dumps(file)  # the query stays: without it the URL is another one


# bad input: an error before any request


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"prefetch_direction": "MIDDLE"}, ValueError),
        ({"prefetch_bytes": -1}, ValueError),
        ({"minimum_range_request_bytes": 0}, ValueError),
        ({"max_connections": 0}, ValueError),
        ({"max_resident_bytes": -5}, ValueError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"retries": -1}, ValueError),
        ({"validate": "maybe"}, ValueError),
        ({"on_no_range": "cry"}, ValueError),
        ({"readahead": "fast"}, ValueError),
        ({"prefetch_bytes": 1.5}, TypeError),
        ({"no_such_option": 1}, TypeError),
        ({"headers": {"Range": "bytes=0-1"}}, hctef.HctefUrlError),
        ({"headers": {"X": "a\r\nb"}}, hctef.HctefUrlError),
    ],
)
@pytest.mark.parametrize("kind_of_reader", [hctef.HttpFile, hctef.RemoteBuffer])
def test_bad_options(range_server: RangeServer, url: str, options: Any, kind: type, kind_of_reader: Any) -> None:
    """The message names the option."""
    with pytest.raises(kind):
        kind_of_reader(url, **options)
    assert range_server.requests == 0


def test_bad_urls_make_no_request() -> None:
    """HctefUrlError."""
    for bad in ("ftp://127.0.0.1/f", "f", "", "http://"):
        with pytest.raises(hctef.HctefUrlError):
            hctef.HttpFile(bad)
    with pytest.raises(hctef.HctefUrlError):
        hctef.HttpFile(lambda: "file:///etc/passwd")


def test_ranges_outside_of_the_file(range_server: RangeServer, url: str) -> None:
    """ValueError, before any request."""
    with opened(url) as file, opened(url).buffer as buf:
        requests = range_server.requests
        for bad in (
            lambda: file.prefetch([(SIZE - 5, 6)]),
            lambda: file.prefetch([(0, -1)]),
            lambda: file.prefetch([(-1, 1)]),
            lambda: file.read_ranges([(0, SIZE + 1)]),
            lambda: file.read_ranges([(5, 4)]),
            lambda: file.stream(-1),
            lambda: buf.view(0, SIZE + 1),
            lambda: buf.view(-2),
            lambda: buf.evict(5, 2),
            lambda: file.seek(-1),
        ):
            with pytest.raises(ValueError):
                bad()
        assert range_server.requests == requests


def test_use_after_close(range_server: RangeServer, url: str) -> None:
    """ValueError from every method; close is idempotent; views live on."""
    file = opened(url)
    buf = file.clone().buffer
    view = buf.view(100, 200)
    file.close()
    file.close()
    buf.close()
    requests = range_server.requests
    for call in (
        file.read,
        file.tell,
        file.readline,
        file.peek,
        file.clone,
        file.readable,
        file.flush,
        lambda: file.readinto(bytearray(5)),
        lambda: file.seek(0),
        lambda: file.prefetch([(0, 1)]),
        lambda: file.size,
        lambda: file.stats,
        lambda: next(file),
        file.__enter__,
        lambda: buf[0],
        lambda: buf[0:5],
        lambda: len(buf),
        lambda: memoryview(buf),
        buf.view,
        buf.read,
        lambda: buf.find(b"x"),
        buf.file,
        buf.resident_ranges,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert view == DATA[100:200]
    assert file.closed
    assert "closed" in repr(file)
    assert range_server.requests == requests


def test_open_reopens_a_closed_file(range_server: RangeServer, url: str) -> None:
    """And returns an open one as it is."""
    file = opened(url)
    assert file.open() is file
    file.close()
    assert file.open() is file
    check_all(file)
    file.close()


def test_close_ends_a_read_in_flight(range_server: RangeServer, url: str) -> None:
    """The reader gets a ValueError, and does not wait for the rest of the body."""
    file = opened(url)
    range_server.behave("f", trickle(5))
    raised: list[BaseException] = []

    def read() -> None:
        try:
            file.read(10)
        except (ValueError, OSError) as error:
            raised.append(error)

    thread = threading.Thread(target=read)
    requests = range_server.requests
    thread.start()
    while range_server.requests == requests:
        time.sleep(0.005)
    wait_until(lambda: file.stats.bytes_fetched > 8192)  # the head is there, and some of the body
    file.close()
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(raised[0], ValueError)
