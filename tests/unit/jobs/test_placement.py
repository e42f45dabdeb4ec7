"""Which pool a job goes to."""

from __future__ import annotations

import pytest

from jobs.placement import GB, Device, Offer, Placement, rank

H100 = Device("NVIDIA H100 80GB HBM3", 85_520_809_984)
TWO_L4 = Device("NVIDIA L4", 2 * 24_152_899_584, 2)
CPU = Device("cpu", 16 * GB)


@pytest.mark.parametrize(
    ("device", "asked", "met"),
    [
        (H100, "h100", True),
        (H100, "H100 80gb", True),
        (H100, "80GB-H100", True),
        (H100, "nvidia", True),
        (H100, "h10", False),  # words, not parts of them: h200 is no gh200
        (H100, "h100 sxm", False),
        (Device("NVIDIA A100-SXM4-80GB", 85 * GB), "a100 sxm4", True),
        (CPU, "cpu", True),
        (CPU, "h100", False),
        (Device(), "h100", False),
    ],
)
def test_a_device_is_asked_for_by_words_of_its_name(device, asked, met):
    assert Placement(device=asked).met_by(device) is met


def test_memory_is_in_the_boxes_gigabytes_and_of_the_whole_group():
    assert Placement(min_memory_gb=80).met_by(H100)
    assert not Placement(min_memory_gb=86).met_by(H100)
    assert Placement(min_memory_gb=48).met_by(TWO_L4)
    assert not Placement(min_memory_gb=0.001).met_by(Device("NVIDIA L4"))


def test_both_must_hold():
    assert Placement("h100", 40).met_by(H100)
    assert not Placement("h100", 100).met_by(H100)
    assert not Placement("l4", 40).met_by(H100)


def pools(*offers, placement=None):
    return [offer.pool for offer in rank(offers, placement)]


def test_a_live_pool_comes_before_a_dead_one_then_the_most_free_slots_then_the_name():
    dead = Offer("a", (H100,), live=False)
    busy = Offer("b", (H100,), live=True, capacity=8, load=100)
    free = Offer("c", (H100,), live=True, capacity=8, load=4)
    same = Offer("d", (H100,), live=True, capacity=4, load=0)
    assert pools(dead, busy, same, free) == ["c", "d", "b", "a"]
    paused = Offer("e", (H100,), live=True, paused=True, capacity=80)
    assert pools(dead, paused, busy) == ["b", "e", "a"]


def test_a_placement_keeps_the_pools_that_meet_it_with_each_of_their_workers():
    mixed = Offer("a", (H100, CPU), live=True, capacity=8)
    large = Offer("b", (H100,), live=False)
    small = Offer("c", (CPU,), live=True, capacity=8)
    unknown = Offer("d", (), live=True, capacity=8)
    assert pools(mixed, large, small, unknown, placement=Placement("h100")) == ["b"]
    assert pools(mixed, large, small, unknown, placement=Placement(min_memory_gb=10)) == ["a", "c", "b"]
    assert pools(mixed, large, small, unknown, placement=Placement("mi300x")) == []
    assert pools(placement=Placement("h100")) == []


def test_they_are_said_in_words():
    assert str(TWO_L4) == "2 x NVIDIA L4, 48.3 GB"
    assert str(Device()) == "unknown device"
    assert str(Placement("h100", 40)) == "a device like 'h100' with at least 40 GB of device memory"
    assert str(Placement(min_memory_gb=0.5)) == "at least 0.5 GB of device memory"
