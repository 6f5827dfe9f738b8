"""What a signal's handler raises while a call waits: of whatever type that is, it is none of the call's own errors.

A handler runs in the main thread when a call returns, and what it raises comes out of the call, whose result is lost: a
TimeoutError of `signal.alarm` out of `recv_into`, say, with the bytes that were received. Whoever took it for the
socket's would go on behind them.
"""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable
from typing import Any


class Interrupted(BaseException):
    """What a handler raised: no `except` for a call's own errors is to take it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def is_handlers(error: BaseException) -> bool:
    """Whether it came out of the handler of a signal, or of what that called."""
    if threading.current_thread() is not threading.main_thread():
        return False
    codes = {_code(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code not in codes:
        trace = trace.tb_next
    return trace is not None


def called[T](function: Callable[..., T], *arguments: Any) -> T:
    """Call what waits, perhaps. Raises Interrupted, with the error of a handler that ran meanwhile."""
    try:
        return function(*arguments)
    except Exception as error:
        if is_handlers(error):
            raise Interrupted(error) from None
        raise


def _code(handler: Any) -> object:
    """What a handler's frame runs; None: it is none of Python's."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    function = getattr(handler, "__func__", handler)
    if callable(function) and not hasattr(function, "__code__"):
        function = type(function).__call__
    return getattr(function, "__code__", None)
