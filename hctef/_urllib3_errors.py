"""urllib3's exceptions, and those of what it stands on, as the core has them."""

from __future__ import annotations

import os
import re
import ssl

from urllib3.exceptions import (
    ConnectTimeoutError,
    EmptyPoolError,
    HeaderParsingError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from hctef._http import RETRYABLE
from hctef._retries import TransportError, untrusted


def translate(error: Exception) -> TransportError:
    """urllib3's exception in words that show no credential (its own messages may hold the URL)."""
    if isinstance(error, ssl.SSLError):
        error = SSLError(error)
    if isinstance(error, ProxyError):
        return _translate_proxy(error.original_error)
    if isinstance(error, EmptyPoolError):
        return TransportError("the pool that was passed as pool= has no free connection", connect=True)
    if isinstance(error, HeaderParsingError):
        return TransportError("the response's head is malformed", final=True)
    if isinstance(error, NameResolutionError):
        return TransportError("the host's name cannot be resolved", connect=True)
    if isinstance(error, ConnectTimeoutError | NewConnectionError):
        cause = error.__cause__
        why = os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else "timeout"
        return TransportError(f"no connection: {why}", connect=True)
    if isinstance(error, SSLError):
        reason = getattr(error.args[0] if error.args else None, "verify_message", None)
        if reason:
            return untrusted(reason)
        return TransportError(f"TLS failed: {getattr(error.args[0], 'reason', None) or 'protocol error'}", connect=True)
    if isinstance(error, ReadTimeoutError | TimeoutError):
        return TransportError("no byte came within the timeout")
    if isinstance(error, LocationValueError | ValueError) and not isinstance(error, ProtocolError):
        return TransportError(f"no request can be made of the URL ({type(error).__name__})", final=True)
    cause = error.args[-1] if isinstance(error, ProtocolError) and error.args else error
    if isinstance(cause, OSError) and cause.errno:
        return TransportError(f"the connection broke: {os.strerror(cause.errno)}")
    return TransportError(f"the connection broke ({type(cause).__name__})")


def _translate_proxy(error: Exception) -> TransportError:
    """The same where a proxy was to be spoken to."""
    refused = re.fullmatch(r"Tunnel connection failed: (4[0-9][0-9])\b.*", str(error), re.DOTALL)  # http.client's words
    if refused is not None and int(refused[1]) not in RETRYABLE:
        return TransportError(f"the proxy refuses: status {refused[1]}", final=True)
    inner = translate(error) if isinstance(error, ssl.SSLError | SSLError) else None
    if inner is not None and inner.final:
        return TransportError(f"the proxy: {inner}", final=True)
    return TransportError("the proxy cannot be reached or refuses", connect=True)
