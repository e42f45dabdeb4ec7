"""The names of the fields that a request may have, by endpoint: OpenAI's, Anthropic's, and those that vLLM adds.

Only for telling a caller of a name that nobody knows. A field that is missing here still goes to the engine.
"""

from __future__ import annotations

from typing import Final

from api.admission.request_bodies import SCHEMAS
from jobs import endpoints as paths

_OPENAI: Final = """metadata moderation prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier
    service_tier store stream_options"""

_VLLM: Final = """cache_salt chat_template_kwargs ec_transfer_params include_stop_str_in_output kv_transfer_params min_p
    mm_payload priority repetition_penalty request_id return_mm_kwargs session_id structured_outputs vllm_xargs
    watermarking"""

_SAMPLING: Final = """add_special_tokens allowed_token_ids bad_words echo length_penalty logprob_token_ids logprobs
    prompt_logprobs repetition_detection return_token_ids return_token_offsets return_tokens_as_token_ids
    routed_experts_prompt_start spaces_between_special_tokens stream_interval thinking_token_budget truncation_side
    use_beam_search"""

_TEMPLATE: Final = """add_generation_prompt add_special_tokens chat_template chat_template_kwargs continue_final_message
    media_io_kwargs mm_processor_kwargs"""

_POOLED: Final = f"""{_TEMPLATE} cache_salt embed_dtype encoding_format dimensions endianness padding priority request_id
    truncation_side use_activation"""

_ANTHROPIC: Final = """cache_control container context_management diagnostics inference_geo mcp_servers service_tier speed
    user_profile_id workspace_id"""

_AUDIO: Final = """chunking_strategy frequency_penalty hotwords include include_stop_str_in_output keywords
    known_speaker_names known_speaker_references languages length_penalty min_p n presence_penalty repetition_penalty
    stream_continuous_usage_stats stream_include_usage timestamp_granularities to_language top_k top_p use_beam_search
    vllm_xargs watermarking"""

_MORE: Final = {
    paths.CHAT: f"""{_OPENAI} {_VLLM} {_SAMPLING} {_TEMPLATE} audio documents function_call functions include_reasoning
        modalities prediction return_prompt_text verbosity web_search_options""",
    paths.COMPLETIONS: f"{_OPENAI} {_VLLM} {_SAMPLING} best_of prompt_embeds",
    paths.EMBEDDINGS: _POOLED,
    paths.RESPONSES: f"""{_OPENAI} {_VLLM} access_programs background_options context_management enable_response_messages
        frequency_penalty ignore_eos image include include_reasoning logit_bias media_io_kwargs mm_processor_kwargs
        parallel_tool_calls presence_penalty previous_input_messages prompt reasoning seed skip_special_tokens stop
        stop_token_ids temperature text tool_choice top_k top_logprobs top_p truncation""",
    paths.MESSAGES: f"{_ANTHROPIC} {_VLLM}",
    paths.COUNT_TOKENS: f"""{_ANTHROPIC} {_VLLM} max_tokens metadata stop_sequences stream temperature top_k top_p""",
    paths.RERANK: f"{_POOLED} max_chunks_per_doc max_tokens_per_doc rank_fields return_documents",
    paths.SCORE: _POOLED,
    paths.CLASSIFY: _POOLED,
    paths.POOLING: _POOLED,
    paths.TOKENIZE: _TEMPLATE,
    paths.DETOKENIZE: "",
    paths.TRANSCRIPTIONS: _AUDIO,
    paths.TRANSLATIONS: _AUDIO,
}
"""Those beside the fields whose types are checked."""


def _known(endpoint: str) -> frozenset[str]:
    checked = SCHEMAS[endpoint].model_fields
    aliases = {field.alias for field in checked.values() if field.alias is not None}
    return frozenset({*checked, *aliases, *_MORE[endpoint].split()})


KNOWN_FIELDS: Final = {endpoint: _known(endpoint) for endpoint in SCHEMAS}
