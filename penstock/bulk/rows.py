"""Making a request, the line of an OpenAI batch file, from a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.bulk.problems import InputError, Problem
from penstock.bulk.records import PROMPT, Record
from penstock.bulk.template import MissingFieldError, Template

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
_CONVERSES = {CHAT, MESSAGES}
_PROMPT_FIELD = {
    "/v1/completions": "prompt",
    **dict.fromkeys(("/v1/embeddings", RESPONSES, "/v1/classify", "/v1/pooling"), "input"),
}
_RECORD_FIELDS = {
    "/v1/rerank": (("query", "documents"),),
    "/v1/score": (("text_1", "text_2"), ("queries", "documents")),
}
"""For an endpoint whose requests have no one prompt, the fields that a record must have: one of these pairs."""
_RENAMED = {RESPONSES: {"max_tokens": "max_output_tokens"}, MESSAGES: {"stop": "stop_sequences"}}
"""For an endpoint, its own names of fields that the others call differently."""
_MESSAGES_TOKENS = 1024
"""Most tokens of an answer of Messages, which every request of it must bound."""
MAX_ID = 512
"""Most characters of a ``custom_id``."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How requests are made.

    Attributes:
        endpoint: of all rows; None takes it from the first OpenAI row, and is chat for other inputs.
        model: put into every row; None keeps the rows' own.
        system: a system message before each prompt (chat and messages only).
        template: makes the prompt; None takes a record's own (``messages`` or ``prompt``).
        params: further fields of every body, by their names in chat; they replace a row's own.
        id_field: the field whose value becomes the ``custom_id``; None numbers the rows.
    """

    endpoint: str | None = None
    model: str | None = None
    system: str | None = None
    template: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    id_field: str | None = None


class RowMaker:
    """Makes the rows of one file.

    Args:
        recipe: how.
        openai: the records are OpenAI batch rows themselves.

    Attributes:
        endpoint: of the rows so far.
        model: of the rows so far; None as long as no row has named one.
        named: the ids are the input's own, so one may occur twice.

    Raises:
        InputError: the recipe does not fit the endpoint or the kind of input.
    """

    def __init__(self, recipe: Recipe, *, openai: bool) -> None:
        self.endpoint = recipe.endpoint or ("" if openai else CHAT)
        self.model = recipe.model
        self.openai = openai
        self.named = openai or recipe.id_field is not None
        self._recipe = recipe
        self._template = None if recipe.template is None else Template(recipe.template)
        self._number = 0
        if openai and (recipe.template is not None or recipe.id_field is not None):
            raise InputError("OpenAI batch rows are whole requests: omit --template and --id-field")
        if recipe.system is not None and self.endpoint not in {*_CONVERSES, ""}:
            raise InputError(f"--system is for {CHAT} and {MESSAGES} only")
        if recipe.template is not None and self.endpoint in _RECORD_FIELDS:
            raise InputError(f"--template makes a prompt, and {self.endpoint} has none: omit it")

    def custom_id(self, record: Record) -> str | Problem:
        """Return a record's id: its own, or its number (from 1, ``row-1``). Call it once for each record."""
        self._number += 1
        name = "custom_id" if self.openai else self._recipe.id_field
        if name is None:
            return f"row-{self._number}"
        value = record.fields.get(name)
        if value is None:
            return Problem(record.line, _absent(record, name), name)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        if not 1 <= len(text) <= MAX_ID or (self.openai and not isinstance(value, str)):
            return Problem(record.line, f"the id must be a text of 1 to {MAX_ID} characters", name)
        return text

    def row(self, record: Record, custom_id: str) -> bytes | Problem:
        """Return the line of a record, with its newline."""
        body = self._openai_body(record) if self.openai else self._body(record)
        if isinstance(body, Problem):
            return body
        if self.endpoint == MESSAGES:
            body.setdefault("max_tokens", _MESSAGES_TOKENS)
        names = _RENAMED.get(self.endpoint, {})
        body |= {names.get(name, name): value for name, value in self._recipe.params.items()}
        if self._recipe.model is not None:
            body["model"] = self._recipe.model
        model = body.get("model")
        if not isinstance(model, str) or not model:
            return Problem(record.line, "no model: name one with --model", "model")
        self.model = self.model or model
        if model != self.model:
            what = f"the model is {model!r}, but a batch has one model, and the first row's is {self.model!r}"
            return Problem(record.line, what, "model")
        if body.get("stream"):
            return Problem(record.line, "rows of a batch cannot be streamed", "stream")
        line = {"custom_id": custom_id, "method": "POST", "url": self.endpoint, "body": body}
        try:
            text = json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
        except ValueError as exc:
            return Problem(record.line, f"a value cannot be written as JSON: {exc}")
        return text.encode("utf-8", "replace") + b"\n"

    def _openai_body(self, record: Record) -> dict[str, Any] | Problem:
        row = record.fields
        self.endpoint = self.endpoint or str(row.get("url") or CHAT)
        if row.get("url", self.endpoint) != self.endpoint:
            what = f"this is {row['url']!r}, but a batch has one endpoint, here {self.endpoint!r}"
            return Problem(record.line, what, "url")
        if row.get("method", "POST") != "POST":
            return Problem(record.line, f"must be POST, not {row['method']!r}", "method")
        body = row.get("body")
        if not isinstance(body, dict):
            return Problem(record.line, "must be a JSON object, the request", "body")
        body = dict(body)
        if self._recipe.system is not None:
            messages = body.get("messages")
            if not isinstance(messages, list):
                return Problem(record.line, "must be a list", "messages")
            body |= self._spoken(messages)
        return body

    def _body(self, record: Record) -> dict[str, Any] | Problem:
        if self.endpoint in _RECORD_FIELDS:
            return self._fields(record)
        messages = record.fields.get("messages")
        if self._template is None and isinstance(messages, list) and self.endpoint in _CONVERSES:
            return self._spoken(messages)
        prompt = self._prompt(record)
        if isinstance(prompt, Problem):
            return prompt
        if self.endpoint in _CONVERSES:
            return self._spoken([{"role": "user", "content": prompt}])
        name = _PROMPT_FIELD.get(self.endpoint)
        if name is None:
            return Problem(record.line, f"prompts cannot be made for {self.endpoint}: give OpenAI batch rows")
        return {name: prompt}

    def _fields(self, record: Record) -> dict[str, Any] | Problem:
        """Return a body that is the record itself, without its id."""
        pairs = _RECORD_FIELDS[self.endpoint]
        if not any(record.fields.keys() >= set(pair) for pair in pairs):
            wanted = " or ".join(" and ".join(pair) for pair in pairs)
            missing = next(name for name in pairs[0] if name not in record.fields)
            return Problem(record.line, f"a record for {self.endpoint} has the fields {wanted}", missing)
        return {name: value for name, value in record.fields.items() if name != self._recipe.id_field}

    def _spoken(self, messages: list[Any]) -> dict[str, Any]:
        """Return the part of a body that is a conversation, with the system message."""
        system = self._recipe.system
        if self.endpoint == MESSAGES:
            return {"messages": messages} | ({} if system is None else {"system": system})
        return {"messages": [*([] if system is None else [{"role": "system", "content": system}]), *messages]}

    def _prompt(self, record: Record) -> str | Problem:
        if self._template is not None:
            try:
                return self._template.fill(record.fields)
            except MissingFieldError as exc:
                return Problem(record.line, _absent(record, exc.name), exc.name)
        value = record.fields.get(PROMPT)
        if not isinstance(value, str):
            names = ", ".join(record.fields)
            what = f"there is none; make it with --template 'Summarise: {{FIELD}}' (fields here: {names})"
            return Problem(record.line, what, PROMPT)
        return value


def _absent(record: Record, name: str) -> str:
    return f"there is no field {name!r} here, only {', '.join(record.fields) or 'none at all'}"
