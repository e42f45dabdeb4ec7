"""The names of the fields that a request may have, by endpoint: OpenAI's, Anthropic's, and those that vLLM adds.

Only for the warning of an unknown field. A field that is missing here still goes to the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from typing import Final

from jobs import endpoints as paths

_OPENAI: Final = """model user metadata moderation prompt_cache_key prompt_cache_options prompt_cache_retention
    safety_identifier service_tier store stream_options"""

_VLLM: Final = """cache_salt chat_template_kwargs ec_transfer_params include_stop_str_in_output kv_transfer_params min_p
    mm_payload priority repetition_penalty request_id return_mm_kwargs session_id structured_outputs vllm_xargs
    watermarking"""

_SAMPLING: Final = """add_special_tokens allowed_token_ids bad_words echo length_penalty logprob_token_ids logprobs
    prompt_logprobs repetition_detection return_token_ids return_token_offsets return_tokens_as_token_ids
    routed_experts_prompt_start spaces_between_special_tokens stream_interval thinking_token_budget truncation_side
    use_beam_search"""

_GENERATION: Final = """frequency_penalty ignore_eos logit_bias max_tokens min_tokens n presence_penalty response_format seed
    skip_special_tokens stop stop_token_ids stream temperature top_k top_p truncate_prompt_tokens"""

_TEMPLATE: Final = """add_generation_prompt add_special_tokens chat_template chat_template_kwargs continue_final_message
    media_io_kwargs mm_processor_kwargs"""

_POOLED: Final = f"""{_TEMPLATE} model user cache_salt embed_dtype encoding_format dimensions endianness padding priority
    request_id truncate_prompt_tokens truncation_side use_activation"""

_SCORED: Final = "instruction max_tokens_per_doc max_tokens_per_query"

_ANTHROPIC: Final = """model messages system tools tool_choice thinking output_config max_tokens metadata stop_sequences
    stream temperature top_k top_p cache_control container context_management diagnostics inference_geo mcp_servers
    service_tier speed user_profile_id workspace_id"""

_AUDIO: Final = """model file language prompt response_format temperature stream max_completion_tokens seed
    timestamp_granularities[] chunking_strategy frequency_penalty hotwords include include_stop_str_in_output keywords
    known_speaker_names known_speaker_references languages length_penalty min_p n presence_penalty repetition_penalty
    stream_continuous_usage_stats stream_include_usage timestamp_granularities to_language top_k top_p use_beam_search
    vllm_xargs watermarking"""

_NAMES: Final = {
    paths.CHAT: f"""{_OPENAI} {_VLLM} {_GENERATION} {_SAMPLING} {_TEMPLATE} messages audio documents function_call functions
        include_reasoning max_completion_tokens modalities parallel_tool_calls prediction reasoning_effort
        return_prompt_text tool_choice tools top_logprobs verbosity web_search_options""",
    paths.COMPLETIONS: f"{_OPENAI} {_VLLM} {_GENERATION} {_SAMPLING} prompt best_of prompt_embeds suffix",
    paths.EMBEDDINGS: f"{_POOLED} input messages",
    paths.RESPONSES: f"""{_OPENAI} {_VLLM} input instructions max_output_tokens max_tool_calls tools background
        previous_response_id conversation access_programs background_options context_management
        enable_response_messages frequency_penalty ignore_eos image include include_reasoning logit_bias media_io_kwargs
        mm_processor_kwargs parallel_tool_calls presence_penalty previous_input_messages prompt reasoning seed
        skip_special_tokens stop stop_token_ids stream temperature text tool_choice top_k top_logprobs top_p
        truncation""",
    paths.MESSAGES: f"{_ANTHROPIC} {_VLLM}",
    paths.COUNT_TOKENS: f"{_ANTHROPIC} {_VLLM}",
    paths.RERANK: f"{_POOLED} {_SCORED} query documents top_n max_chunks_per_doc rank_fields return_documents",
    paths.SCORE: f"{_POOLED} {_SCORED} text_1 text_2 queries documents items data_1 data_2",
    paths.CLASSIFY: f"{_POOLED} input messages",
    paths.POOLING: f"{_POOLED} input messages data task",
    paths.TOKENIZE: f"{_TEMPLATE} model user prompt messages tools return_token_strs",
    paths.DETOKENIZE: "model user tokens",
    paths.TRANSCRIPTIONS: _AUDIO,
    paths.TRANSLATIONS: _AUDIO,
}

KNOWN_FIELDS: Final = {endpoint: frozenset(names.split()) for endpoint, names in _NAMES.items()}
"""By endpoint, the names that the body of a request may have."""


def meant(name: str, known: Iterable[str]) -> str:
    """Return a question for the known name that a mistyped one is close to; empty: it is close to none."""
    close = get_close_matches(name, known, 1, 0.75)
    return f" (did you mean {close[0]!r}?)" if close else ""


@lru_cache(maxsize=1024)
def no_such_field(endpoint: str, name: str) -> str:
    """Say that an endpoint's requests have no such field, and which one may be meant."""
    return f"{endpoint} has no field {name!r}{meant(name, KNOWN_FIELDS[endpoint])}"
