"""Responses that are not plain, replayed to `http.client` and urllib3 from their first byte: they know all there is."""

from __future__ import annotations

import http.client
import io
from typing import Any

import urllib3


class _Replayed(io.RawIOBase):
    """A socket's bytes, after some that were received already."""

    def __init__(self, sock: Any, before: bytes) -> None:
        self._raw, self._before = sock.makefile("rb", buffering=0), before

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int | None:
        if self._before:
            count = min(len(target), len(self._before))
            target[:count], self._before = self._before[:count], self._before[count:]
            return count
        received: int | None = self._raw.readinto(target)
        return received

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Replay:
    """What `http.client` asks of a socket."""

    def __init__(self, sock: Any, before: bytes) -> None:
        self._file = io.BufferedReader(_Replayed(sock, before))

    def makefile(self, _: str) -> Any:
        return self._file


def replayed(connection: Any, url: str, before: bytes) -> urllib3.HTTPResponse:
    """The response to the request under way on urllib3's `connection`, of which `before` was received already."""
    replay: Any = _Replay(connection.sock, before)  # as much of a socket as is asked of
    answer = http.client.HTTPResponse(replay, method="GET")
    shutdown = connection.sock.shutdown
    try:
        answer.begin()
    except BaseException:  # raised again
        answer.close()
        raise
    if answer.will_close or connection.unanswered:
        connection.close()  # the response holds the socket's file
    return urllib3.HTTPResponse(
        body=answer,
        headers=urllib3.HTTPHeaderDict(answer.msg.items()),
        status=answer.status,
        version=answer.version,
        reason=answer.reason,
        preload_content=False,
        decode_content=False,
        original_response=answer,
        request_method="GET",
        request_url=url,
        sock_shutdown=shutdown,
    )
