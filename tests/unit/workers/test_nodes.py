"""One engine on several machines: the settings, the layout, and the watch over remote nodes."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from broker.nodes import Node
from jobs.placement import Device
from workers.devices.layout import device_for, gpus_for, groups_for
from workers.devices.nvml import DeviceStartError, Gpu
from workers.engines.settings import VllmSettings
from workers.nodes.watch import NodeWatch
from workers.settings import WorkerSettings

MASTER = "big-0.big:29500"
GPUS = [Gpu(index, "NVIDIA H100 80GB HBM3", 80 << 30) for index in range(4)]


def settings(**more: Any) -> WorkerSettings:
    given: dict[str, Any] = {"nodes": 2, "node_master": MASTER, "tensor_parallel": 8} | more
    return WorkerSettings(**given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"node_master": None}, "nodes and node_master belong together"),
        ({"nodes": None}, "nodes and node_master belong together"),
        ({"engine": "simulated"}, "nodes are for the engine vllm"),
        ({"swap_group": "one"}, "cannot take turns"),
        ({"node_master": "big-0"}, "node_master"),
        ({"nodes": 1}, "nodes"),
    ],
)
def test_settings_that_make_no_group_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=says):
        settings(**given)


def test_each_node_takes_its_part_of_the_devices() -> None:
    (group,) = groups_for(settings(gpus="all"), GPUS)
    assert [gpu.index for gpu in group] == [0, 1, 2, 3]
    device = device_for(settings(), group)
    assert (device.count, device.memory_bytes) == (8, 8 * (80 << 30))


def test_nodes_must_divide_the_devices() -> None:
    with pytest.raises(DeviceStartError, match="8 devices, which 3 nodes cannot share"):
        groups_for(settings(nodes=3), GPUS)
    with pytest.raises(DeviceStartError, match="one worker: leave out workers"):
        groups_for(settings(workers=2), GPUS)


def test_a_placement_elsewhere_touches_no_gpu_of_this_machine() -> None:
    elsewhere = WorkerSettings(placement="external", tensor_parallel=8, device="H100")
    assert gpus_for(elsewhere) == ()
    assert groups_for(elsewhere, ()) == [()]
    assert device_for(elsewhere, ()) == Device("H100", None, 8)
    with pytest.raises(DeviceStartError, match="not this machine's: leave out gpus"):
        gpus_for(elsewhere.model_copy(update={"gpus": "0"}))


def test_every_rank_has_the_same_flags() -> None:
    argv = VllmSettings("m", nodes=2, node_master=MASTER).argv()
    assert [word for word in argv if word.startswith(("--nnodes", "--master", "--distributed"))] == [
        "--nnodes=2",
        "--master-addr=big-0.big",
        "--master-port=29500",
        "--distributed-executor-backend=mp",
    ]
    assert not any("nnodes" in word or "distributed" in word for word in VllmSettings("m").argv())


def watch() -> NodeWatch:
    none: Any = None
    return NodeWatch(none, none, pytest.fail)


A, B = Node("host-a", "run-1"), Node("host-b", "run-1")


def test_nodes_that_live_are_well() -> None:
    look = watch().look
    assert [look([A, B]) for _ in range(3)] == [None] * 3


def test_a_node_that_is_missed_once_may_come_back() -> None:
    look = watch().look
    assert [look(each) for each in ([A, B], [None, B], [A, B], [None, B])] == [None] * 4


def test_a_node_that_is_missed_twice_is_gone() -> None:
    look = watch().look
    look([A, B])
    assert look([A, None]) is None
    assert look([A, None]) == "the node of rank 2 on host-b is gone"


def test_a_node_that_was_started_anew_is_no_part_of_this_engine() -> None:
    look = watch().look
    look([A, B])
    assert look([A, Node("host-b", "run-2")]) == "the node of rank 2 on host-b was started anew"
    look = watch().look
    assert look([None, None]) is None  # not heard of yet
