"""What a generator of the core yields, and what it is sent back: the whole contract between the core and its drivers.

| step | the driver does | and sends back |
| --- | --- | --- |
| `Send` | sends a request, after it has put away the response before it | the response's `Head` |
| `Ahead` | sends more requests behind the response under way, where it can | None |
| `Receive` | reads some of the body | 1 to `limit` bytes, b'' at its end; their number, where it has `into` |
| `Drop` | puts the response away | None |
| `Fill` | copies bytes into the arena | None |
| `Deliver` | hands bytes to whoever iterates over a stream | None |
| `Sleep` | waits, or stops when the file is closed | None |
| `Wait` | waits until a future is done | its result |
| `Call` | calls a function of the caller's | its result |
| `FetchPlan` | runs the transfers of its claims, or waits for others' | None |
| `Detach` | performs another generator beside the caller, with the response that came last | None |

`TransportError` is thrown in where the network fails, and any other exception as it is. A step is computed under the
file's lock and performed outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from hctef._intervals import Claim


@dataclass(frozen=True, slots=True)
class Send:
    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    foreign: bool = False
    """A redirect led to another origin: a caller's session or pool adds none of its own credentials."""
    then: Callable[[], Sequence[Send]] | None = field(default=None, repr=False, compare=False)
    """What this generator will send after it, if all goes well: whoever can pipeline may send it ahead."""


@dataclass(frozen=True, slots=True)
class Ahead:
    requests: tuple[Send, ...]
    """All that are to follow the response under way, those that were sent already first."""


@dataclass(frozen=True, slots=True)
class Receive:
    limit: int
    into: memoryview | None = field(default=None, repr=False)
    """Room for `limit` bytes: they are put there."""
    whole: bool = False
    """As many as there is room for, fewer only at the end: where they come fast, steps cost more than waiting."""


@dataclass(frozen=True, slots=True)
class Drop:
    pass


@dataclass(frozen=True, slots=True)
class Fill:
    start: int
    data: bytes | memoryview = field(repr=False)


@dataclass(frozen=True, slots=True)
class Deliver:
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    future: Future[Any]


@dataclass(frozen=True, slots=True)
class Call:
    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """Either claims or waits, never both: no reader waits while it holds a claim, so nobody waits in a circle."""

    claims: tuple[Claim, ...] = ()
    """Fetched now; the plan is done when each of them is released."""
    background: tuple[Claim, ...] = ()
    """Fetched too, but nobody waits for them here."""
    wait: tuple[Future[None], ...] = ()


@dataclass(frozen=True, slots=True)
class Detach:
    claim: Claim
    generator: Generator[Step, Any, None] = field(repr=False)
    """Brings the claim's bytes, and gives it back."""


Step = Send | Ahead | Receive | Drop | Fill | Deliver | Sleep | Wait | Call | FetchPlan | Detach
type PlanGen[T] = Generator[Step, Any, T]
NOTHING = FetchPlan()
"""Nothing to do."""
