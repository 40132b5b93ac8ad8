"""Where a daemon is found: told from an address's text alone, or the places to look where there is none.

Anything with a ``/`` (or ``unix:`` before it) is the path of a Unix socket; ``HOST:PORT``,
``tcp:HOST:PORT`` and a bare port number, then on ``localhost``, are TCP. A socket under ``/tmp`` counts as
a default only where its directory belongs to this user, because anyone may make one there.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import List, Optional, Union

from .errors import AddressError

_DEFAULT = "/run/nkv.sock"


@dataclass(frozen=True)
class Unix:
    """The path of a Unix socket."""

    path: str

    def __str__(self) -> str:
        is_plain = "/" in self.path and not self.path.startswith(("unix:", "tcp:"))
        return self.path if is_plain else f"unix:{self.path}"


@dataclass(frozen=True)
class Tcp:
    """A host without brackets, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


Address = Union[Unix, Tcp]


def parse(text: str) -> Address:
    """Reads an address. Raises `AddressError`."""
    if text.startswith("unix:"):
        if text == "unix:":
            raise AddressError("an address is a path or HOST:PORT, not nothing")
        return Unix(text[5:])
    if text.startswith("tcp:"):
        return _tcp(text[4:])
    return Unix(text) if "/" in text else _tcp(text)


def default() -> Address:
    """``$NKV_ADDRESS``, else the first of the usual places at which there is a socket."""
    text = os.environ.get("NKV_ADDRESS")
    if text:
        return parse(text)
    places = _own_places(os.geteuid(), os.environ.get("XDG_RUNTIME_DIR"))
    found = (path for path in places + [_DEFAULT] if _is_socket(path))
    return Unix(next(found, places[0]))


def _tcp(text: str) -> Tcp:
    if not text:
        raise AddressError("an address is a path or HOST:PORT, not nothing")
    host, colon, port = text.rpartition(":")
    if not colon:
        if not _is_number(text):
            raise AddressError(
                f"{text!r} is no address: a path has a '/' (or 'unix:' before it), "
                "TCP is HOST:PORT or a port"
            )
        host = "localhost"
    if not _is_number(port) or int(port) > 65535:
        raise AddressError(f"{port!r} is no port: a number up to 65535 is needed")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_bracketed = bare != host
    is_host = bool(bare) and (":" in bare) == is_bracketed and not _is_odd(bare)
    if not is_host:
        raise AddressError(
            f"{host!r} is no host: a name or an address, an IPv6 address in brackets, "
            "is needed before the port"
        )
    return Tcp(bare, int(port))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_odd(host: str) -> bool:
    return any(char in "[]/" or char.isspace() or not char.isprintable() for char in host)


def _own_places(uid: int, runtime_directory: Optional[str]) -> List[str]:
    if uid == 0:
        return [_DEFAULT]
    directories = [f"/tmp/nkv-{uid}"]
    if runtime_directory and os.path.isabs(runtime_directory):
        directories.insert(0, runtime_directory)
    return [os.path.join(directory, "nkv.sock") for directory in directories]


def _is_socket(path: str) -> bool:
    try:
        if path.startswith("/tmp/"):
            directory = os.lstat(os.path.dirname(path))
            if not stat.S_ISDIR(directory.st_mode) or directory.st_uid != os.geteuid():
                return False
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
