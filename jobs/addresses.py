"""The network addresses to which Penstock may send a request for a client: public ones, and those an operator allows. Pure.

The blocks are those of the IANA special-purpose address registries (RFC 6890 and its updates,
https://www.iana.org/assignments/iana-ipv4-special-registry, .../iana-ipv6-special-registry), spelled out: ``is_private``
and ``is_global`` of :mod:`ipaddress` differ between the versions of Python.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, Self, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

ALL: Final = "all"
"""In an allow list: every private network of :data:`OWNED`."""

METADATA: Final = {
    ip_address(text): "a metadata service"
    for text in (
        *("169.254.169.254", "169.254.170.2", "169.254.170.23"),  # AWS, Azure, Google, Oracle; AWS ECS, EKS
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's platform, of a public block
        "192.0.0.192",  # Oracle
        *("fd00:ec2::254", "fd00:ec2::23"),  # AWS
        "fd20:ce::254",  # Google
    )
}
"""They hand out credentials of the machine. Only a list that names the block allows one; :data:`ALL` does not."""


def _table(rows: Iterable[tuple[str, str]]) -> tuple[tuple[Network, str], ...]:
    return tuple((ip_network(block), kind) for block, kind in rows)


OWNED: Final = _table(
    (
        ("127.0.0.0/8", "loopback"),
        ("10.0.0.0/8", "private"),
        ("172.16.0.0/12", "private"),
        ("192.168.0.0/16", "private"),
        ("100.64.0.0/10", "shared (carrier-grade NAT)"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),
    )
)
"""What an operator may own: :data:`ALL` allows these."""

SPECIAL: Final = _table(
    (
        ("0.0.0.0/8", "unspecified"),
        ("169.254.0.0/16", "link-local"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "reserved"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "reserved"),  # Teredo, ORCHID, benchmarks
        ("2001:db8::/32", "for documentation"),
        ("3fff::/20", "for documentation"),
    )
)

_UNICAST = IPv6Network("2000::/3")
"""All that is global unicast in IPv6; the rest is reserved."""

_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")


@dataclass(frozen=True, slots=True)
class Allowed:
    """The addresses that an operator allows beside the public ones.

    Attributes:
        networks: blocks.
        owned: every block of :data:`OWNED`, too.
    """

    networks: tuple[Network, ...] = ()
    owned: bool = False
    _all: tuple[Network, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        owned = tuple(block for block, _ in OWNED) if self.owned else ()
        object.__setattr__(self, "_all", (*self.networks, *owned))

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Read a list of blocks, addresses, and the word ``all``.

        Raises:
            ValueError: one is neither; the message names it.
        """
        given = [text.strip() for text in texts if text.strip()]
        networks = []
        for text in given:
            if text != ALL:
                try:
                    networks.append(ip_network(text))
                except ValueError as error:
                    raise ValueError(
                        f"{text!r} is neither `{ALL}` nor a network such as 10.0.0.0/8: {error}"
                    ) from None
        return cls(tuple(networks), ALL in given)

    def has(self, address: Address) -> bool:
        """Whether an address is allowed. A metadata service must be in a block that the list names."""
        blocks = self.networks if address in METADATA else self._all
        return any(address in block for block in blocks)


NOTHING: Final = Allowed()


def refusal(text: str, allowed: Allowed = NOTHING) -> str | None:
    """Return why no request may go to an address, such as ``loopback``; None: it may.

    An IPv6 address that carries an IPv4 address (mapped, NAT64, 6to4) is as good as that one.

    Args:
        text: an IPv4 or IPv6 address; an IPv6 one may have a zone.
        allowed: what the operator allows.

    Raises:
        ValueError: it is no address.
    """
    address = ip_address(text.partition("%")[0])
    target = _carried(address)
    return None if allowed.has(address) or allowed.has(target) else _kind(target)


def _carried(address: Address) -> Address:
    """Return the IPv4 address to which packets for an IPv6 address go, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _MAPPED or address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in _6TO4:
        return IPv4Address(int(address) >> 80 & 0xFFFF_FFFF)
    return address


def _kind(address: Address) -> str | None:
    if address in METADATA:
        return METADATA[address]
    for block, kind in (*OWNED, *SPECIAL):
        if address in block:
            return kind
    return "reserved" if isinstance(address, IPv6Address) and address not in _UNICAST else None
