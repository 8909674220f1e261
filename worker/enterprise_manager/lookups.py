"""Looks up the addresses of host names, within a time limit.

`socket.getaddrinfo` has no time-out: the resolver's own applies, which may be minutes. A lookup therefore runs on a
daemon thread of its own, and callers wait for it as long as they may. Callers that look up the same name share one
lookup, so that names that are not answered hold one thread each, however many requests there are.
"""

from __future__ import annotations

import concurrent.futures
import socket
import threading

_lock = threading.Lock()
_under_way: dict[tuple[str, int], concurrent.futures.Future[list[str]]] = {}


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
    """The lookup of this name that is under way, or a new one."""
    with _lock:
        lookup = _under_way.get((host, port))
        if lookup is None:
            lookup = concurrent.futures.Future()
            thread = threading.Thread(target=_look_up, args=(host, port, lookup), name="look up a name", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # "can't start new thread"
                raise OSError(str(error)) from None
            _under_way[host, port] = lookup
    return lookup


def _look_up(host: str, port: int, lookup: concurrent.futures.Future[list[str]]) -> None:
    found: list[str] = []
    failure: BaseException | None = None
    try:
        found = _resolved(host, port)
    except BaseException as error:  # noqa: BLE001 - raised where the lookup is awaited
        failure = error
    with _lock:
        del _under_way[host, port]
    if failure is not None:
        lookup.set_exception(failure)
    else:
        lookup.set_result(found)


def _resolved(host: str, port: int, flags: int = 0) -> list[str]:
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(_text(address) for *_, address in found))


def _text(address: tuple[object, ...]) -> str:
    """An address as `getaddrinfo` takes it: with the scope, if it has one."""
    host = str(address[0])
    scoped = len(address) == 4 and address[3] and "%" not in host  # noqa: PLR2004 - IPv6 with its scope ID
    return f"{host}%{address[3]}" if scoped else host
