"""The world of asyncio: one protocol object a connection, futures for whoever waits.

Requests are written at once, so tasks that share a connection have theirs under way together. Events are
read only as fast as they are taken: beyond `_EVENTS_MAX` the socket is left alone, and the daemon, which
notices, tells the newest value of each key later.

A call that is cancelled gives up its answer only, and no event is lost.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Any, Coroutine, Deque, Dict, Optional, Set, TypeVar

from ._address import Address, Unix
from ._exchange import Exchange
from ._wire import Fields
from .errors import ConnectError, Disconnected, ProtocolError, ServerError, Timeout, Unanswered

T = TypeVar("T")

_EVENTS_MAX = 256
_READ_BYTES = 16 << 10


class Loop:
    """See `_world.World`."""

    async def connect(self, address: Address, timeout: float) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            if isinstance(address, Unix):
                made = loop.create_unix_connection(Connection, address.path)
                _, connection = await asyncio.wait_for(made, timeout)
            else:
                _, connection = await asyncio.wait_for(
                    loop.create_connection(Connection, address.host, address.port), timeout
                )
        except (OSError, asyncio.TimeoutError) as error:
            what = str(error) or "no answer in time"
            raise ConnectError(f"cannot connect to {address}: {what}") from error
        return connection

    def signal(self) -> Signal:
        return Signal()

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> Task:
        return Task(name, work)


class Connection(asyncio.BufferedProtocol):
    """See `_world.Connection`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Optional[asyncio.Transport] = None
        self._exchange = Exchange()
        self._buffer = bytearray(_READ_BYTES)
        self._answers: Dict[int, asyncio.Future[Optional[Fields]]] = {}
        self._events: Deque[Fields] = deque()
        self._event_waiter: Optional[asyncio.Future[None]] = None
        self._has_room = Signal()
        self._is_full = False
        self._is_paused = False
        self._end: Optional[BaseException] = None
        self._ended = Signal()

    async def ask(self, body: str, timeout: Optional[float]) -> Fields:
        deadline = None if timeout is None else self._loop.time() + timeout
        while self._is_full and self._end is None:
            wait = None if deadline is None else deadline - self._loop.time()
            if wait is not None and wait <= 0:
                raise Timeout("there was no room for the request all the time")
            await self._has_room.wait(self._has_room.count, wait)
        transport = self._transport
        if self._end is not None or transport is None or transport.is_closing():
            raise Disconnected("the connection has ended") from self._end
        number, line = self._exchange.request(body)
        was_empty = not transport.get_write_buffer_size()
        transport.write(line)
        if was_empty and transport.is_closing():
            # What is written at once and fails at once was not taken at all.
            raise Disconnected("the connection has ended")
        answer: asyncio.Future[Optional[Fields]] = self._loop.create_future()
        self._answers[number] = answer
        try:
            fields = await _until(answer, timeout)
        finally:
            del self._answers[number]
        if fields is None:
            raise Timeout("no answer in time; it may have been done, or be yet")
        return fields

    async def event(self, timeout: Optional[float]) -> Optional[Fields]:
        if not self._events:
            if self._end is None:
                self._event_waiter = self._loop.create_future()
                try:
                    await _until(self._event_waiter, timeout)
                finally:
                    self._event_waiter = None
            if not self._events:
                if self._end is not None:
                    raise Disconnected("the connection has ended") from self._end
                return None
        event = self._events.popleft()
        if self._is_paused and not self._events and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return event

    async def ended(self, timeout: Optional[float]) -> bool:
        if self._end is None:
            await self._ended.wait(self._ended.count, timeout)
        return self._end is not None

    def is_closed(self) -> bool:
        transport = self._transport
        return self._end is not None or transport is None or transport.is_closing()

    def discard(self) -> None:
        """Nothing is left to be done: whoever waited has been told."""

    def close(self) -> None:
        self._finish(Disconnected("it was closed here"))
        if self._transport is not None:
            self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        plug = transport.get_extra_info("socket")
        if plug is not None and plug.family != getattr(socket, "AF_UNIX", None):
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for number, fields in self._exchange.receive(bytes(self._buffer[:nbytes])):
                if number is None:
                    self._events.append(fields)
                else:
                    answer = self._answers.get(number)
                    if answer is not None and not answer.done():
                        answer.set_result(fields)
        except (ProtocolError, ServerError) as error:
            self._finish(error)
            if self._transport is not None:
                self._transport.abort()
        if self._events:
            if len(self._events) > _EVENTS_MAX and not self._is_paused and self._transport:
                self._is_paused = True
                self._transport.pause_reading()
            self._wake_reader()

    def eof_received(self) -> bool:
        self._finish(Disconnected("the daemon closed it"))
        return False

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._finish(exc or Disconnected("the connection has ended"))

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._has_room.notify()

    def _finish(self, reason: BaseException) -> None:
        if self._end is not None:
            return
        self._end = reason
        for answer in self._answers.values():
            if not answer.done():
                error = Unanswered("the answer never came, it may have been done or not")
                error.__cause__ = reason
                answer.set_exception(error)
        self._has_room.notify()
        self._ended.notify()
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._event_waiter is not None and not self._event_waiter.done():
            self._event_waiter.set_result(None)


class Signal:
    """See `_world.Signal`. To be used in the loop's thread."""

    def __init__(self) -> None:
        self.count = 0
        self._waiters: Set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        self.count += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, count: int, timeout: Optional[float]) -> None:
        if self.count != count:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await _until(waiter, timeout)
        finally:
            self._waiters.discard(waiter)


class Task:
    """See `_world.Task`."""

    def __init__(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(work, name=name)

    async def join(self) -> None:
        if self._task is not asyncio.current_task():
            await asyncio.wait([self._task])


async def _until(waiter: asyncio.Future[Optional[T]], timeout: Optional[float]) -> Optional[T]:
    """What a future comes to; none where that takes longer. (`asyncio.wait_for` costs much more.)"""
    if timeout is None:
        return await waiter
    timer = asyncio.get_running_loop().call_later(timeout, _expire, waiter)
    try:
        return await waiter
    finally:
        timer.cancel()


def _expire(waiter: asyncio.Future[Optional[T]]) -> None:
    if not waiter.done():
        waiter.set_result(None)
