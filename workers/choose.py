"""From a worker's settings to the engine it asked for."""

from __future__ import annotations

from dataclasses import replace

from monitoring.otlp import traces_url
from workers.engines.base import Engine
from workers.engines.factory import make_engine
from workers.engines.settings import OpenAISettings, SimulatedSettings, VllmSettings
from workers.settings import WorkerSettings


def engine_for(settings: WorkerSettings) -> Engine:
    """Make the engine, not yet started; builds the tiny model (seconds) where vLLM is to serve none of the user's.

    Raises:
        OSError: the tiny model cannot be written.
    """
    if settings.engine == "openai":
        return make_engine(
            "openai",
            OpenAISettings(
                base_url=settings.openai_base_url,
                api_key=settings.openai_api_key,
                models=(settings.model,) if settings.model else (),
                endpoints=settings.openai_endpoints,
                capacity=settings.concurrency or 256,
            ),
        )
    if settings.engine == "simulated":
        return make_engine(
            "simulated",
            SimulatedSettings(
                model=settings.served_model_name or settings.model or "simulated",
                ttft_s=settings.simulated_ttft_s,
                inter_token_s=settings.simulated_inter_token_s,
                capacity=settings.simulated_capacity,
                max_model_len=settings.simulated_max_model_len,
                journal_path=settings.simulated_journal,
            ),
        )
    watched = replace(
        _vllm(settings), log_json=settings.log_json, otlp_traces_url=traces_url(settings.otlp_endpoint)
    )
    return make_engine("vllm", watched)


def _vllm(settings: WorkerSettings) -> VllmSettings:
    if settings.model is None:
        from workers.devices.tiny_models import build_tiny_model  # it imports torch

        path = build_tiny_model(settings.data_dir.resolve() / "models")
        return VllmSettings.tiny(
            path, max_num_seqs=settings.concurrency or 64, extra_args=settings.engine_args
        )
    return VllmSettings(
        model=settings.model,
        served_model_name=(settings.served_model_name,) if settings.served_model_name else (),
        max_num_seqs=settings.concurrency,
        tensor_parallel_size=settings.tensor_parallel,
        extra_args=settings.engine_args,
    )
