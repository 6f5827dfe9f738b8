"""The rules of HTTP: URLs, headers, response heads."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hctef._http import (
    Head,
    Validator,
    check_version,
    checked_headers,
    parse_part,
    range_header,
    redirect_target,
    request_headers,
    status_error,
)
from hctef._urls import parse_url
from hctef.exceptions import (
    HctefNetworkError,
    HctefUrlError,
    RangeRequestsUnsupportedError,
    RemoteFileChangedError,
    RemoteFileNotFoundError,
    RemotePermissionError,
)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data.npy",
        "ftp://host/file",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://host:port/x",
        "http://host:99999/x",
        "http://[::1/x",
        "http://host/a b",
        "http://host/a\r\nX: y",
        "http://host/\x00",
        "http://a[::1]/x",
        "http://[::1]a/x",
        "http://[v1.\u00e9]/x",
        "http://a..b/x",
        "http://.a/x",
        "http://./x",
        "http://a../x",
        f"http://{'a' * 64}.com/x",
        f"http://{'a.' * 128}/x",
        "http://\u2603..test/x",
        f"http://{'\u00e9' * 70}.com/x",
        "http://a\u00ad\u200b\u2028/x",
        b"http://host/x",
        None,
        7,
    ],
)
def test_what_is_no_http_url_is_refused(url: object) -> None:
    """HctefUrlError, which is a ValueError, says why."""
    with pytest.raises(HctefUrlError) as caught:
        parse_url(url)
    assert isinstance(caught.value, ValueError)


def test_userinfo_becomes_basic_auth_and_is_never_shown() -> None:
    """RFC 7617; neither the request's URL nor what is shown holds it."""
    url = parse_url("https://user:p%40ss@host:444/dir/f.npy?sig=SECRET&x=1#frag")
    assert url.authorization == "Basic dXNlcjpwQHNz"
    assert url.request == "https://host:444/dir/f.npy?sig=SECRET&x=1"
    assert url.safe == "https://host:444/dir/f.npy?sig=…&x=…"
    assert url.origin == ("https", "host", 444)
    assert url.name == "f.npy"
    for secret in ("user", "p@ss", "p%40ss", "SECRET", "dXNl"):
        assert secret not in repr(url)


def test_paths_beyond_ascii_are_percent_encoded_once() -> None:
    """RFC 3986: what is encoded already stays."""
    assert parse_url("http://host/é%20ü?q=ä").request == "http://host/%C3%A9%20%C3%BC?q=%C3%A4"


@pytest.mark.parametrize(
    "host",
    [
        "a.b.",
        "_dmarc.under_score.test",
        "127.0.0.1",
        "[::1]",
        "[fe80::1%25eth0]",
        "xn--bcher-kva.test",
        f"{'a' * 63}.test",
        ".".join(["a"] * 127),
    ],
)
def test_what_is_a_host_stays_as_it_is(host: str) -> None:
    """With a port and without one, and with userinfo before it."""
    assert parse_url(f"http://{host}/x").request == f"http://{host}/x"
    assert parse_url(f"http://u:p@{host}:81/x").request == f"http://{host}:81/x"
    assert parse_url(f"http://{host}:81/x").origin == ("http", host.strip("[]"), 81)


def test_a_host_beyond_ascii_is_asked_for_as_idna_has_it() -> None:
    """In the request and the origin, whatever library sends it."""
    pytest.importorskip("idna")
    for name in ("b\u00fccher.test", "B\u00dcCHER.test", "bu\u0308cher.test"):
        url = parse_url(f"https://u:p@{name}:444/a?b=c")
        assert url.request == "https://xn--bcher-kva.test:444/a?b=c"
        assert url.origin == ("https", "xn--bcher-kva.test", 444)
        assert parse_url(f"https://{name}/a").request == "https://xn--bcher-kva.test/a"


def test_without_idna_the_error_tells_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for such hosts only."""
    monkeypatch.setitem(sys.modules, "idna", None)
    with pytest.raises(HctefUrlError, match="xn--"):
        parse_url("http://b\u00fccher.test/")
    assert parse_url("http://host/").origin == ("http", "host", 80)


@pytest.mark.parametrize("name", ["Range", "if-match", "Accept-Encoding", "Host", "Content-Length", "a b", "", "x\n"])
def test_headers_that_decide_which_bytes_come_are_hctefs_own(name: str) -> None:
    """And so are names that are none."""
    with pytest.raises(HctefUrlError):
        checked_headers({name: "value"})


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "\0", "\x01", "\x7f", "\u20ac"])
def test_no_header_is_injected(value: str) -> None:
    """Nor one sent that latin-1 cannot encode; the name is in the message, and the value is not."""
    with pytest.raises(HctefUrlError) as caught:
        checked_headers({"X-Token": value + "SECRET"})
    assert "X-Token" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert checked_headers({"X-Name": "Andr\u00e9\t"}) == {"X-Name": "Andr\u00e9\t"}


def test_credentials_stay_with_their_origin() -> None:
    """RFC 9110 section 15.4: another host, port or scheme gets none."""
    url = parse_url("https://u:p@host/a")
    own = {"Cookie": "c", "X-Api-Key": "k", "X-Plain": "v"}
    there = request_headers(own, url, parse_url("https://other/a"), {"Range": "bytes=0-1"})
    assert there == {"Accept-Encoding": "identity", "X-Plain": "v", "Range": "bytes=0-1"}
    here = request_headers(own, url, parse_url("https://host:443/b"), {})
    assert here["Authorization"].startswith("Basic ")
    assert here["Cookie"] == "c"


@given(st.integers(0, 2**62), st.integers(1, 2**40))
def test_ranges_go_out_inclusive_and_come_back_half_open(start: int, length: int) -> None:
    """Only _http knows that HTTP's last position is inclusive."""
    value = range_header(start, start + length)
    first, last = value.removeprefix("bytes=").split("-")
    part = parse_part(Head(206, {"content-range": f"bytes {first}-{last}/{start + length}"}), "u")
    assert part.extent == (start, start + length)
    assert part.size == start + length


@pytest.mark.parametrize(
    "value",
    [
        "bytes 5-4/10",
        "bytes 0-10/10",
        "bytes 0-9/5",
        "bytes -1-5/10",
        "bytes 0-9/-10",
        "bytes 0-9",
        "0-9/10",
        "bytes */10",
        "bytes 0-99999999999999999999999/*",
        "bytes 0-9/" + "9" * 400,
        "bytes 0-9/9223372036854775808",
        "bytes \u0660-\u0669/10",
        "lines 0-9/10",
        "bytes 0-9/10, bytes 20-29/40",
    ],
)
def test_garbage_in_content_range_is_an_error(value: str) -> None:
    """Bounded work, and an error that shows no more than 80 characters of it."""
    with pytest.raises(HctefNetworkError, match="makes no sense") as caught:
        parse_part(Head(206, {"content-range": value}), "u")
    assert len(str(caught.value)) < 200


def test_a_hidden_content_range_is_named() -> None:
    """So is multipart/byteranges, which hctef never asks for."""
    with pytest.raises(RangeRequestsUnsupportedError) as caught:
        parse_part(Head(206, {"content-type": "multipart/byteranges; boundary=x"}), "u")
    assert caught.value.reason == "content-range-hidden"
    assert "multipart" in str(caught.value)


@pytest.mark.parametrize("length", ["9", "11", "-10", "x", "10, 11", "9" * 50])
def test_a_content_length_that_does_not_fit_is_an_error(length: str) -> None:
    """RFC 9110 section 8.6."""
    with pytest.raises(HctefNetworkError, match="does not fit"):
        parse_part(Head(206, {"content-range": "bytes 0-9/10", "content-length": length}), "u")


def test_a_repeated_content_length_is_one() -> None:
    """RFC 9110 section 8.6 allows a list of the same value."""
    head = Head(206, {"content-range": "bytes 0-9/10", "content-length": "10, 10"})
    assert parse_part(head, "u").size == 10


def test_coded_bytes_are_refused() -> None:
    """A range of a compressed stream is none of the file."""
    with pytest.raises(HctefNetworkError, match="gzip"):
        parse_part(Head(206, {"content-range": "bytes 0-9/10", "content-encoding": "gzip"}), "u")


@pytest.mark.parametrize(
    ("seen", "conditions"),
    [
        (Validator('"a"', "Mon"), {"If-Match": '"a"'}),
        (Validator('W/"a"', "Mon"), {"If-Unmodified-Since": "Mon"}),
        (Validator('W/"a"'), {}),
        (Validator(None, "Mon"), {"If-Unmodified-Since": "Mon"}),
        (Validator(), {}),
    ],
)
def test_conditions_follow_the_validator(seen: Validator, conditions: dict[str, str]) -> None:
    """Strong ETag, else the date; a weak one never in If-Match (RFC 9110 section 13.1.1)."""
    assert seen.conditions == conditions


@pytest.mark.parametrize(
    ("seen", "headers", "changed"),
    [
        (Validator('"a"'), {"etag": '"a"'}, False),
        (Validator('"a"'), {"etag": '"b"'}, True),
        (Validator('"a"'), {}, True),
        (Validator('W/"a"'), {"etag": 'W/"a"'}, False),
        (Validator('W/"a"'), {"etag": 'W/"b"'}, True),
        (Validator('W/"a"', "Mon"), {"etag": 'W/"a"', "last-modified": "Mon"}, False),
        (Validator('W/"a"', "Mon"), {"etag": 'W/"a"', "last-modified": "Tue"}, True),
        (Validator('W/"a"', "Mon"), {"etag": 'W/"a"'}, False),
        (Validator('"a"', "Mon"), {"etag": '"a"', "last-modified": "Tue"}, False),
        (Validator(None, "Mon"), {"last-modified": "Tue"}, True),
        (Validator(None, "Mon"), {}, True),
        (Validator(), {"etag": '"new"'}, False),
    ],
)
def test_versions_are_told_apart(seen: Validator, headers: dict[str, str], changed: bool) -> None:
    """A validator that is missing later is a change."""
    if changed:
        with pytest.raises(RemoteFileChangedError, match="validate='size'") as caught:
            check_version(seen, Head(206, headers), "u")
        found = re.search(r"it was (.*), now it is (.*) \(", str(caught.value))
        assert found is not None
        assert found[1] != found[2]
    else:
        check_version(seen, Head(206, headers), "u")


@pytest.mark.parametrize(
    ("status", "kind", "builtin"),
    [
        (401, RemotePermissionError, PermissionError),
        (403, RemotePermissionError, PermissionError),
        (404, RemoteFileNotFoundError, FileNotFoundError),
        (410, RemoteFileNotFoundError, FileNotFoundError),
        (412, RemoteFileChangedError, OSError),
        (200, RangeRequestsUnsupportedError, OSError),
        (304, HctefNetworkError, OSError),
        (418, HctefNetworkError, OSError),
        (503, HctefNetworkError, OSError),
    ],
)
def test_a_status_becomes_the_error_of_the_tree(status: int, kind: type, builtin: type) -> None:
    """The message names the URL and the status; the error carries it."""
    error = status_error(Head(status), "http://host/f [0, 10)")
    assert type(error) is kind
    assert isinstance(error, builtin)
    assert error.status == status
    assert str(status) in str(error)
    assert "http://host/f [0, 10)" in str(error)


@pytest.mark.parametrize("location", [None, "", "ftp://x/y", "javascript:1", "http://[x"])
def test_redirects_lead_to_http_only(location: str | None) -> None:
    """Anything else is the server's fault, not the caller's URL."""
    head = Head(302, {} if location is None else {"location": location})
    with pytest.raises(HctefNetworkError):
        redirect_target(parse_url("http://host/a/b"), head)


def test_redirects_may_be_relative() -> None:
    """RFC 9110 section 10.2.2."""
    assert (
        redirect_target(parse_url("http://host/a/b"), Head(302, {"location": "../c?x=1"})).request
        == "http://host/c?x=1"
    )
