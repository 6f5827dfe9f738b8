"""The pager's messages: what goes in comes out, and what is no message harms nobody."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

import hctef
from hctef._http import Validator
from hctef._options import Options
from hctef._ranges import ByteRange
from hctef._urls import parse_url
from tests.helpers import by_fault

pytestmark = by_fault

if hctef.paging_support():
    from hctef.pager import wire

Ends = tuple[socket.socket, socket.socket]
VALUES = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(max_size=20)


@pytest.fixture
def ends() -> Iterator[Ends]:
    mine, its = wire.pair()
    with mine, its:
        its.settimeout(20)
        yield mine, its


@given(st.dictionaries(st.text(max_size=10), st.recursive(VALUES, lambda inner: st.lists(inner, max_size=5))))
def test_a_message_comes_as_it_went(message: dict[str, Any]) -> None:
    """Whatever JSON can say, in one piece."""
    mine, its = wire.pair()
    with mine, its:
        wire.send(mine, message)
        wire.send(mine, {})
        assert wire.receive(its) == (message, [])
        assert wire.receive(its) == ({}, [])


def test_descriptors_come_with_it(ends: Ends, tmp_path: Path) -> None:
    """As others of the same files, which do not outlive an exec."""
    path = tmp_path / "f"
    path.write_text("content")
    with path.open() as file:
        wire.send(ends[0], {"op": "x"}, [file.fileno()] * wire.MOST_DESCRIPTORS)
    received = wire.receive(ends[1])
    assert received is not None
    assert len(received[1]) == wire.MOST_DESCRIPTORS
    for fd in received[1]:
        assert not os.get_inheritable(fd)
    with os.fdopen(received[1][3]) as file:
        assert file.read() == "content"
    wire.close(fd for fd in received[1] if fd != received[1][3])


def test_a_long_message(ends: Ends) -> None:
    """As long as may be fits into the socket's buffer beside descriptors; a longer one is refused by who sends it."""
    message = {"text": "x" * (wire.MOST_BYTES - 11)}
    wire.send(ends[0], message, [0])
    received = wire.receive(ends[1])
    assert received is not None
    assert received[0] == message
    wire.close(received[1])
    with pytest.raises(ValueError, match="too long"):
        wire.send(ends[0], {"text": "x" * wire.MOST_BYTES})


@given(st.lists(st.tuples(st.integers(0, 2**50), st.integers(0, 2**50)), max_size=50))
def test_ranges(pairs: list[tuple[int, int]]) -> None:
    """Offsets of any file's size."""
    ranges = [ByteRange(*sorted(pair)) for pair in pairs]
    assert wire.unpack_ranges(json.loads(json.dumps(wire.pack_ranges(ranges)))) == ranges


def test_the_most_ranges_fit(ends: Ends) -> None:
    """However large the file is."""
    ranges = [ByteRange(2**47 - 1, 2**47)] * wire.MOST_RANGES
    wire.send(ends[0], {"op": "prefetch", "link": "f" * 16, "id": 2**60, "ranges": wire.pack_ranges(ranges)})
    assert wire.receive(ends[1]) is not None


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000, b"x" * 130_000], ids=repr)
def test_what_is_no_message_ends_the_conversation(ends: Ends, data: bytes) -> None:
    """And descriptors that come with it are closed."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # numbers, not paths
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    socket.send_fds(ends[0], [data], [0, 0])
    assert wire.receive(ends[1]) is None
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  # as above


def test_the_end_and_nothing_yet(ends: Ends) -> None:
    """None where the other side is gone, BlockingIOError where it says nothing."""
    ends[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.receive(ends[1])
    ends[0].close()
    assert wire.receive(ends[1]) is None
    with pytest.raises(OSError, match="pipe"):
        wire.send(ends[1], {})


@pytest.mark.parametrize(
    "error",
    [
        hctef.HctefNetworkError("a", status=503),
        hctef.RangeRequestsUnsupportedError("a", status=200, reason="content-range-hidden"),
        hctef.RemoteFileChangedError("a", status=412),
        hctef.RemoteFileNotFoundError("a", status=404),
        hctef.RemotePermissionError("a"),
        hctef.HctefUrlError("a"),
        hctef.PagerError("a"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_keep_class_words_and_status(error: hctef.HctefError) -> None:
    """And whatever else they carry."""
    other = wire.unpack_error(json.loads(json.dumps(wire.pack_error(error))))
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))
    assert getattr(other, "errno", None) == getattr(error, "errno", None)


def test_other_errors_are_the_pagers() -> None:
    """An unforeseen one of the worker's; and names that are none of ours make nothing of themselves."""
    other = wire.unpack_error(wire.pack_error(OSError(errno.ENOMEM, "no memory")))
    assert isinstance(other, hctef.PagerError)
    assert "no memory" in str(other)
    assert type(wire.unpack_error({"error": "SystemExit", "message": "x"})) is hctef.PagerError


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "minimum_range_request_bytes": st.integers(1, 1 << 40),
            "max_connections": st.integers(1, 100),
            "max_resident_bytes": st.none() | st.integers(1, 1 << 50),
            "readahead": st.sampled_from(["auto", "off", 0, 1 << 20]),
            "validate": st.sampled_from(["strict", "size"]),
            "fault_timeout": st.floats(0.1, 1e6),
            "prefetch_direction": st.sampled_from(["END", "START"]),
            "retries": st.integers(0, 10),
            "headers": st.none() | st.dictionaries(st.sampled_from(["X-A", "Authorization"]), st.just("v")),
        },
    )
)
def test_options_come_as_they_went(given_options: dict[str, Any]) -> None:
    """Those that a fetch depends on, with the URL and its credentials."""
    options = Options(**given_options)
    url, target = parse_url("http://user:pass@example.test/f?a=b"), parse_url("https://other.test/g")
    assert wire.why_not("http://example.test", options) is None
    message = json.loads(json.dumps(wire.pack_source(url, target, options)))
    other_url, other_target, other = wire.unpack_source(message)
    assert (other_url, other_target) == (url, target)
    for name in given_options.keys() - {"headers"}:
        assert getattr(other, name) == getattr(options, name)
    assert dict(other.headers or {}) == (given_options.get("headers") or {})  # type: ignore[arg-type]


def test_policies_and_pools_come_as_they_went() -> None:
    """urllib3's Retry, Timeout, PoolManager and ProxyManager: what of them is plain."""
    retry = urllib3.Retry(7, connect=2, status_forcelist=[418], allowed_methods=["GET"], backoff_factor=0.5)
    pool = urllib3.ProxyManager(
        "http://127.0.0.1:1",
        proxy_headers={"x-proxy": "v"},
        headers={"Authorization": "Bearer T", "Range": "bytes=0-1"},
        source_address=("127.0.0.1", 0),
        socket_options=[(6, 1, 1)],
        cert_reqs="CERT_NONE",
        ca_certs="relative.pem",
    )
    options = Options(retries=retry, timeout=urllib3.Timeout(connect=1, read=2), pool=pool)
    assert wire.why_not("http://example.test", options) is None
    url = parse_url("http://example.test/f")
    _, _, other = wire.unpack_source(json.loads(json.dumps(wire.pack_source(url, None, options))))
    for name in ("total", "connect", "read", "backoff_factor", "respect_retry_after_header"):
        assert getattr(other.retries, name) == getattr(retry, name)
    for name in ("status_forcelist", "allowed_methods"):
        assert sorted(getattr(other.retries, name)) == sorted(getattr(retry, name))
    assert (other.timeout._connect, other.timeout._read) == (1, 2)
    assert isinstance(other.pool, urllib3.ProxyManager)
    assert other.headers == {"Authorization": "Bearer T"}
    assert other.pool.proxy is not None
    assert other.pool.proxy.url == "http://127.0.0.1:1"
    assert dict(other.pool.proxy_headers) == {"x-proxy": "v"}
    settings = other.pool.connection_pool_kw
    assert settings["source_address"] == ("127.0.0.1", 0)
    assert settings["socket_options"] == ((6, 1, 1),)
    assert settings["ca_certs"] == str(Path("relative.pem").absolute())
    other.pool.connection_from_host("example.test", 80)  # it can be hashed, as its pools' keys must


@pytest.mark.parametrize(
    ("arguments", "sets"),
    [
        ({"total": 3}, {"status_forcelist": []}),
        ({"total": False}, {"status_forcelist": []}),
        ({"total": 5, "allowed_methods": None}, {"allowed_methods": None}),
        ({"total": 5, "allowed_methods": False}, {"allowed_methods": False}),
        ({"total": 5, "allowed_methods": {"GET", "HEAD"}}, {"allowed_methods": ["GET", "HEAD"]}),
        ({"status_forcelist": {503, 429}}, {"status_forcelist": [429, 503]}),
        ({"status_forcelist": [503, 429]}, {"status_forcelist": [429, 503]}),
        ({"status_forcelist": frozenset({HTTPStatus.BAD_GATEWAY})}, {"status_forcelist": [502]}),
        ({"status_forcelist": range(500, 503)}, {"status_forcelist": [500, 501, 502]}),
        ({"remove_headers_on_redirect": ()}, {"remove_headers_on_redirect": []}),
    ],
    ids=str,
)
def test_policies_come_as_they_went(arguments: dict[str, Any], sets: dict[str, Any]) -> None:
    """In the forms that programs give them: an empty set is one as well, None and False are none."""
    retry = urllib3.Retry(**arguments)
    options = Options(retries=retry)
    assert wire.why_not("http://example.test", options) is None
    message = json.loads(json.dumps(wire.pack_source(parse_url("http://example.test/f"), None, options)))
    assert {name: message["retries"][name] for name in sets} == sets
    other = wire.unpack_source(message)[2].retries
    assert (other.total, other.redirect, other.raise_on_redirect) == (
        retry.total,
        retry.redirect,
        retry.raise_on_redirect,
    )
    for name in ("allowed_methods", "status_forcelist", "remove_headers_on_redirect"):
        given, got = getattr(retry, name), getattr(other, name)
        assert got == given if given in (None, False) else set(got) == set(given)


class _OwnRetry(urllib3.Retry):
    """A caller's."""


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (lambda: "http://x.test", {}, "url is a callable"),
        ("http://x.test", {"headers": dict}, "headers is a callable"),
        ("http://x.test", {"session": SimpleNamespace(request=None, connector=None)}, "session"),
        ("http://x.test", {"retries": _OwnRetry()}, "retries"),
        ("http://x.test", {"retries": urllib3.Retry(Decimal(3))}, "an option has a value"),  # type: ignore[arg-type]
        ("http://x.test", {"retries": urllib3.Retry(3, status_forcelist=[503, "504"])}, "an option has a value"),  # type: ignore[list-item]
        ("http://x.test", {"pool": SimpleNamespace(request=None, connection_from_url=None)}, "pool is of a class"),
        ("http://x.test", {"pool": urllib3.PoolManager(ssl_context=object())}, "ssl_context"),
    ],
)
def test_what_cannot_be_sent_is_said(source: Any, options: dict[str, Any], words: str) -> None:
    """In words that name the option."""
    assert words in (wire.why_not(source, Options(**options)) or "")


def test_validators() -> None:
    """Each field."""
    validator = Validator(etag='"a"', last_modified="Wed, 21 Oct 2015 07:28:00 GMT")
    assert Validator(**json.loads(json.dumps(wire.pack_validator(validator)))) == validator
