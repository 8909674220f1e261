"""Looks up the addresses of host names, within a time limit.

`socket.getaddrinfo` has no time-out: the resolver's own applies, which may be minutes. A lookup therefore runs on a
daemon thread of its own, and callers wait for it as long as they may. Callers that look up the same name share one
lookup, so that names that are not answered hold few threads, however many requests there are. A lookup that has not
ended after a minute may never end, although the resolver answers again: then the next caller begins another one.
"""

from __future__ import annotations

import concurrent.futures
import socket
import threading
import time
from dataclasses import dataclass, field

#: For how long callers share a lookup, in seconds, and how many of one name may be under way at once.
SHARED_SECONDS = 60.0
MOST_AT_ONCE = 4


@dataclass(frozen=True, eq=False, slots=True)
class _Lookup:
    """A lookup that is under way."""

    answer: concurrent.futures.Future[list[str]] = field(default_factory=concurrent.futures.Future)
    began: float = field(default_factory=time.monotonic)


_lock = threading.Lock()
_under_way: dict[tuple[str, int], list[_Lookup]] = {}


def addresses(host: str, port: int, seconds: float) -> list[str]:
    """The addresses of a host, in the resolver's order, each once.

    Raises:
        TimeoutError: the resolver did not answer within `seconds`.
        OSError: the name cannot be resolved, or no thread can be started.
        UnicodeError: the name cannot be encoded.
    """
    try:
        return _resolved(host, port, socket.AI_NUMERICHOST)  # this asks no resolver
    except socket.gaierror:
        pass
    try:
        return _lookup(host, port).result(seconds)
    except concurrent.futures.TimeoutError:
        raise TimeoutError(f"the name {host} was not resolved within {seconds:.0f} s") from None


def _lookup(host: str, port: int) -> concurrent.futures.Future[list[str]]:
    """A lookup of this name that is under way, or a new one."""
    with _lock:
        lookups = _under_way.get((host, port), [])
        if lookups and (len(lookups) >= MOST_AT_ONCE or time.monotonic() - lookups[-1].began < SHARED_SECONDS):
            return lookups[-1].answer
        lookup = _Lookup()
        thread = threading.Thread(target=_look_up, args=(host, port, lookup), name="look up a name", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # "can't start new thread"
            raise OSError(str(error)) from None
        _under_way[host, port] = [*lookups, lookup]
    return lookup.answer


def _look_up(host: str, port: int, lookup: _Lookup) -> None:
    found: list[str] = []
    failure: BaseException | None = None
    try:
        found = _resolved(host, port)
    except BaseException as error:  # noqa: BLE001 - raised where the lookup is awaited
        failure = error
    with _lock:
        _under_way[host, port].remove(lookup)
        if not _under_way[host, port]:
            del _under_way[host, port]
    if failure is not None:
        lookup.answer.set_exception(failure)
    else:
        lookup.answer.set_result(found)


def _resolved(host: str, port: int, flags: int = 0) -> list[str]:
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(_text(address) for *_, address in found))


def _text(address: tuple[object, ...]) -> str:
    """An address as `getaddrinfo` takes it: with the scope, if it has one."""
    host = str(address[0])
    scoped = len(address) == 4 and address[3] and "%" not in host  # noqa: PLR2004 - IPv6 with its scope ID
    return f"{host}%{address[3]}" if scoped else host
