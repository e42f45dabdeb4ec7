"""Starting vLLM as ``vllm serve`` does: its flags, its engine client with the engine process, its OpenAI app.

A bulk front is a second client of the same engine process: it joins with what the worker started.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import structlog

from jobs.capabilities import Capabilities
from workers.engines.base import EngineStartError
from workers.engines.settings import VllmSettings
from workers.engines.vllm import cpu_memory, detokenizing, lanes, media, rendering, wire, worker_hooks
from workers.engines.vllm.adapters import set_places
from workers.engines.vllm.bulk_front import CLIENT, BulkFront
from workers.engines.vllm.compact import Shapes
from workers.engines.vllm.leash import Leash
from workers.engines.vllm.pacing import set_pace
from workers.engines.vllm.parsers import set_parsers
from workers.engines.vllm.steps import Steps
from workers.engines.vllm.tap import Tap, tapped

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

Loaded: TypeAlias = tuple[Any, Any, Callable[[], Awaitable[None]]]


class FrontBoot(NamedTuple):
    """What a bulk front starts with: the worker's settings, vLLM's config and parsed flags, and the client's addresses."""

    settings: VllmSettings
    config: Any
    args: Any
    addresses: dict[str, str]


class Learned(NamedTuple):
    """What the worker's own front has learned of vLLM: the model's capabilities, and the forms of chunks."""

    able: Capabilities
    shapes: dict[tuple[str, bool], Shapes]


def load(
    settings: VllmSettings, leash: Leash, taps: dict[str, Tap], steps: Steps, bulk: BulkFront | None
) -> Loaded:
    """Parse the flags, load the model and start the engine process. Blocks.

    Args:
        leash: gets the engine's processes.
        taps: by engine request; see :func:`workers.engines.vllm.tap.tapped`.
        steps: gets the scheduler's statistics.
        bulk: is launched too; None: there is one front.

    Returns:
        vLLM's engine client, its parsed flags, and what closes the connections over which it fetches media.

    Raises:
        EngineStartError: vLLM does not take the flags.
        Exception: whatever vLLM raises.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", settings.log_level)
    wire.use_our_log_form(os.environ["VLLM_LOGGING_LEVEL"], as_json=settings.log_json)
    if (
        settings.one_process
    ):  # what makes vLLM accept it on a CPU; the engine has a process of its own all the same
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    if Path(settings.model).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    media.set_defaults(settings.media)  # vLLM makes its threads when it is imported
    from vllm import envs
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.cli.serve import make_arg_parser  # where every version since 0.20 exports it
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    envs.disable_envs_cache()  # of an engine before this one
    close_media = media.guard(settings.media)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            args = make_arg_parser(FlexibleArgumentParser()).parse_args(settings.argv())
    except SystemExit as error:
        msg = f"vLLM does not take these arguments: {said.getvalue().strip().rpartition('error: ')[2]}"
        raise EngineStartError(msg) from error
    args.api_key = None  # the api authenticates
    set_parsers(args, settings)
    set_places(args)
    engine_args = AsyncEngineArgs.from_cli_args(args)
    cpu_memory.fit(engine_args, settings)
    engine_args._api_process_count = 1 if bulk is None else 2  # noqa: SLF001 - as `vllm serve` sets it
    # The defaults of `vllm serve`: without it as few as 128 sequences and 2,048 tokens in a step on any GPU.
    config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    cpu_memory.size(config, engine_args, settings)
    if settings.paced is not None:
        set_pace(config, engine_args, penstock_config(config), settings.paced)
    in_lanes = lanes.use(config, penstock_config(config), settings)
    if bulk is not None and (why := _misfit(config, in_lanes=in_lanes)) is not None:
        raise EngineStartError(f"bulk_front cannot be used: {why}. Leave it out, or that")
    if config.speculative_config is not None and not config.parallel_config.worker_extension_cls:
        config.parallel_config.worker_extension_cls = worker_hooks.NAME
    rendering.set_defaults(config)
    with leash.hold_new_children(), wire.otel_environment(traced=settings.otlp_traces_url is not None):
        if bulk is None:
            llm = _client(config, args, taps, steps)
        else:
            with _two_clients(config) as addresses:
                bulk.launch(FrontBoot(settings, config, args, addresses))
                llm = _client(config, args, taps, steps)
    return llm, args, close_media


def join(boot: FrontBoot, taps: dict[str, Tap], steps: Steps) -> Loaded:
    """Connect a bulk front to the engine process. Blocks until that is ready. The rest: see :func:`load`."""
    settings, config, args, addresses = boot  # vLLM's environment is the worker's
    close_media = media.guard(settings.media)
    config.parallel_config._api_process_rank = CLIENT  # noqa: SLF001 - as `vllm serve` sets it
    client = {"client_addresses": addresses, "client_count": CLIENT + 1, "client_index": CLIENT}
    return _client(config, args, taps, steps, **client), args, close_media


def _client(config: Any, args: Any, taps: dict[str, Tap], steps: Steps, **client: Any) -> Any:
    """Return vLLM's engine client. ``client``: which one it is, if another process has started the engine process."""
    from vllm import envs
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.metrics.loggers import StatLoggerBase

    llm = tapped(AsyncLLM, taps).from_vllm_config(
        config,
        stat_loggers=[steps.logger(StatLoggerBase)],
        disable_log_stats=args.disable_log_stats,
        **client,
    )
    rendering.by_priority(llm.renderer)
    detokenizing.install()
    # vLLM looks up environment variables for every token otherwise (5 us each); its engine process does the same.
    envs.enable_envs_cache()
    return llm


@contextlib.contextmanager
def _two_clients(config: Any) -> Iterator[dict[str, str]]:
    """Have the engine process that is started inside the block serve two clients: the one that starts it, and ours.

    Yields:
        The addresses of the second.
    """
    from vllm.v1.engine import core_client
    from vllm.v1.engine.utils import get_engine_zmq_bind_addresses

    bound, launch = get_engine_zmq_bind_addresses(config), core_client.launch_core_engines

    def launch_for_two(vllm_config: Any, executor_class: Any, log_stats: Any, addresses: Any) -> Any:
        addresses.inputs += bound.inputs
        addresses.outputs += bound.outputs
        return launch(vllm_config, executor_class, log_stats, addresses)

    core_client.launch_core_engines = launch_for_two
    try:
        yield {"input_address": bound.inputs[0], "output_address": bound.outputs[0]}
    finally:
        core_client.launch_core_engines = launch


def _misfit(config: Any, *, in_lanes: bool) -> str | None:
    """Return what a second front cannot be combined with; None: it can."""
    parallel = config.parallel_config
    if not in_lanes:
        return "the scheduler with lanes is not used (lane_scheduler, --scheduler-cls, --scheduling-policy)"
    if config.lora_config is not None:
        return "both fronts would have to load each LoRA adapter (adapters_max, --enable-lora)"
    if parallel.data_parallel_size > 1:
        return "the engine has several data-parallel ranks (--data-parallel-size)"
    if parallel.nnodes > 1:
        return "the engine runs on several machines (nodes)"
    return None


def penstock_config(config: Any) -> dict[str, Any]:
    """Return our part of ``additional_config``, by which settings reach the engine's process. A change of it counts."""
    ours: dict[str, Any] = config.additional_config.setdefault("penstock", {})
    return ours


def slots(config: Any) -> int:
    """Return how many requests run at once: vLLM's ``max_num_seqs`` is of each data-parallel rank that we feed."""
    parallel = config.parallel_config
    ours = parallel.data_parallel_size_local if parallel.local_engines_only else parallel.data_parallel_size
    return int(config.scheduler_config.max_num_seqs * max(ours, 1))


async def mend(llm: Any) -> None:
    """Change what the workers of a started engine run, where :mod:`.worker_hooks` says why."""
    if llm.vllm_config.parallel_config.worker_extension_cls != worker_hooks.NAME:
        return
    try:
        done = all(await llm.collective_rpc(worker_hooks.MEND_SAMPLING))
    except Exception as error:  # noqa: BLE001 - such as of a worker that another machine started without the method
        log.warning("sampling_not_mended", error=str(error))
        return
    if not done:
        log.warning("sampling_not_mended", error="this vLLM has no such function")


async def make_app(llm: Any, args: Any, tasks: Any) -> Any:
    """Return vLLM's own FastAPI app over its engine client."""
    try:
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app
    except ImportError:  # vLLM before 0.29
        from vllm.entrypoints.openai.api_server import build_app, init_app_state
    app = build_app(args, tasks, llm.model_config)
    await init_app_state(llm, app.state, args, tasks)
    app.state.server = SimpleNamespace(
        should_exit=False
    )  # vLLM's handler of errors stops its own server by it
    return app
