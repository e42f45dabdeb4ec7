"""Which GPUs each worker gets, over facts given as data; and what is said where there is no GPU."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import ValidationError

from jobs.placement import Device
from workers.devices.layout import device_for, gpus_for, groups_for
from workers.devices.nvml import DeviceStartError, Gpu, check_room, cut, device_of, indices, look, visible
from workers.settings import WorkerSettings

L4 = [Gpu(n, "NVIDIA L4", 24_152_899_584, f"GPU-{n}{n}{n}{n}-aaaa") for n in range(4)]


def layout(*args, **kwargs):
    return [indices(group) for group in cut(*args, **kwargs)]


def refusal(*args, **kwargs):
    with pytest.raises(DeviceStartError) as caught:
        cut(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "size", "workers", "groups"),
    [
        ("all", 1, None, ["0", "1", "2", "3"]),
        ("all", 2, None, ["0,1", "2,3"]),
        ("all", 4, None, ["0,1,2,3"]),
        ("all", 2, 1, ["0,1"]),
        ("3,1", 1, None, ["3", "1"]),
        ("0,1", 2, 1, ["0,1"]),
        ("2,3,0,1", 2, None, ["2,3", "0,1"]),
        (None, 1, None, ["0"]),
        (None, 2, None, ["0,1"]),
        (None, 1, 3, ["0", "1", "2"]),
    ],
)
def test_groups(wanted, size, workers, groups):
    assert layout(wanted, size, L4, workers) == groups


@pytest.mark.parametrize(("wanted", "workers", "count"), [(None, None, 1), ("all", None, 1), (None, 3, 3)])
def test_without_a_gpu_workers_run_on_the_cpu(wanted, workers, count):
    assert cut(wanted, 2, [], workers) == [()] * count


def test_what_is_not_there_is_refused_with_what_is():
    there = "there are GPUs 0 (NVIDIA L4, 24.2 GB), 1 (NVIDIA L4, 24.2 GB)"
    assert refusal("0,4", 1, L4[:2]) == f"there is no GPU 4 here; {there}"
    none = "there is no GPU (no NVIDIA driver, or none is visible)"
    assert refusal("0", 1, []) == f"there is no GPU 0 here; {none}"
    one = "there is GPU 0 (NVIDIA L4, 24.2 GB)"
    assert refusal("1", 1, L4[:1]) == f"there is no GPU 1 here; {one}"
    assert refusal("1,0,1", 1, L4) == "GPU 1 is named twice in 1,0,1"
    assert refusal("all", 4, L4[:2]) == f"the GPUs 0,1 make no groups of 4; a worker needs one; {there}"


def test_groups_that_do_not_come_out_even_or_are_too_few_are_refused():
    assert refusal("all", 2, L4[:3]).startswith("the GPUs 0,1,2 make 1 group of 2, with 1 left over;")
    assert refusal("0,1", 2, L4, 2).startswith(
        "the GPUs 0,1 make 1 group of 2; 2 workers need 2 of them; there are"
    )
    assert refusal(None, 2, L4[:3], 2).startswith("the GPUs 0,1,2 make 1 group of 2")


def test_cuda_visible_devices_is_heeded():
    assert visible(L4, None) == tuple(L4)
    assert visible(L4, "") == ()
    assert visible(L4, "-1") == ()
    assert visible(L4, "2, 0") == (L4[2], L4[0])
    assert visible(L4, "GPU-1111") == (L4[1],)
    assert visible((), "0") == ()
    with pytest.raises(DeviceStartError, match="names 'MIG-5', which is no GPU here; there are GPUs 0"):
        visible(L4, "MIG-5")


def test_what_a_record_says():
    assert device_of(tuple(L4[:2])) == Device("NVIDIA L4", 48_305_799_168, 2)
    mixed = (L4[0], Gpu(1, "NVIDIA T4", 16_106_127_360))
    assert device_of(mixed).name == "NVIDIA L4 + NVIDIA T4"
    cpu = device_of(())
    assert (cpu.name, cpu.count) == ("cpu", 1)
    assert cpu.memory_bytes > 100_000_000


def test_weights_that_do_not_fit_are_refused():
    check_room("m", 21_000_000_000, (L4[0],), 1, 0.9)
    check_room("m", 40_000_000_000, tuple(L4[:2]), 1, 0.9)
    check_room("m", None, (L4[0],), 1, 0.9)
    check_room("m", 10**15, (), 1, 0.9)
    with pytest.raises(DeviceStartError) as caught:
        check_room("Qwen/Qwen2.5-14B", 29_500_000_000, (L4[0],), 1, 0.9)
    assert str(caught.value).startswith(
        "Qwen/Qwen2.5-14B does not fit: its weights are 29.5 GB, and a copy of it may take 21.7 GB here "
        "(0.9 of the memory of 0 (NVIDIA L4, 24.2 GB)). Give each worker more GPUs (tensor_parallel)"
    )
    with pytest.raises(DeviceStartError):  # two copies, each on one of the two
        check_room("m", 40_000_000_000, tuple(L4[:2]), 2, 0.9)
    with pytest.raises(DeviceStartError):  # the smaller one decides
        check_room("m", 30_000_000_000, (L4[0], Gpu(1, "small", 8_000_000_000)), 1, 0.9)


def test_a_draft_model_needs_room_too(tmp_path):
    for name, size in (("main", 12_000_000), ("draft", 11_000_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"\0" * size)
    small = Gpu(0, "small", 24_000_000)
    settings = WorkerSettings(model=str(tmp_path / "main"))
    assert groups_for(settings, (small,)) == [(small,)]
    guessing = settings.model_copy(update={"speculation": f"{tmp_path / 'draft'}:4"})
    with pytest.raises(DeviceStartError, match="does not fit"):
        groups_for(guessing, (small,))


def test_this_machine_is_looked_at():
    found = look()
    assert len({gpu.index for gpu in found}) == len(found)
    assert all(gpu.name and gpu.memory_bytes for gpu in found)


def test_a_paced_engine_uses_no_gpu_and_is_named_as_what_it_is() -> None:
    settings = WorkerSettings(paced="h100-8b")
    assert gpus_for(settings) == ()
    assert device_for(settings, ()) == Device("paced-H100-8B")
    with pytest.raises(DeviceStartError, match="uses no GPU"):
        gpus_for(WorkerSettings(paced="H100-8B", gpus="0"))


@pytest.mark.parametrize("engine", ["simulated", "openai"])
def test_only_vllm_is_paced(engine: Literal["simulated", "openai"]) -> None:
    with pytest.raises(ValidationError, match=f"it paces vLLM, and the engine is {engine}"):
        WorkerSettings(engine=engine, paced="H100-8B")


@pytest.mark.parametrize("more", [{"tensor_parallel": 2}, {"engine_args": ("--pipeline-parallel-size=2",)}])
def test_a_paced_engine_is_one_device(more: dict[str, Any]) -> None:
    with pytest.raises(DeviceStartError, match="a paced engine is one device"):
        groups_for(WorkerSettings(paced="H100-8B", **more), ())
    assert groups_for(WorkerSettings(paced="H100-8B", workers=2), ()) == [(), ()]
