"""Fields that nobody knows are told to the caller, and refused if that asks for it."""

from __future__ import annotations

from typing import Any, get_type_hints
from urllib.parse import unquote

import pytest
from anthropic.types import message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.audio import transcription_create_params, translation_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from api.admission.request_bodies import SCHEMAS
from api.admission.unknown_fields import MOST, MOST_BYTES, note_unknown, unknown_header, unknown_warnings
from api.http.errors import ApiError
from jobs.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, TRANSCRIPTIONS, TRANSLATIONS
from jobs.known_fields import KNOWN_FIELDS

GOOD: dict[str, Any] = {
    "model": "m",
    "messages": [],
    "max_tokens": 3,
    "chat_template_kwargs": {},
    "store": True,
}
OTHERS = {
    CHAT: chat_create_params.CompletionCreateParamsBase,
    COMPLETIONS: completion_create_params.CompletionCreateParamsBase,
    EMBEDDINGS: embedding_create_params.EmbeddingCreateParams,
    RESPONSES: response_create_params.ResponseCreateParamsBase,
    MESSAGES: message_create_params.MessageCreateParamsBase,
    TRANSCRIPTIONS: transcription_create_params.TranscriptionCreateParamsBase,
    TRANSLATIONS: translation_create_params.TranslationCreateParams,
}


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "headers": list(headers)}


def test_a_body_of_known_fields_has_nothing_to_tell() -> None:
    asked = scope()
    note_unknown(asked, CHAT, GOOD)
    assert (unknown_header(asked), unknown_warnings(asked)) == ([], [])


def test_a_typing_error_is_told_with_the_name_that_is_meant() -> None:
    asked = scope()
    note_unknown(asked, CHAT, GOOD | {"max_token": 3, "temprature": 0, "früh": 1}, "input.")
    assert unknown_header(asked) == [(b"x-penstock-unknown-fields", b"max_token, temprature, fr%C3%BCh")]
    token, temperature, odd = unknown_warnings(asked)
    assert (token["code"], token["param"]) == ("unknown_field", "input.max_token")
    assert "did you mean 'max_tokens'?" in token["message"]
    assert "did you mean 'temperature'?" in temperature["message"]
    assert "did you mean" not in odd["message"]


@pytest.mark.parametrize("value", [b"1", b"true"])
def test_a_strict_caller_is_refused(value: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        note_unknown(scope((b"x-penstock-strict", value)), CHAT, GOOD | {"max_token": 3})
    error = refused.value
    assert (error.status, error.code, error.param) == (400, "unknown_parameter", "max_token")
    assert "did you mean 'max_tokens'?" in error.message
    note_unknown(scope((b"x-penstock-strict", value)), CHAT, GOOD)
    note_unknown(scope((b"x-penstock-strict", b"0")), CHAT, GOOD | {"max_token": 3})


@pytest.mark.parametrize(("length", "told"), [(1, MOST), (1000, 4)])
def test_a_thousand_names_are_a_short_header(length: int, told: int) -> None:
    asked = scope()
    note_unknown(asked, CHAT, GOOD | {str(n) + "é\r\n" * length: n for n in range(1000)})
    ((_, value),) = unknown_header(asked)
    assert value.count(b", ") == told - 1
    assert len(value) <= MOST_BYTES
    assert not set(value) & {10, 13}
    assert len(unknown_warnings(asked)) == MOST


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["é" * 64, "è" * 64, "ü" * 42, "z"], 3),  # the third ends with the last byte that there is room for
        (["é" * 64, "è" * 64, "ü" * 43, "z"], 2),
        (["😀" * 63 + letter for letter in "abcdefgh"], 1),
    ],
)
def test_the_header_has_a_bound_in_bytes_and_whole_names(names: list[str], told: int) -> None:
    asked = scope()
    note_unknown(asked, CHAT, GOOD | dict.fromkeys(names, 1))
    ((_, value),) = unknown_header(asked)
    assert len(value) <= MOST_BYTES
    assert [unquote(name) for name in value.decode().split(", ")] == names[:told]
    assert len(unknown_warnings(asked)) == len(names)


def test_every_endpoint_knows_the_fields_that_it_checks() -> None:
    assert KNOWN_FIELDS.keys() == SCHEMAS.keys()
    for endpoint, schema in SCHEMAS.items():
        aliases = {field.alias for field in schema.model_fields.values() if field.alias is not None}
        assert KNOWN_FIELDS[endpoint] >= {*schema.model_fields, *aliases}


@pytest.mark.parametrize(("endpoint", "params"), OTHERS.items(), ids=OTHERS)
def test_the_fields_of_the_sdks_are_known(endpoint: str, params: type) -> None:
    assert set(get_type_hints(params)) - KNOWN_FIELDS[endpoint] - {"betas"} == set()
