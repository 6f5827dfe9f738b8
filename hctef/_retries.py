"""When to ask again: `urllib3.Retry` is the one policy object, for every transport.

Pure: it says how long to wait, or that it is enough; the drivers wait.
"""

from __future__ import annotations

from typing import NamedTuple

from urllib3.exceptions import ConnectTimeoutError, HTTPError, InvalidHeader, MaxRetryError, ProtocolError
from urllib3.util.retry import Retry

from hctef._http import MAX_REDIRECTS, RETRYABLE, Head

PROGRESS = 64 * 1024
"""After this many new bytes a failure counts as a first one: a long read over a poor line is not a broken server."""

MAX_RETRY_AFTER = 300.0
"""Seconds. A server that says "later than this" gets its error shown instead: nobody waits an hour in silence."""


class TransportError(Exception):
    """What a transport raises into a generator in place of its library's exceptions. The message shows no
    credential."""

    def __init__(self, message: str, *, connect: bool = False, final: bool = False) -> None:
        super().__init__(message)
        self.connect = connect
        """No request was sent: the connection was not made."""
        self.final = final
        """Another try cannot help (a certificate that is not trusted, for one)."""


def untrusted(reason: str) -> TransportError:
    """The server's certificate is of no authority that is known here."""
    hint = "name its authority by SSL_CERT_FILE in the environment, or by a pool or session of your own"
    return TransportError(f"TLS: the certificate is not trusted: {reason} ({hint})", final=True)


def retry_policy(retries: int | Retry) -> Retry:
    """The policy that `retries` stands for: a number of attempts after the first, or the caller's own Retry.

    The first attempt follows at once (a stale connection is not a busy server), then 0.5, 1, 2, … seconds and up to as
    much again by chance; at most 30.
    """
    if not isinstance(retries, int):
        return retries if retries.status_forcelist else retries.new(status_forcelist=RETRYABLE)
    return Retry(total=retries, backoff_factor=0.25, backoff_jitter=0.25, backoff_max=30, status_forcelist=RETRYABLE)


def redirects(policy: Retry) -> int:
    """How many may be followed, one after the other."""
    allowed = policy.redirect
    return MAX_REDIRECTS if allowed is None or allowed is True else min(int(allowed), MAX_REDIRECTS)


def brief(policy: Retry) -> Retry:
    """Of a policy, as much as costs no wait: a stale connection is no reason to give up."""
    return Retry(total=1 if policy.total is None else min(1, int(policy.total)), status_forcelist=())


class _Answer(NamedTuple):
    """As much of a response as Retry looks at."""

    status: int
    headers: dict[str, str]

    def get_redirect_location(self) -> bool:
        return False


class Attempts:
    """The attempts at one transfer."""

    def __init__(self, policy: Retry) -> None:
        self._policy = self._left = policy
        self._progress = 0

    def progress(self, count: int) -> None:
        """`count` new bytes came."""
        self._progress += count
        if self._progress >= PROGRESS:
            self._left, self._progress = self._policy, 0

    def retryable(self, head: Head) -> bool:
        return bool(self._policy.status_forcelist) and head.status in self._policy.status_forcelist

    def after(self, failure: Head | TransportError) -> float | None:
        """Seconds to wait before the next attempt; None where there is none."""
        wait: float | None = None
        try:
            if isinstance(failure, Head):
                answer = _Answer(failure.status, {"Retry-After": failure.headers.get("retry-after", "")})
                self._left = self._left.increment("GET", "", response=answer)  # type: ignore[arg-type]  # duck-typed
                if self._left.respect_retry_after_header and answer.headers["Retry-After"]:
                    wait = self._retry_after(answer.headers["Retry-After"])
            elif failure.final:
                return None
            else:
                error: HTTPError = ProtocolError(str(failure))
                if failure.connect:
                    error = ConnectTimeoutError(str(failure))
                self._left = self._left.increment("GET", "", error=error)
        except (MaxRetryError, ProtocolError, ConnectTimeoutError):
            return None
        wait = self._left.get_backoff_time() if wait is None else wait
        return wait if wait <= MAX_RETRY_AFTER else None

    def _retry_after(self, value: str) -> float | None:
        """Seconds or an HTTP-date (RFC 9110 section 10.2.3); what is neither is not there."""
        try:
            return max(0.0, self._left.parse_retry_after(value[:100]))
        except (InvalidHeader, ValueError, OverflowError):
            return None
