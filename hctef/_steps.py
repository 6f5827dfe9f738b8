"""What a generator of the core yields, and what it is sent back: the whole contract between the core and its drivers.

| step | the driver does | and sends back |
| --- | --- | --- |
| `Send` | sends a request, after it has put away the response before it | the response's `Head` |
| `Ahead` | sends more requests behind the response under way, where it can | None |
| `Collect` | stores what has come in whole of what follows the response under way | how many responses that were |
| `Receive` | reads some of the body | 1 to `limit` bytes, b'' at its end; their number, where it has `into` |
| `Drop` | puts the response away | None |
| `Fill` | copies bytes into the arena | None |
| `Disk` | calls a function that reads or writes a disk | its result |
| `Deliver` | hands bytes to whoever iterates over a stream | None |
| `Sleep` | waits, or stops when the file is closed | None |
| `Wait` | waits until a future is done | its result |
| `Call` | calls a function of the caller's | its result |
| `FetchPlan` | runs the transfers of its claims, or waits for others' | None |
| `Detach` | performs another generator beside the caller, with the response that came last | None |

`TransportError` is thrown in where the network fails, `Cancelled` where nobody wants the bytes, and any other exception
as it is. A step is computed under the file's lock and performed outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from hctef._heads import Expected
from hctef._intervals import Claim
from hctef._ranges import ByteRange


class Cancelled(Exception):
    """The file was closed, or the reader that asked for these bytes gave up."""


# Written out: they are made for each request, and this way, as `import hctef` is, ten times faster than as frozen
# dataclasses. Nobody changes one.


class Send:
    """A request. Two are alike where all but `then` and `expects` is. Its repr shows no credential."""

    __slots__ = ("expects", "foreign", "headers", "method", "then", "url")

    def __init__(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        foreign: bool = False,
        then: Callable[[], Sequence[Send]] | None = None,
        *,
        expects: Expected | None = None,
    ) -> None:
        """`foreign`: a redirect led to another origin: a caller's session or pool adds none of its own credentials.
        `then`: what this generator will send after it, if all goes well: whoever can pipeline may send it ahead.
        `expects`: a head that needs no check, where it comes just so."""
        self.method, self.url, self.headers, self.foreign, self.then = method, url, headers, foreign, then
        self.expects = expects

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Send):
            return NotImplemented
        return (self.method, self.url, self.headers, self.foreign) == (
            other.method,
            other.url,
            other.headers,
            other.foreign,
        )

    __hash__ = None  # type: ignore[assignment]  # headers are a mapping


class Ahead:
    __slots__ = ("requests",)

    def __init__(self, requests: tuple[Send, ...]) -> None:
        """All that are to follow the response under way, those that were sent already first."""
        self.requests = requests


class Collect:
    __slots__ = ("extents", "put")

    def __init__(self, extents: Iterable[ByteRange], put: Callable[[int, memoryview], object]) -> None:
        """`extents`: what was asked for behind the response under way, whose body is over, in order. `put` stores bytes
        where they belong, of responses alone that are like that one but for the bytes that they bring: just those that
        were asked for. Nothing is waited for."""
        self.extents, self.put = extents, put


class Receive:
    __slots__ = ("into", "least", "limit")

    def __init__(self, limit: int, into: memoryview | None = None, least: int = 1) -> None:
        """`into`: room for `limit` bytes: they are put there. `least`: so many are waited for, fewer come only at the
        end: where nobody waits for the first of them, steps cost more than waiting."""
        self.limit, self.into, self.least = limit, into, least


class Drop:
    __slots__ = ()


class Fill:
    __slots__ = ("data", "start")

    def __init__(self, start: int, data: bytes | memoryview) -> None:
        self.start, self.data = start, data


class Disk:
    __slots__ = ("data", "function")

    def __init__(self, function: Callable[..., Any], data: bytes | memoryview | None = None) -> None:
        """`function` is given the `data`, where there is some. An event loop has it called in a thread."""
        self.function, self.data = function, data


class Deliver:
    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Sleep:
    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Wait:
    __slots__ = ("future",)

    def __init__(self, future: Future[Any]) -> None:
        self.future = future


class Call:
    __slots__ = ("function",)

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function


class FetchPlan:
    """Either claims or waits, never both: no reader waits while it holds a claim, so nobody waits in a circle."""

    __slots__ = ("background", "claims", "wait")

    def __init__(
        self,
        claims: tuple[Claim, ...] = (),
        background: tuple[Claim, ...] = (),
        wait: tuple[Future[None], ...] = (),
    ) -> None:
        """`claims`: fetched now; the plan is done when each of them is released. `background`: fetched too, but nobody
        waits for them here."""
        self.claims, self.background, self.wait = claims, background, wait


class Detach:
    __slots__ = ("claim", "generator")

    def __init__(self, claim: Claim, generator: Generator[Step, Any, None]) -> None:
        """`generator` brings the claim's bytes, and gives it back."""
        self.claim, self.generator = claim, generator


Step = Send | Ahead | Collect | Receive | Drop | Fill | Disk | Deliver | Sleep | Wait | Call | FetchPlan | Detach
type PlanGen[T] = Generator[Step, Any, T]
NOTHING = FetchPlan()
"""Nothing to do."""
