"""Settings of a worker process."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from broker.settings import MetricsSettings, Seconds
from broker.sources import JSON_TABLE, CommaList, ShellWords, check_sendable
from jobs.adapters import wrong_name
from jobs.endpoints import ENDPOINTS, USUAL_ENDPOINTS
from jobs.names import DOTTED_NAME, GPUS, HOST_AND_PORT, NAME, POD, VERSION
from workers.engines.vllm.speculation import draft_model, speculative_config
from workers.engines.vllm.step_cost import label, parse

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class WorkerSettings(MetricsSettings):
    """One worker: one engine on one group of devices."""

    engine: Literal["vllm", "openai", "simulated"] = Field(
        "vllm",
        description="vllm: in this process. openai: any OpenAI-compatible server. simulated: no model at all.",
    )
    model: str | None = Field(
        None,
        description="Hub name or local path; without it vllm serves a tiny random model built on the spot. `tiny-embed`, "
        "`tiny-rerank`, `tiny-classify`, `tiny-whisper` and `tiny-vision` are others.",
    )
    served_model_name: str | None = Field(None, description="The name clients use; default: the model's own.")
    engine_args: ShellWords = Field(
        (),
        description="Further flags for vLLM, as `vllm serve` takes them, for example `--max-model-len=4096`.",
    )
    tool_parser: str = Field(
        "auto",
        pattern=DOTTED_NAME,
        description="Engine vllm: vLLM's parser of tool calls. `auto`: the one of the model's family, if it is known; "
        "the log event `parsers_chosen` says which and why. `none`: none. `--tool-call-parser` in `engine_args` wins.",
    )
    reasoning_parser: str = Field(
        "auto",
        pattern=DOTTED_NAME,
        description="Engine vllm: vLLM's parser of reasoning, likewise. `--reasoning-parser` in `engine_args` wins.",
    )
    speculation: str | None = Field(
        None,
        max_length=512,
        description="Engine vllm: guess tokens ahead. `ngram`, or a draft model by its hub name or local path; with a "
        "number of tokens as `ngram:5`. Other methods: `--speculative-config` in `engine_args`.",
    )

    @field_validator("speculation")
    @classmethod
    def _speculates(cls, speculation: str | None) -> str | None:
        if speculation is not None:
            speculative_config(speculation)
        return speculation

    paced: str | None = Field(
        None,
        description="Compute nothing: vLLM's scheduler runs, each step takes the time of a cost model, and tokens are made "
        "up. `H100-8B`, `H100-1B`, or milliseconds of a step, of each decoding sequence and of each prompt token, as "
        "`6.0,0.016,0.02`.",
    )

    @field_validator("paced")
    @classmethod
    def _pace(cls, pace: str | None, info: ValidationInfo) -> str | None:
        if pace is None:
            return None
        if (engine := info.data.get("engine", "vllm")) != "vllm":
            raise ValueError(f"it paces vLLM, and the engine is {engine}: leave one of the two out")
        parse(pace)
        return pace

    openai_base_url: str = Field(
        "http://127.0.0.1:8000/v1", description="The server behind the openai engine, with its /v1."
    )
    openai_api_key: str | None = Field(None, description="Its API key.", repr=False)

    @field_validator("openai_api_key")
    @classmethod
    def _sendable(cls, key: str | None) -> str | None:
        if key is not None:
            check_sendable(key, "the key")
        return key

    openai_endpoints: CommaList = Field(
        USUAL_ENDPOINTS,
        description="Its endpoints, since its API does not list them; add others that it has, such as `/v1/responses`.",
    )

    @field_validator("openai_endpoints")
    @classmethod
    def _known_endpoints(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(endpoints) - ENDPOINTS.keys():
            raise ValueError(f"{', '.join(sorted(unknown))}: not one of {', '.join(ENDPOINTS)}")
        return endpoints

    name: str | None = Field(
        None,
        pattern=DOTTED_NAME,
        description="The worker's name before @host; default: its device.",
    )
    pool: str = Field("default", pattern=NAME, description="The pool whose lanes it drains.")
    pool_version: str | None = Field(
        None,
        pattern=VERSION,
        description="The version of the pool's model that it serves, such as `v2`: its pool is `<pool>-v2` then, with the "
        "settings of the pool. A rollout gives it.",
    )
    pod_deletion_cost: str | None = Field(
        None,
        pattern=POD,
        description="In Kubernetes, the worker's own pod as `namespace/name`. It then gets an annotation by which the least"
        " busy worker is ended first when a pool shrinks. Its account must be allowed to patch pods, as in the chart.",
    )
    scales_from_zero: bool = Field(
        default=False,
        description="In a table `[pools.NAME]`: workers of the pool are started when something waits for it, so requests for"
        " its model are queued although none is alive; see [autoscaling](../operate/autoscaling.md). The api reads it.",
    )
    gpus: str | None = Field(
        None,
        pattern=GPUS,
        description="GPU indices, for example 0,1, or `all`: one worker process for each group of `tensor_parallel`.",
    )
    tensor_parallel: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="GPUs that hold one copy of the model; default: the value in `engine_args`, or 1.",
    )
    nodes: int | None = Field(
        None,
        ge=2,
        le=64,
        description="Machines that hold one copy of the model together, with this one; see `node_master`. Default: one.",
    )
    node_master: str | None = Field(
        None,
        pattern=HOST_AND_PORT,
        description="With `nodes`: `host:port` of this worker's machine, as the other nodes reach it (`penstock worker "
        "follow`). The port is vLLM's, and free.",
    )
    placement: Literal["local", "external"] = Field(
        "local",
        description="external: the engine's devices are placed by something else, such as Ray. Then no GPU of this machine "
        "is looked for, hidden or checked.",
    )
    workers: int | None = Field(
        None, ge=1, le=64, description="Worker processes; default: one for each group of GPUs, or 1."
    )
    aliases: CommaList = Field(
        (), description="Further names for the model, for clients with fixed names, such as `gpt-4o-mini`."
    )
    device: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Name of the device behind the engine, for placement, if no NVIDIA driver names it "
        "(engines openai, simulated and paced).",
    )
    device_memory_gb: float | None = Field(
        None, gt=0, description="Its memory in 10^9 bytes; the sum, if there are several devices."
    )
    concurrency: int | None = Field(
        None, ge=1, le=4096, description="Jobs on the engine at once; default: the engine's own batch size."
    )
    kv_cache_gib: float | None = Field(
        None,
        gt=0,
        le=65_536,
        description="Memory for the KV cache in GiB, for each GPU or, on the CPU, each engine process. Default: "
        "vLLM's own choice on a GPU; on the CPU half of the free memory that the weights leave.",
    )
    cpu_memory_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Part of the free memory that vLLM on the CPU counts on; several workers started together divide it.",
    )
    one_engine_process: bool = Field(
        default=False,
        description="On the CPU: run the model in vLLM's engine process, and not in one more. It saves some 400 MB; the "
        "cores are then chosen by `OMP_NUM_THREADS`.",
    )
    private_media: bool = Field(
        default=False,
        description="Let vLLM fetch images, audio and video from private networks too, if `--allowed-media-domains` "
        "(in `engine_args`) has the host.",
    )
    engine_stall_s: float = Field(
        300.0,
        ge=0,
        description="An engine vllm that has requests and takes no step for this long counts as dead; 0: never. "
        "On a CPU, a step that computes is no stall.",
    )
    bulk_reserve: float = Field(
        0.25, ge=0.0, lt=1.0, description="Share of `concurrency` that the lane `bulk` never gets."
    )
    lane_scheduler: bool = Field(
        default=True,
        description="Engine vllm: put calls before bulk inside the engine too, with a scheduler of Penstock's own. False: "
        "vLLM's own scheduler.",
    )
    interactive_slo_ms: float | None = Field(
        None,
        gt=0,
        description="Engine vllm: aim for a call's milliseconds in the engine until its first token. Bulk runs in smaller "
        "batches while calls are likely, no smaller than the aim needs. Default: bulk fills its places.",
    )
    just_in_time: bool = Field(
        default=True,
        description="Engine vllm with asynchronous scheduling: while calls are likely, make each step up only shortly "
        "before the one before it ends, so that a call waits for one step less.",
    )
    bulk_front: bool = Field(
        default=False,
        description="Engine vllm: serve requests of the lane `bulk` by a process of its own on the same engine, which "
        "takes their templates, tokens and answers off the worker's event loop. For machines with four cores or more, at "
        "high rates; it takes some 500 MB. Not with `adapters_max`, `nodes`, or without `lane_scheduler`.",
    )
    batch_prefix_order: bool = Field(
        default=True,
        description="Run rows of a batch in the order of their prompts, so that a common prefix is found in the engine's "
        "cache. Without it: in the order of the input.",
    )
    batch_answer_identical_once: bool = Field(
        default=True,
        description="Run identical, deterministic rows of a batch once, and answer each of them with the result. The worker "
        "keeps up to 64 MiB of answers for it.",
    )
    swap_group: str | None = Field(
        None,
        pattern=NAME,
        description="Workers of one machine with the same group and the same `gpus` take turns on their devices: the "
        "model of one is loaded, the others sleep. See [sharing a GPU](../operate/sharing-a-gpu.md).",
    )
    swap_awake: int = Field(
        1,
        ge=1,
        le=64,
        description="Members of the swap group that are loaded at once; they must fit together.",
    )
    swap_min_stay_s: float = Field(
        5.0, ge=0, le=3600, description="How long a model that has work stays loaded at least."
    )
    swap_max_wait_s: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="How long a job waits at most until its model is the next to be loaded, whatever waits for others.",
    )
    swap_drain_s: Seconds = Field(
        30.0, description="Time for running jobs when their model makes way; then they go back to the queue."
    )
    swap_sleep_level: int = Field(
        1,
        ge=1,
        le=2,
        description="Engine vllm on GPUs: how a model sleeps. 1: its weights stay in main memory, and waking copies them. "
        "2: they are read from disk again, and take no main memory.",
    )
    adapters_max: int = Field(
        0,
        ge=0,
        le=256,
        description="Most LoRA adapters in one batch of the engine, each of which takes memory; 0: the worker takes none.",
    )
    adapters_cpu_max: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Most LoRA adapters that the worker holds loaded; the least recently used goes first. At least "
        "`adapters_max`. Default: twice that.",
    )
    adapter_max_rank: int = Field(
        16,
        ge=1,
        le=512,
        description="Rank of the largest LoRA adapter that the worker takes: 1, 8, 16, 32, 64, 128, 256, 320 or 512. Each "
        "takes the memory of this rank.",
    )

    @field_validator("adapter_max_rank")
    @classmethod
    def _known_rank(cls, rank: int) -> int:
        if rank not in _RANKS:
            raise ValueError(f"vLLM knows the ranks {', '.join(map(str, _RANKS))}: take the next larger one")
        return rank

    @field_validator("adapters_max")
    @classmethod
    def _adaptable(cls, most: int, info: ValidationInfo) -> int:
        if most and info.data.get("engine", "vllm") == "openai":
            raise ValueError("the server behind the engine openai loads its own adapters: leave it out")
        if most and info.data.get("paced") is not None:
            raise ValueError("a paced engine has no model to adapt: leave out paced or adapters_max")
        return most

    @field_validator("adapters_cpu_max")
    @classmethod
    def _enough(cls, kept: int | None, info: ValidationInfo) -> int | None:
        if kept is not None and kept < info.data.get("adapters_max", 0):
            raise ValueError("it is less than adapters_max, and each adapter of a batch is held")
        return kept

    adapters: Annotated[dict[str, str], JSON_TABLE] = Field(
        {},
        description='LoRA adapters with which the pool begins, for example `[pools.chat.adapters]` with `sql = "/data/sql"` '
        'or `sql = "hf:acme/sql"` in `penstock.toml`. Each source is taken over once; change them later with '
        "`penstock adapters`.",
    )

    @field_validator("adapters")
    @classmethod
    def _taken(cls, adapters: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if adapters and not info.data.get("adapters_max", 0):
            raise ValueError("the worker takes none: set adapters_max to the most adapters in one batch")
        for name in adapters:
            if why := wrong_name(name):
                raise ValueError(f"{name[:100]!r}: {why}")
        return adapters

    drain_timeout_s: Seconds = Field(
        30.0,
        description="Time for running jobs in a drain, for example after SIGTERM; then they are given back.",
    )
    simulated_ttft_s: float = Field(0.0, ge=0, description="Simulated engine: seconds to the first token.")
    simulated_inter_token_s: float = Field(0.0, ge=0, description="Simulated engine: seconds between tokens.")
    simulated_capacity: int = Field(256, ge=1, description="Simulated engine: requests at once.")
    simulated_max_model_len: int = Field(
        32_768, ge=2, description="Simulated engine: context length in tokens, of four bytes each."
    )
    simulated_wake_s: float = Field(0.0, ge=0, description="Simulated engine: seconds that it takes to wake.")
    paced_wake_s: float = Field(0.0, ge=0, description="Paced engine: seconds that it takes to wake.")
    simulated_journal: Path | None = Field(
        None, description="Simulated engine: file for its journal of runs, for fault tests."
    )

    @model_validator(mode="after")
    def _whole_group(self) -> Self:
        if (self.nodes is None) != (self.node_master is None):
            raise ValueError(
                "nodes and node_master belong together: the number of machines, and host:port of the first"
            )
        if self.nodes is not None and self.engine != "vllm":
            raise ValueError(f"nodes are for the engine vllm, and the engine is {self.engine}")
        if self.nodes is not None and self.swap_group is not None:
            raise ValueError("an engine on several machines cannot take turns: leave out nodes or swap_group")
        return self

    @property
    def draft_model(self) -> str | None:
        """The draft model of :attr:`speculation`; None: it names none."""
        return draft_model(self.speculation)

    @property
    def paced_name(self) -> str | None:
        """What a paced engine and its device are called; None: the engine is not paced."""
        return None if self.paced is None else label(self.paced)

    @property
    def adapters_kept(self) -> int:
        """Most LoRA adapters that the worker holds loaded."""
        return 2 * self.adapters_max if self.adapters_cpu_max is None else self.adapters_cpu_max

    @property
    def node_name(self) -> str:
        """The worker's name with its host: ``gpu0-1@host``, ``cpu@host`` or ``<name>@host``."""
        device = f"gpu{self.gpus.replace(',', '-')}" if self.gpus else "cpu"
        return f"{self.name or device}@{socket.gethostname()}"
