"""What a signal's handler raises while a call waits: of whatever type that is, it is none of the call's own errors.

A handler runs in the main thread when a call returns, and what it raises comes out of the call, whose result is lost: a
TimeoutError of `signal.alarm` out of `recv_into`, say, with the bytes that were received. Whoever took it for the
socket's would go on behind them. So it becomes an Interrupted, which ends all that is under way as a KeyboardInterrupt
does, and what it was again where the caller's call ends.
"""

from __future__ import annotations

import functools
import inspect
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_BETWEEN = frozenset({"concurrent", "hctef", "http", "queue", "socket", "ssl", "threading", "urllib3"})
"""What stands between us and the calls in C that wait, and has no handler. To look at a frame's variables has them kept
with the frame, the error among them, until the garbage collector comes (before Python 3.13)."""


class Interrupted(BaseException):
    """What a handler raised: no `except` for a call's own errors is to take it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Unwrapped:
    """Around a caller's call: what a handler raised comes out of it as it was."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Interrupted):
            raise error.error from None


def is_handlers(error: BaseException) -> bool:
    """Whether it came out of the handler of a signal, or of what that called."""
    if threading.current_thread() is not threading.main_thread():
        return False
    codes = {_code(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None and not (trace.tb_frame.f_code in codes or _is_given_a_frame(trace.tb_frame)):
        trace = trace.tb_next
    return trace is not None


def handlers_error(error: BaseException | None, besides: BaseException | None, depth: int = 6) -> Exception | None:
    """The error of a handler that a library has put its own around, more than once perhaps. `besides`: what was being
    handled before."""
    if error is None or error is besides or not depth:
        return None
    for each in (error.__cause__, error.__context__, *error.args):
        if isinstance(each, BaseException) and (found := handlers_error(each, besides, depth - 1)) is not None:
            return found
    return error if isinstance(error, Exception) and is_handlers(error) else None


def interrupted(error: BaseException) -> BaseException:
    """The same, or an Interrupted, where a handler's it is."""
    return Interrupted(error) if isinstance(error, Exception) and is_handlers(error) else error


def called[T](function: Callable[..., T], *arguments: Any) -> T:
    """Call what waits, perhaps. Raises Interrupted, with the error of a handler that ran meanwhile."""
    try:
        return function(*arguments)
    except Exception as error:  # raised again
        if is_handlers(error):
            raise Interrupted(error) from None
        raise


def _is_given_a_frame(frame: FrameType) -> bool:
    """Whether a function was called as a handler is, which need not be installed any longer."""
    code = frame.f_code
    if frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        return False
    count = code.co_argcount + bool(code.co_flags & inspect.CO_VARARGS)
    given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_kwonlyargcount + count]]
    return any(isinstance(each, FrameType) for value in given for each in (value if type(value) is tuple else (value,)))


def _code(handler: Any) -> object:
    """What a handler's frame runs; None: it is none of Python's."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    function = getattr(handler, "__func__", handler)
    if callable(function) and not hasattr(function, "__code__"):
        function = type(function).__call__
    return getattr(function, "__code__", None)
