"""The world of threads: sockets that are waited for, and coroutines that never wait.

**A connection is its lock.** Whoever asks holds it until the answer is there, writing and reading for
itself. So threads that share a connection take turns. An answer that came too late for its request is
dropped by whoever reads next.

A call that is interrupted (by Ctrl-C, say) ends its connection, because nobody can say what has been read
or written of a line.
"""

from __future__ import annotations

import select
import socket
import threading
import weakref
from collections import deque
from typing import Any, Coroutine, Deque, Dict, Optional, Set, TypeVar

from ._address import Address, Unix
from ._exchange import Exchange
from ._wire import Fields
from ._world import after, left
from .errors import (
    ConnectError,
    Disconnected,
    Error,
    ProtocolError,
    ServerError,
    Timeout,
    Unanswered,
)

T = TypeVar("T")

_READ_BYTES = 16 << 10
_HANG_UP = getattr(select, "POLLRDHUP", 0)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine of the blocking world, in one go."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("nothing waits in the world of threads")


class Threads:
    """See `_world.World`."""

    async def connect(self, address: Address, timeout: float) -> Connection:
        try:
            if isinstance(address, Unix):
                plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    plug.settimeout(timeout)
                    plug.connect(address.path)
                except BaseException:
                    plug.close()
                    raise
            else:
                plug = socket.create_connection((address.host, address.port), timeout)
                plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise ConnectError(f"cannot connect to {address}: {error}") from error
        return Connection(plug)

    def signal(self) -> Signal:
        return Signal()

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> Task:
        return Task(name, work)


class Connection:
    """See `_world.Connection`."""

    def __init__(self, plug: socket.socket) -> None:
        plug.setblocking(False)
        self._plug = plug
        # One that nobody has any more is closed, whoever left it open.
        weakref.finalize(self, plug.close)
        self._exchange = Exchange()
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._poll = select.poll()
        self._poll.register(plug, select.POLLIN)
        self._outgoing = bytearray()
        self._queued_bytes = 0
        self._written_bytes = 0
        self._wanted: Set[int] = set()
        self._answers: Dict[int, Fields] = {}
        self._events: Deque[Fields] = deque()
        self._end: Optional[BaseException] = None
        self._write_end: Optional[OSError] = None

    async def ask(self, body: str, timeout: Optional[float]) -> Fields:
        deadline = after(timeout)
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise Timeout("others were asking all the time")
        try:
            return self._ask(body, deadline)
        except Error:
            raise
        except BaseException as error:
            self._end = self._end or error
            raise
        finally:
            self._lock.release()

    async def event(self, timeout: Optional[float]) -> Optional[Fields]:
        if self._events:
            return self._events.popleft()
        deadline = after(timeout)
        with self._lock:
            try:
                while not self._events:
                    if self._end is not None:
                        raise Disconnected("the connection has ended") from self._end
                    if not self._step(deadline):
                        return None
            except Error:
                raise
            except BaseException as error:
                self._end = self._end or error
                raise
            return self._events.popleft()

    async def ended(self, timeout: Optional[float]) -> bool:
        # Not by reading: that is for those who ask. And by a descriptor that nobody closes meanwhile: its
        # number could be another connection's by the time that `poll` looks again.
        with self._closing:
            if self._plug.fileno() < 0:
                return True
            plug = self._plug.dup()
        with plug:
            poll = select.poll()
            poll.register(plug, _HANG_UP)
            wait = timeout if _HANG_UP else 1.0 if timeout is None else min(timeout, 1.0)
            poll.poll(None if wait is None else wait * 1000)
        return self.is_closed()

    def is_closed(self) -> bool:
        if self._end is not None or self._write_end is not None:
            return True
        try:
            return not self._plug.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def discard(self) -> None:
        if self._lock.acquire(blocking=False):
            self._end = self._end or Disconnected("the daemon closed it")
            self._shut()
            self._lock.release()

    def close(self) -> None:
        # This wakes whoever waits, with the lock in his hands.
        self._end = self._end or Disconnected("it was closed here")
        try:
            self._plug.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        with self._lock:
            self._shut()

    def _shut(self) -> None:
        with self._closing:
            self._plug.close()

    def _ask(self, body: str, deadline: Optional[float]) -> Fields:
        end = self._end or self._write_end
        if end is not None:
            raise Disconnected("the connection has ended") from end
        number, line = self._exchange.request(body)
        start = self._queued_bytes
        self._queued_bytes += len(line)
        self._outgoing += line
        self._wanted.add(number)
        try:
            while True:
                self._write()
                if number in self._answers:
                    return self._answers.pop(number)
                if self._end is not None:
                    if self._written_bytes <= start:
                        raise Disconnected("the connection has ended") from self._end
                    raise Unanswered(
                        "the answer never came, it may have been done or not"
                    ) from self._end
                if not self._step(deadline):
                    raise Timeout("no answer in time; it may have been done, or be yet")
        finally:
            self._wanted.discard(number)

    def _write(self) -> None:
        """Writes what the socket takes. A failure does not end the reading: the reason may be there."""
        while self._outgoing and self._write_end is None:
            try:
                count = self._plug.send(self._outgoing)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._write_end = error
                return
            self._written_bytes += count
            del self._outgoing[:count]

    def _step(self, deadline: Optional[float]) -> bool:
        """Waits until something can be read or written, and reads; `False` where the time is over."""
        wants_room = bool(self._outgoing) and self._write_end is None
        self._poll.modify(self._plug, select.POLLIN | (select.POLLOUT if wants_room else 0))
        wait = left(deadline)
        if not self._poll.poll(None if wait is None else wait * 1000):
            return False
        try:
            data = self._plug.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError as error:
            self._end = self._end or error
            return True
        if not data:
            self._end = self._end or self._write_end or Disconnected("the daemon closed it")
            return True
        try:
            for number, fields in self._exchange.receive(data):
                if number is None:
                    self._events.append(fields)
                elif number in self._wanted:
                    self._answers[number] = fields
        except (ProtocolError, ServerError) as error:
            self._end = self._end or error
        return True


class Signal:
    """See `_world.Signal`."""

    def __init__(self) -> None:
        self.count = 0
        self._condition = threading.Condition()

    def notify(self) -> None:
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    async def wait(self, count: int, timeout: Optional[float]) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self.count != count, timeout)


class Task:
    """See `_world.Task`."""

    def __init__(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._thread = threading.Thread(target=run, args=(work,), name=name, daemon=True)
        self._thread.start()

    async def join(self) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join()
