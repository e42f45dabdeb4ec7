"""The paced engine's executor: vLLM's scheduler drives it, its steps take the time of a cost model, its tokens are made up.

It stands where a GPU would: vLLM's front, engine core, scheduler, KV-cache blocks and prefix cache are the real ones. No
weights are loaded, no KV cache is allocated and nothing is computed. Imported in the engine's process only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

from workers.engines.vllm.paced_clock import Clock, Later, Step, done
from workers.engines.vllm.paced_config import as_on_a_gpu, cost_of
from workers.engines.vllm.paced_tokens import Answer, Tokens

_PLENTY = 1 << 50
"""Bytes of a KV cache whose size is set in blocks."""


class _Request(NamedTuple):
    """A running request: the length of its prompt, what its tokens follow from, and what it wants of an embedding."""

    length: int
    answer: Answer
    pooling: Any


class _Given(NamedTuple):
    """The step that the engine core handed over last: for each request the place of its next token, or None."""

    ready: dict[str, int | None]
    end_s: float


class PacedExecutor(Executor):  # type: ignore[misc]
    """See the module. Its constants are ``additional_config["penstock"]["paced"]``, in milliseconds."""

    def _init_executor(self) -> None:
        as_on_a_gpu(self.vllm_config)
        self._clock = Clock(cost_of(self.vllm_config))
        self._requests: dict[str, _Request] = {}
        self._tokens = Tokens(self.model_config)
        self._given = _Given({}, 0.0)

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        """Return True: steps queue up on the clock, as they do on a GPU's stream."""
        return True

    @property
    def supported_tasks(self) -> tuple[str, ...]:
        """The model's tasks, of those that make sense without a model."""
        return ("embed",) if self.model_config.runner_type == "pooling" else ("generate",)

    # The start: what the engine core asks of the workers.

    def get_kv_cache_specs(self) -> list[dict[str, Any]]:
        """Return the model's layers as full attention: their sizes are those of the model's config."""
        from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype

        model, cache = self.model_config, self.cache_config
        if model.is_attention_free or model.attn_type == "encoder_only":
            return [{}]
        spec = FullAttentionSpec(
            block_size=cache.block_size,
            num_kv_heads=model.get_num_kv_heads(self.parallel_config),
            head_size=model.get_head_size(),
            dtype=kv_cache_dtype_str_to_dtype(cache.cache_dtype, model),
        )
        layers = model.get_num_layers(self.parallel_config)
        return [{f"model.layers.{layer}.self_attn.attn": spec for layer in range(layers)}]

    def get_supported_kv_cache_layouts(self) -> list[list[str]]:
        """Return vLLM's usual one; nothing is laid out."""
        return [["LBNHC"]]

    def determine_available_memory(self) -> list[int]:
        """Return the bytes that were set for the KV cache, or plenty: then its number of blocks is set."""
        return [self.cache_config.kv_cache_memory_bytes or _PLENTY]

    def set_kv_cache_layout(self, layout_name: str) -> None:
        """Do nothing."""

    def initialize_from_config(self, kv_cache_configs: list[Any]) -> None:
        """Do nothing: no KV cache is allocated."""

    def compile_or_warm_up_model(self) -> None:
        """Do nothing."""

    # Steps.

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:  # noqa: FBT001, FBT002 - vLLM's
        """Take a step over, as a GPU's stream does, and make up its tokens."""
        for request in scheduler_output.finished_req_ids:
            self._requests.pop(request, None)
        if not scheduler_output.total_num_scheduled_tokens:
            self._given = _Given({}, 0.0)
            return done(EMPTY_MODEL_RUNNER_OUTPUT) if non_block else EMPTY_MODEL_RUNNER_OUTPUT
        ready, decodes, prompt_tokens = self._read(scheduler_output)
        step = self._clock.run(decodes, prompt_tokens)
        if self.model_config.runner_type == "pooling":
            later = Later(self._pooled(ready), step.end_s)
            return later if non_block else later.result()
        self._given = _Given(ready, step.end_s)
        return done(None) if non_block else None

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:  # noqa: FBT001, FBT002 - vLLM's
        """Return the tokens of the step that was handed over last, at its end."""
        ready, end_s = self._given
        later = Later(self._sampled(ready, grammar_output), end_s)
        return later if non_block else later.result()

    def _read(self, scheduler_output: Any) -> tuple[dict[str, int | None], int, int]:
        """Return what each request of a step gets, and what of the step costs time.

        Returns:
            By request, the place of its next token in its output, or None if its prompt is not read yet; the
            sequences that decode; the prompt tokens. Tokens that are read again after a preemption are prompt tokens.
        """
        known: dict[str, tuple[int, int]] = {}  # tokens computed before this step, and output tokens so far
        for new in scheduler_output.scheduled_new_reqs:
            length = new.prompt_len
            self._requests[new.req_id] = _Request(length, self._tokens.answer(new), new.pooling_params)
            known[new.req_id] = (new.num_computed_tokens, max(len(new.prefill_token_ids or ()) - length, 0))
        cached = scheduler_output.scheduled_cached_reqs
        known.update(
            zip(
                cached.req_ids,
                zip(cached.num_computed_tokens, cached.num_output_tokens, strict=True),
                strict=True,
            )
        )
        ready: dict[str, int | None] = {}
        decodes = prompt_tokens = 0
        for request, count in scheduler_output.num_scheduled_tokens.items():
            before, made = known[request]
            missing = self._requests[request].length + made - before
            if made and missing == 1:
                decodes += 1
            else:
                prompt_tokens += count
            ready[request] = made if count >= missing else None
        return ready, decodes, prompt_tokens

    def _sampled(self, ready: dict[str, int | None], grammar_output: Any) -> ModelRunnerOutput:
        choose, requests = self._tokens.choose, self._requests
        tokens = [[] if at is None else [choose(requests[name].answer, at)] for name, at in ready.items()]
        output = _output(list(ready))
        if grammar_output is not None:
            for name, bitmask in zip(
                grammar_output.structured_output_request_ids, grammar_output.grammar_bitmask, strict=True
            ):
                at = ready.get(name)
                if at is not None:
                    chosen = self._tokens.choose_allowed(requests[name].answer, at, bitmask)
                    tokens[output.req_id_to_index[name]] = [chosen]
        answers = [requests[name].answer for name in ready]
        output.sampled_token_ids = tokens
        output.logprobs = self._tokens.logprobs(answers, tokens)
        for (name, at), answer in zip(ready.items(), answers, strict=True):
            if at == 0 and answer.prompt:
                output.prompt_logprobs_dict[name] = self._tokens.prompt_logprobs(answer)
        return output

    def _pooled(self, ready: dict[str, int | None]) -> ModelRunnerOutput:
        output = _output(list(ready))
        output.pooler_output = [
            None
            if at is None
            else self._tokens.vector(self._requests[name].answer, self._requests[name].pooling)
            for name, at in ready.items()
        ]
        return output

    # Calls from the front, and life.

    def step_log(self) -> list[Step]:
        """Return the last steps, oldest first; for ``collective_rpc``."""
        return list(self._clock.steps)

    def collective_rpc(
        self,
        method: Any,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,  # noqa: FBT001, FBT002 - vLLM's
    ) -> Any:
        """Call a method of this object, as there is no worker.

        Raises:
            NotImplementedError: it has no such method: what was asked for needs a model.
        """
        del timeout
        if method in _NOTHING_TO_DO:
            result = None
        elif isinstance(method, str) and hasattr(self, method):
            result = getattr(self, method)(*args, **(kwargs or {}))
        else:
            msg = f"a paced engine has no model, so it cannot do {method}"
            raise NotImplementedError(msg)
        return done([result]) if non_block else [result]

    def execute_dummy_batch(self) -> None:
        """Take an empty step, as an idle data-parallel rank does."""
        Later(None, self._clock.run(0, 0).end_s).result()

    def check_health(self) -> None:
        """Do nothing: it lives as long as its process."""

    def shutdown(self) -> None:
        """Do nothing."""


_NOTHING_TO_DO = frozenset(
    {"synchronize_device", "update_max_model_len", "reset_mm_cache", "reset_encoder_cache"}
)
"""Calls to the workers of a model that are done at once where there is none."""


def _output(requests: list[str]) -> ModelRunnerOutput:
    return ModelRunnerOutput(req_ids=requests, req_id_to_index={name: at for at, name in enumerate(requests)})
