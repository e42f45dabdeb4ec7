"""From settings to an engine that is not started yet."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

from monitoring.otlp import traces_url
from workers.devices.nvml import vllm_runs_on_cpu
from workers.devices.tiny_models import SERVED_NAME, TINY_MODELS, build_tiny_model
from workers.engines.base import Engine
from workers.engines.settings import OpenAISettings, SimulatedSettings, VllmSettings
from workers.engines.vllm.media import MediaRules
from workers.engines.vllm.step_cost import parse
from workers.settings import WorkerSettings


def make_engine(settings: VllmSettings | OpenAISettings | SimulatedSettings) -> Engine:
    """Return the engine that the settings belong to."""
    # Imported here so that a process pays only for the engine it runs.
    if isinstance(settings, VllmSettings):
        from workers.engines.vllm.engine import VllmEngine

        return VllmEngine(settings)
    if isinstance(settings, OpenAISettings):
        from workers.engines.openai.engine import OpenAIEngine

        return OpenAIEngine(settings)
    from workers.engines.simulated.engine import SimulatedEngine

    return SimulatedEngine(settings)


def engine_for(settings: WorkerSettings) -> Engine:
    """Return the engine of a worker. Builds a tiny model (seconds) if vLLM is given none to serve, or the name of one.

    Raises:
        OSError: a tiny model cannot be written.
    """
    if settings.engine == "openai":
        return make_engine(
            OpenAISettings(
                base_url=settings.openai_base_url,
                api_key=settings.openai_api_key,
                models=(settings.model,) if settings.model else (),
                endpoints=settings.openai_endpoints,
                capacity=settings.concurrency or 256,
            )
        )
    if settings.engine == "simulated":
        return make_engine(
            SimulatedSettings(
                model=settings.served_model_name or settings.model or "simulated",
                ttft_s=settings.simulated_ttft_s,
                inter_token_s=settings.simulated_inter_token_s,
                capacity=settings.simulated_capacity,
                adapters=settings.adapters_max,
                adapter_max_rank=settings.adapter_max_rank,
                max_model_len=settings.simulated_max_model_len,
                seed=_seed_of(settings),
                journal_path=settings.simulated_journal,
                wake_s=settings.simulated_wake_s,
            )
        )
    return make_engine(vllm_settings(settings))


def vllm_settings(settings: WorkerSettings) -> VllmSettings:
    """Return the settings of vLLM for a worker. Builds a tiny model if it has none, or one by name.

    Raises:
        OSError: a tiny model cannot be written.
    """
    return replace(
        _vllm(settings),
        lane_scheduler=settings.lane_scheduler,
        bulk_reserve=settings.bulk_reserve,
        interactive_slo_ms=settings.interactive_slo_ms,
        just_in_time=settings.just_in_time,
        bulk_front=settings.bulk_front,
        sleep_level=settings.swap_sleep_level if settings.swap_group and settings.gpus else None,
        paced_wake_s=settings.paced_wake_s,
        speculation=settings.speculation,
        adapters=settings.adapters_max,
        adapters_cpu=settings.adapters_kept,
        adapter_max_rank=settings.adapter_max_rank,
        log_json=settings.log_json,
        media=MediaRules(
            settings.private_media,
            image_max_bytes=settings.image_max_bytes,
            image_max_pixels=settings.image_max_pixels,
        ),
        otlp_traces_url=traces_url(settings.otlp_endpoint),
        one_process=settings.one_engine_process and vllm_runs_on_cpu(),
        nodes=settings.nodes,
        node_master=settings.node_master,
        tensor_parallel_size=settings.tensor_parallel,
    )


def _seed_of(settings: WorkerSettings) -> int:
    """Another model under the same name has other texts, so that versions can be told apart."""
    if settings.served_model_name is None or settings.model in {None, settings.served_model_name}:
        return 0
    return zlib.crc32(str(settings.model).encode())


def _vllm(settings: WorkerSettings) -> VllmSettings:
    if settings.paced is not None:
        return _paced(settings, settings.paced)
    kv_cache = _kv_cache_bytes(settings)
    name = settings.model or SERVED_NAME
    if name in TINY_MODELS and not Path(name).is_dir():
        path = build_tiny_model(settings.data_dir.resolve() / "models", TINY_MODELS[name])
        tiny = VllmSettings.tiny(
            path, name=name, max_num_seqs=settings.concurrency or 64, extra_args=settings.engine_args
        )
        if settings.tool_parser != "auto":
            tiny = replace(tiny, tool_call_parser=settings.tool_parser)
        if settings.reasoning_parser != "auto":
            tiny = replace(tiny, reasoning_parser=settings.reasoning_parser)
        if settings.model is not None and settings.served_model_name:
            tiny = replace(tiny, served_model_name=(settings.served_model_name,))
        return tiny if kv_cache is None else replace(tiny, kv_cache_memory_bytes=kv_cache)
    return VllmSettings(
        model=name,
        served_model_name=(settings.served_model_name,) if settings.served_model_name else (),
        max_num_seqs=settings.concurrency,
        kv_cache_memory_bytes=kv_cache,
        cpu_memory_share=settings.cpu_memory_share,
        tensor_parallel_size=settings.tensor_parallel,
        tool_call_parser=settings.tool_parser,
        reasoning_parser=settings.reasoning_parser,
        extra_args=settings.engine_args,
    )


def _paced(settings: WorkerSettings, pace: str) -> VllmSettings:
    model, max_model_len = settings.model, None
    if model is None:
        model = str(build_tiny_model(settings.data_dir.resolve() / "models", "paced"))
        max_model_len = _PACED_CONTEXT
    return VllmSettings(
        model=model,
        served_model_name=(settings.served_model_name or str(settings.paced_name),),
        enforce_eager=True,  # there is nothing to compile
        max_model_len=max_model_len,
        max_num_seqs=settings.concurrency or _PACED_SEQUENCES,
        kv_cache_memory_bytes=_kv_cache_bytes(settings),
        tensor_parallel_size=settings.tensor_parallel,
        tool_call_parser="hermes" if settings.model is None else None,
        paced=parse(pace),
        extra_args=settings.engine_args,
    )


def _kv_cache_bytes(settings: WorkerSettings) -> int | None:
    return None if settings.kv_cache_gib is None else int(settings.kv_cache_gib * (1 << 30))


_PACED_SEQUENCES = 256
_PACED_CONTEXT = 8192
"""Tokens. The model without weights can do more: ``--max-model-len`` in ``engine_args``."""
