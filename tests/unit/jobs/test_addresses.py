"""The addresses that webhooks may go to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.addresses import METADATA, Allowed, refusal
from jobs.webhook_targets import TargetError, check_target

REFUSED = {
    "127.0.0.1": "loopback",
    "127.8.9.1": "loopback",
    "10.1.2.3": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.0.1": "private",
    "100.64.0.1": "shared (carrier-grade NAT)",
    "100.127.255.255": "shared (carrier-grade NAT)",
    "169.254.1.1": "link-local",
    "169.254.169.254": "a metadata service",
    "100.100.100.200": "a metadata service",
    "168.63.129.16": "a metadata service",
    "0.0.0.0": "unspecified",
    "0.1.2.3": "unspecified",
    "224.0.0.1": "multicast",
    "255.255.255.255": "reserved",
    "240.0.0.1": "reserved",
    "198.18.0.1": "for benchmarks",
    "192.0.2.1": "for documentation",
    "::": "unspecified",
    "::1": "loopback",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "fec0::1": "reserved",
    "fc00::1": "private",
    "fd00:ec2::254": "a metadata service",
    "fd12::1": "private",
    "ff02::1": "multicast",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:a9fe:a9fe": "a metadata service",
    "::127.0.0.1": "reserved",
    "64:ff9b::10.0.0.1": "private",
    "64:ff9b:1::a00:1": "reserved",
    "2002:7f00:1::": "loopback",
    "2002:a9fe:a9fe::1": "a metadata service",
    "2001::1": "reserved",
    "2001:db8::1": "for documentation",
}
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "192.169.0.1", "11.0.0.1", "169.253.0.1"),
    *("2606:4700::1111", "2a00:1450::1", "64:ff9b::8.8.8.8", "2002:808:808::1", "::ffff:8.8.8.8"),
]


@pytest.mark.parametrize(("address", "why"), REFUSED.items())
def test_these_are_refused(address: str, why: str) -> None:
    assert refusal(address) == why


@pytest.mark.parametrize("address", PUBLIC)
def test_these_are_public(address: str) -> None:
    assert refusal(address) is None


@given(st.ip_addresses(v=4))
def test_an_address_in_ipv6_is_as_good_as_the_ipv4_address(address: IPv4Address) -> None:
    packed = int(address)
    for carrier in (
        IPv6Address(0xFFFF << 32 | packed),
        IPv6Address(0x64FF9B << 96 | packed),
        IPv6Address(0x2002 << 112 | packed << 80 | 1),
    ):
        assert refusal(str(carrier)) == refusal(str(address))


@given(st.ip_addresses())
def test_nothing_is_public_that_python_knows_as_special(address: IPv4Address | IPv6Address) -> None:
    special = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
    if special or (address.is_private and "::ffff:" not in str(address)):
        assert refusal(str(address)) is not None


def test_an_allow_list_opens_what_it_names() -> None:
    allowed = Allowed.parse([" 10.1.0.0/16", "192.168.1.7", "fd12::/16", ""])
    assert refusal("10.1.9.9", allowed) is None
    assert refusal("::ffff:10.1.9.9", allowed) is None
    assert refusal("192.168.1.7", allowed) is None
    assert refusal("fd12::9", allowed) is None
    assert refusal("10.2.0.1", allowed) == "private"
    assert refusal("192.168.1.8", allowed) == "private"


def test_all_opens_what_an_operator_owns_and_no_metadata_service() -> None:
    allowed = Allowed.parse(["all"])
    for address in ("127.0.0.1", "10.0.0.1", "100.64.0.1", "::1", "fd12::1"):
        assert refusal(address, allowed) is None
    for address in ("169.254.1.1", "224.0.0.1", "0.0.0.0", "fe80::1", *map(str, METADATA)):
        assert refusal(address, allowed) is not None
    assert refusal("169.254.169.254", Allowed.parse(["169.254.169.254"])) is None


@pytest.mark.parametrize("text", ["10.0.0.1/8", "everything", "10.0.0.0/33"])
def test_a_bad_allow_list_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Allowed.parse([text])


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Example.com/a?b=c", "example.com"),
        ("https://example.com:8443/a", "example.com"),
        ("https://1.1.1.1/", "1.1.1.1"),
        ("https://[2606:4700::1111]:1/", "2606:4700::1111"),
    ],
)
def test_an_address_in_good_form(url: str, host: str) -> None:
    assert check_target(url) == host


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "https"),
        ("ftp://example.com/", "whole one"),
        ("https:///a", "whole one"),
        ("example.com/a", "whole one"),
        ("https://user:pass@example.com/", "no user"),
        ("https://user@example.com/", "no user"),
        ("https://example.com/#a", "fragment"),
        ("https://exa mple.com/", "no spaces"),
        ("https://exämple.com/", "ASCII"),
        ("https://example.com\\@10.0.0.1/", "ASCII"),
        ("https://example.com:0/", "whole one"),
        ("https://example.com:99999/", "cannot be read"),
        ("https://[::1/", "cannot be read"),
        ("https://127.0.0.1/", "loopback"),
        ("https://127.1/", "is a number"),
        ("https://2130706433/", "is a number"),
        ("https://0177.0.0.1/", "is a number"),
        ("https://0x7f000001/", "is a number"),
        ("https://[::1]/", "loopback"),
        ("https://[::ffff:10.0.0.1]/", "private"),
        ("https://localhost:8000/", "loopback"),
        ("https://a.localhost./", "loopback"),
        ("https://169.254.169.254/latest/meta-data", "metadata"),
        ("https://" + "a" * 2048, "2048"),
    ],
)
def test_an_address_that_nothing_is_sent_to(url: str, why: str) -> None:
    with pytest.raises(TargetError, match=why):
        check_target(url)


def test_an_operator_allows_more() -> None:
    allowed = Allowed.parse(["127.0.0.0/8"])
    assert check_target("http://localhost:9/", allow_http=True, allowed=allowed) == "localhost"
    assert check_target("http://127.0.0.1:9/", allow_http=True, allowed=allowed) == "127.0.0.1"
