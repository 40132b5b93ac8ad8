"""A connection's bookkeeping without its socket: requests become bytes, bytes become answers and events.

Who reads and writes, waits and wakes, is not known here. The daemon answers in order, so an answer
belongs to the oldest request that has none, and one with another id means that the two sides don't agree
any more. What is held is the beginning of one line, and the ids of what is unanswered.
"""

from __future__ import annotations

from collections import deque
from typing import Deque, Iterator, List, Optional, Tuple

from ._wire import Fields, parse
from .errors import ProtocolError, refusal

LINE_BYTES_MAX = 256 << 20
"""The longest line that is taken. Far above what a daemon with sensible limits sends."""


class Exchange:
    """What one connection has to remember."""

    def __init__(self) -> None:
        self._next_id = 1
        self._unanswered: Deque[int] = deque()
        self._begun: List[bytes] = []
        self._begun_bytes = 0

    def request(self, body: str) -> Tuple[int, bytes]:
        """Numbers a request, and gives the line to be sent."""
        number = self._next_id
        self._next_id += 1
        self._unanswered.append(number)
        return number, f'{{"id":{number},{body}}}\n'.encode()

    def receive(self, data: bytes) -> Iterator[Tuple[Optional[int], Fields]]:
        """Takes in bytes: answers with the numbers of their requests, events with none.

        Raises `ProtocolError`, or the refusal of the connection as a whole. It is of no more use then.
        """
        *lines, rest = data.split(b"\n")
        if lines and self._begun:
            self._begun.append(lines[0])
            lines[0] = b"".join(self._begun)
            self._begun = []
            self._begun_bytes = 0
        for line in lines:
            if line.strip():
                fields = parse(line)
                if "event" in fields:
                    yield None, fields
                elif "ok" in fields:
                    yield self._answered(fields), fields
        if rest:
            self._begun.append(rest)
            self._begun_bytes += len(rest)
            if self._begun_bytes > LINE_BYTES_MAX:
                raise ProtocolError(f"a line of more than {LINE_BYTES_MAX} bytes")

    def _answered(self, fields: Fields) -> int:
        if not self._unanswered:
            if not fields["ok"]:
                # The daemon has too many clients.
                raise refusal(fields)
            raise ProtocolError("an answer that nothing asked for")
        number = self._unanswered.popleft()
        # A line that was too long to be read is answered without its id.
        if fields.get("id", number) != number:
            raise ProtocolError("an answer to another request than the oldest")
        return number
