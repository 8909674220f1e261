"""Addresses of clients."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: The part of an IPv6 address that one host, or one customer of a provider, chooses from freely.
_PREFIX: Final = 64

#: Some proxies name the client with its port, such as `203.0.113.7:40000` and `[2001:db8::1]:40000`.
_WITH_PORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([0-9.]+))(?::[0-9]{1,5})?")


def networks_of(text: str) -> tuple[Network, ...]:
    """Addresses and networks, separated by commas.

    Raises:
        ValueError: one of them is none.
    """
    return tuple(ipaddress.ip_network(each.strip()) for each in text.split(",") if each.strip())


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of these networks; an IPv4 address also as an IPv6 socket names it."""
    ip = _read(address)
    return ip is not None and any(ip in network for network in networks)


def without_port(text: str) -> str:
    """The address of a hop in X-Forwarded-For. Each connection from one client has a port of its own."""
    found = _WITH_PORT.fullmatch(text)
    return text if found is None else found[1] or found[2]


def block_of(address: str) -> str:
    """The address of an IPv4 client, the /64 of an IPv6 client, which may use any address in it."""
    ip = _read(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(ip), _PREFIX), strict=False))
    return address if ip is None else str(ip)


def _read(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip
