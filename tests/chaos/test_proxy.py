"""The network's faults are what they are called: else the chaos suite would prove less than it says."""

from __future__ import annotations

import gc
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.private_servers.proxy import Direction, Network, Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends everything back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection:
        while piece := _receive(connection):
            connection.sendall(piece)


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100)
    except ConnectionError:
        return b""


@pytest.fixture
def network() -> Iterator[Network]:
    """A network."""
    with Network() as network:
        yield network


def _dial(proxy: Proxy, seconds: float = 10) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=seconds)


def test_it_carries_both_ways_and_passes_the_end_on(network: Network, echo: int) -> None:
    """Without a fault it must not be noticed."""
    with closing(_dial(network.proxy([echo]))) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""


def test_it_goes_to_the_next_upstream_where_one_is_down(network: Network, echo: int) -> None:
    """A worker whose broker node was killed would otherwise be alone until that very node is back."""
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = network.proxy([unused.getsockname()[1], echo])
    with closing(_dial(proxy)) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"


def test_a_cut_ends_what_there_is_and_what_comes_until_it_is_healed(network: Network, echo: int) -> None:
    """Otherwise nothing would ever have to reconnect."""
    proxy = network.proxy([echo])
    with closing(_dial(proxy)) as before:
        before.sendall(b"x")
        before.recv(1)
        proxy.cut()
        assert _ended(before)
    with closing(_dial(proxy)) as during:
        assert _ended(during)
    proxy.heal()
    with closing(_dial(proxy)) as after:
        after.sendall(b"y")
        assert after.recv(1) == b"y"


def test_a_slow_network_takes_its_time(network: Network, echo: int) -> None:
    """Otherwise no time-out would ever be near."""
    proxy = network.proxy([echo])
    proxy.slow(0.1)
    with closing(_dial(proxy)) as connection:
        began = time.monotonic()
        connection.sendall(b"x")
        connection.recv(1)
        assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("held", list(Direction))
def test_a_black_hole_holds_and_then_delivers(network: Network, echo: int, held: Direction) -> None:
    """What was sent into it arrives late, as it does with TCP; nothing says so meanwhile."""
    proxy = network.proxy([echo])
    with closing(_dial(proxy)) as connection:
        connection.sendall(b"x")
        connection.recv(1)
        proxy.black_hole(held)
        connection.sendall(b"late")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.heal()
        connection.settimeout(10)
        assert connection.recv(100) == b"late"


def test_what_was_held_arrives_although_its_sender_has_gone(network: Network) -> None:
    """A DELETE whose sender gave up is carried out later: the case that the settling time is for."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        proxy = network.proxy([server.getsockname()[1]])
        proxy.black_hole(Direction.REQUESTS)
        with closing(_dial(proxy)) as connection:
            far, _ = server.accept()
            connection.sendall(b"DELETE")
        proxy.heal()
        with far:
            far.settimeout(10)
            assert far.recv(100) == b"DELETE"


def _ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionError:
        return True


def test_what_it_has_just_accepted_at_its_end_is_closed(echo: int) -> None:
    """The garbage collector would report it in a later test, which then fails for no reason of its own."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(20):
            with Network() as network:
                connection = _dial(network.proxy([echo]))
            connection.close()
        gc.collect()
    assert [str(warning.message) for warning in warned] == []
