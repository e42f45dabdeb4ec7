"""The settings of each engine. Frozen; built once at the process root and passed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jobs.endpoints import USUAL_ENDPOINTS
from workers.engines.vllm.media import MediaRules
from workers.engines.vllm.pacing import flags
from workers.engines.vllm.speculation import speculative_config
from workers.engines.vllm.step_cost import StepCost


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """vLLM in this process. A field that is None keeps vLLM's own default.

    Attributes:
        model: a folder or a Hugging Face name.
        served_model_name: names clients may use, the first is the one in responses; empty means ``model``.
        enforce_eager: skip compilation: starts quicker, runs slower.
        max_model_len: context length in tokens.
        max_num_seqs: requests in one batch.
        kv_cache_memory_bytes: KV-cache size in bytes; wins over ``gpu_memory_utilization``. On a CPU None means a part of
            the free memory; see :mod:`workers.engines.vllm.cpu_memory`.
        gpu_memory_utilization: share of the device's memory that vLLM may take, 0.0 to 1.0.
        tensor_parallel_size: devices that hold one copy of the model.
        one_process: on the CPU, run the model in the engine's process.
        nodes: machines that hold one copy of the model.
        node_master: ``host:port`` of the first of them.
        dtype: weight type, such as ``bfloat16``.
        tool_call_parser: name of vLLM's parser of tool calls; also turns on ``--enable-auto-tool-choice``. ``auto``: the one
            of the model's family, if it is known; ``none`` or None: none but what ``extra_args`` name.
        reasoning_parser: the same of reasoning.
        speculation: guess tokens ahead; see :func:`workers.engines.vllm.speculation.speculative_config`. None: do not.
        runner: ``generate`` or ``pooling``.
        convert: ``embed`` makes an embedding model of a generating one.
        cpu_memory_share: part of the free memory that an engine on a CPU may count on, above 0.0 and up to 1.0.
        media: what requests may bring as images, audio and video.
        compact_streams: stream plain requests by deltas rather than by vLLM's chunks.
        lane_scheduler: put calls before bulk inside the engine too; see :mod:`workers.engines.vllm.lane_scheduler`.
        bulk_reserve: share of the engine's sequences that bulk never gets, 0.0 to 1.0 (exclusive).
        interactive_slo_ms: aim for a call's milliseconds in the engine until its first token, at the cost of bulk's rate.
        just_in_time: make a step up only shortly before the one before it ends.
        bulk_front: serve bulk by a front of its own; see :mod:`workers.engines.vllm.bulk_front`.
        log_json: write vLLM's log lines as JSON, as ours.
        otlp_traces_url: where vLLM sends its own spans, as OTLP over HTTP; None sends none.
        adapters: most LoRA adapters in one batch; 0 takes none.
        adapters_cpu: most that are kept in the memory of the CPU, at least as many.
        adapter_max_rank: rank of the largest that it takes, one of vLLM's.
        paced: compute nothing, and let each step take the time that this says; see :mod:`workers.engines.vllm.paced`.
        sleep_level: free the GPU's memory by vLLM's sleep mode: 1 keeps the weights in main memory, 2 reads them again.
            None: by ending the engine's processes.
        paced_wake_s: seconds that a paced engine takes to wake.
        extra_args: any other ``vllm serve`` flags, verbatim.
    """

    model: str
    served_model_name: tuple[str, ...] = ()
    enforce_eager: bool = False
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int | None = None
    one_process: bool = False
    nodes: int | None = None
    node_master: str | None = None
    dtype: str | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    speculation: str | None = None
    runner: str | None = None
    convert: str | None = None
    cpu_memory_share: float = 1.0
    media: MediaRules = field(default_factory=MediaRules)
    compact_streams: bool = True
    lane_scheduler: bool = True
    bulk_reserve: float = 0.25
    interactive_slo_ms: float | None = None
    just_in_time: bool = True
    bulk_front: bool = False
    log_level: str = "WARNING"
    log_json: bool = False
    otlp_traces_url: str | None = None
    adapters: int = 0
    adapters_cpu: int = 0
    adapter_max_rank: int = 16
    paced: StepCost | None = None
    sleep_level: int | None = None
    paced_wake_s: float = 0.0
    extra_args: tuple[str, ...] = ()

    def argv(self) -> list[str]:
        """Write the settings as ``vllm serve`` flags; ``extra_args`` come last and so win."""
        args = [f"--model={self.model}", "--scheduling-policy=priority"]
        if self.served_model_name:
            args += ["--served-model-name", *self.served_model_name]
        if self.enforce_eager:
            args.append("--enforce-eager")
        args += self._abilities()
        if self.otlp_traces_url is not None:
            args.append(f"--otlp-traces-endpoint={self.otlp_traces_url}")
        if self.paced is not None:
            args += flags(self.paced)
        args += self._of_nodes()
        if self.one_process:
            args.append("--distributed-executor-backend=uni")
        if self.sleep_level is not None:
            args.append("--enable-sleep-mode")
        for flag in (
            *("max_model_len", "max_num_seqs", "kv_cache_memory_bytes", "gpu_memory_utilization"),
            *("tensor_parallel_size", "dtype", "runner", "convert"),
        ):
            value = getattr(self, flag)
            if value is not None:
                args.append(f"--{flag.replace('_', '-')}={value}")
        return [*args, *self.extra_args]

    def _of_nodes(self) -> list[str]:
        if self.nodes is None or self.node_master is None:
            return []
        host, _, port = self.node_master.rpartition(":")
        where = [f"--master-addr={host}", f"--master-port={port}"]
        return [f"--nnodes={self.nodes}", *where, "--distributed-executor-backend=mp"]

    def _abilities(self) -> list[str]:
        """Write the flags of parsers, speculation and adapters."""
        args: list[str] = []
        if self.tool_call_parser not in {None, "auto", "none"}:
            args += ["--enable-auto-tool-choice", f"--tool-call-parser={self.tool_call_parser}"]
        if self.reasoning_parser not in {None, "auto", "none"}:
            args.append(f"--reasoning-parser={self.reasoning_parser}")
        if self.speculation is not None:
            args.append(f"--speculative-config={speculative_config(self.speculation)}")
        if self.adapters:
            args += [
                "--enable-lora",
                f"--max-loras={self.adapters}",
                f"--max-lora-rank={self.adapter_max_rank}",
            ]
            args.append(f"--max-cpu-loras={max(self.adapters, self.adapters_cpu)}")
        return args

    @classmethod
    def tiny(
        cls,
        model_path: Path,
        *,
        name: str = "tiny-random",
        max_num_seqs: int = 64,
        extra_args: tuple[str, ...] = (),
    ) -> VllmSettings:
        """Return settings for a model of :mod:`workers.devices.tiny_models`, by its name: eager, small, with tools."""
        generates, embeds = name in {"tiny-random", "tiny-vision"}, name == "tiny-embed"
        pools = not generates and name != "tiny-whisper"
        return cls(
            model=str(model_path),
            served_model_name=(name,),
            enforce_eager=True,
            max_num_seqs=max_num_seqs,
            kv_cache_memory_bytes=256 << 20,
            dtype="float32",  # random weights make near ties, which bfloat16 breaks differently in every batch
            tool_call_parser="hermes" if generates else None,
            runner="pooling" if pools else None,
            convert="embed" if embeds else None,
            extra_args=extra_args,
        )


@dataclass(frozen=True, slots=True)
class OpenAISettings:
    """An OpenAI-compatible server.

    Attributes:
        base_url: with or without a trailing ``/v1``.
        api_key: sent as a bearer token; None sends none.
        models: serve only these of the server's models; empty means all.
        endpoints: the endpoints of the server's models, since the API does not list them.
        capacity: requests in flight at once.
        connect_timeout_s: until a connection is made.
        read_timeout_s: longest silence in an answer.
        start_timeout_s: for an answer to ``GET /v1/models``: at the start, and at each look whether the server lives.
    """

    base_url: str
    api_key: str | None = None
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = USUAL_ENDPOINTS
    capacity: int = 256
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 600.0
    start_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class SimulatedSettings:
    """The simulated engine, for load and fault tests.

    Attributes:
        ttft_s: seconds to the first token.
        inter_token_s: seconds between tokens.
        tokens: completion tokens of a request without ``max_tokens``.
        capacity: requests in one batch; more wait inside, smallest priority first.
        seed: other seed, other texts.
        embedding_dim: length of embedding vectors.
        max_model_len: context length that it claims, in tokens of four bytes.
        adapters: most LoRA adapters; 0 takes none. ``adapter_max_rank``: rank of the largest.
        journal_path: append one JSON line per start, end and abort here; None keeps no journal.
        wake_s: seconds that it takes to wake.
    """

    model: str = "simulated"
    ttft_s: float = 0.0
    inter_token_s: float = 0.0
    tokens: int = 16
    capacity: int = 256
    seed: int = 0
    embedding_dim: int = 64
    max_model_len: int = 32768
    adapters: int = 0
    adapter_max_rank: int = 16
    journal_path: Path | None = None
    wake_s: float = 0.0
