"""What the clients need of the world around them, in two editions: threads that block, and asyncio.

All that a client decides is written once, as coroutines over what stands here. Over `_loop.Loop` they
are what they look like. Over `_threads.Threads` each step blocks until it is done, so a coroutine never
waits for anybody, and runs to its end in one go (`_threads.run`).

What coroutines share they change under a plain lock that is never held over an ``await``.
"""

from __future__ import annotations

import time
from typing import Any, Coroutine, Optional, Protocol

from ._address import Address
from ._wire import Fields


class Connection(Protocol):
    """One connection. Any number may ask; events are for one."""

    async def ask(self, body: str, timeout: Optional[float]) -> Fields:
        """Sends a request and waits for its answer.

        Raises `Disconnected` where nothing of it was sent, `Unanswered` where some was and the connection
        has ended, and `Timeout`.
        """

    async def event(self, timeout: Optional[float]) -> Optional[Fields]:
        """The next event; none where there is none in time. Raises `Disconnected` at the end."""

    async def ended(self, timeout: Optional[float]) -> bool:
        """Waits for the end of the connection, and tells whether it has come."""

    def is_closed(self) -> bool:
        """Whether it is known to have ended."""

    def discard(self) -> None:
        """Lets go of one that has ended, but leaves it to those who still wait for something from it."""

    def close(self) -> None:
        """Ends it, and with it whatever waits for it."""


class Signal(Protocol):
    """Wakes those who wait for something to happen. It counts, so that nothing is slept through."""

    count: int

    def notify(self) -> None:
        """It has happened once more."""

    async def wait(self, count: int, timeout: Optional[float]) -> None:
        """Waits until the count is another one."""


class Task(Protocol):
    """Something that runs beside."""

    async def join(self) -> None:
        """Waits for its end, unless it is the one that asks."""


class World(Protocol):
    """How to wait and whom to wait for."""

    async def connect(self, address: Address, timeout: float) -> Connection:
        """Raises `ConnectError`."""

    def signal(self) -> Signal:
        """A signal."""

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> Task:
        """Lets something run beside."""


def after(timeout: Optional[float]) -> Optional[float]:
    """The moment when so many seconds have passed."""
    return None if timeout is None else time.monotonic() + timeout


def left(deadline: Optional[float]) -> Optional[float]:
    """The seconds until then."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def sooner(one: Optional[float], other: Optional[float]) -> Optional[float]:
    """The shorter of two times, either of which may have no end."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
