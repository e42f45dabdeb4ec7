"""The reference pages of the HTTP API's operations, from the OpenAPI document: one for each tag, and one of the models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tools.markdown import code, generated, table

Schema = dict[str, Any]

SOURCE = "the OpenAPI document"
TITLES = {
    "openai": "OpenAI, Anthropic and vLLM",
    "jobs": "Jobs",
    "batches": "Files and batches",
    "webhooks": "Webhooks",
    "admin": "Administration",
    "operations": "Operations",
}
"""The title of each tag's page."""

_BOUNDS = (
    ("minimum", "≥"),
    ("exclusiveMinimum", ">"),
    ("maximum", "≤"),
    ("exclusiveMaximum", "<"),
    ("minLength", "characters ≥"),
    ("maxLength", "characters ≤"),
    ("minItems", "items ≥"),
    ("maxItems", "items ≤"),
    ("maxProperties", "members ≤"),
)

_INTRO = """\
Errors, limits, headers and paging are the same for all operations: see [HTTP API](../http-api.md). An operation's first line
ends with its id in the OpenAPI document and the scope that a key needs."""

_MODELS_INTRO = """\
The bodies of requests and answers. A model of a request says what the api checks; an endpoint of the engine takes further
members, and passes them on. A model whose name ends in `Event` is one event of a stream of Server-Sent Events."""


def http_pages(document: Schema) -> dict[str, str]:
    """Return the pages by their names in ``docs/reference/http``."""
    missing = {tag["name"] for tag in document["tags"]} - TITLES.keys()
    if missing:
        raise LookupError(
            f"give the tag {min(missing)} a title in tools/http_pages.py, and a place in mkdocs.yml"
        )
    pages = {}
    for tag in document["tags"]:
        found = [
            _operation(method.upper(), path, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if operation["tags"] == [tag["name"]]
        ]
        pages[f"{tag['name']}.md"] = generated(
            TITLES[tag["name"]], SOURCE, tag["description"], _INTRO, *found
        )
    models = [_model(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    pages["schemas.md"] = generated("Models", SOURCE, _MODELS_INTRO, *models)
    return pages


def _operation(method: str, path: str, operation: Schema) -> str:
    scopes = [scope for one in operation.get("security", ()) for each in one.values() for scope in each]
    facts = [f"`{method} {path}`", code(operation["operationId"]), *map(code, scopes)]
    parts = [f"## {operation['summary']}", " · ".join(facts), operation.get("description", "")]
    if rows := [_parameter(one) for one in operation.get("parameters", ())]:
        parts.append(table(("parameter", "in", "type", "meaning"), rows))
    if "requestBody" in operation:
        parts += _body(operation["requestBody"])
    answers, errors = [], []
    for status, answer in sorted(operation["responses"].items()):
        if status.startswith("2"):
            answers += _answer(status, answer)
        else:
            errors.append(status)
    parts.append(table(("answer", "type", "body"), answers))
    if errors:
        parts.append(f"Errors: {', '.join(errors)}.")
    return "\n\n".join(part for part in parts if part)


def _parameter(parameter: Schema) -> tuple[str, ...]:
    schema = parameter["schema"]
    if union := [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]:  # absent is null
        schema = {**schema, "anyOf": union}
    name = code(parameter["name"]) + (" (required)" if parameter.get("required") else "")
    return name, parameter["in"], _words(schema), _meaning({**schema, **parameter})


def _body(body: Schema) -> Iterator[str]:
    ((kind, content),) = body["content"].items()
    schema = content["schema"]
    optional = "" if body.get("required") else ", optional"
    yield f"Body: {code(kind)}{optional}" + (f", {_words(schema)}." if "$ref" in schema else ".")
    if "$ref" not in schema:
        yield _members(schema)
    if example := content.get("example"):
        yield f"```json\n{json.dumps(example, indent=2)}\n```"


def _answer(status: str, answer: Schema) -> Iterator[tuple[str, ...]]:
    if not answer.get("content"):
        yield status, "", answer["description"]
    for kind, content in answer.get("content", {}).items():
        yield status, code(kind), _words(content.get("schema", {})) or answer["description"]


def _model(name: str, schema: Schema) -> str:
    parts = [f"## {name}", schema.get("description", "")]
    if schema.get("properties"):
        parts.append(_members(schema))
    elif words := _words({key: value for key, value in schema.items() if key != "title"}):
        parts.append(f"{words[0].upper()}{words[1:]}.")
    return "\n\n".join(part for part in parts if part)


def _members(schema: Schema) -> str:
    needed = schema.get("required", ())
    rows = [
        (code(name), _words(one), "yes" if name in needed else "", _meaning(one))
        for name, one in schema["properties"].items()
    ]
    return table(("member", "type", "required", "meaning"), rows)


def _meaning(schema: Schema) -> str:
    said = schema.get("description", "").replace("\n", " ")
    default = schema.get("default")
    return " ".join([said, f"Default: {code(json.dumps(default))}." if default is not None else ""]).strip()


def _words(schema: Schema) -> str:
    """Say a schema's type: a link to its model, or words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](schemas.md#{name.lower()})"
    if union := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_words, union)))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else None):
        return ", ".join(code(json.dumps(one)) for one in values)
    words = [schema["type"]] if "type" in schema else []
    if words == ["array"]:
        words = ["list of", _words(schema.get("items", {})) or "any values"]
    elif words == ["object"] and isinstance(schema.get("additionalProperties"), dict):
        words = ["object of", _words(schema["additionalProperties"]) or "any values"]
    return " ".join([*words, *_bounds(schema)])


def _bounds(schema: Schema) -> Iterator[str]:
    found = [f"{sign} {schema[word]:,}".replace(",", " ") for word, sign in _BOUNDS if word in schema]
    if "pattern" in schema:
        found.append(f"matches {code(schema['pattern'])}")
    if found:
        yield f"({', '.join(found)})"
