"""The parts of the OpenAPI document that FastAPI does not derive: raw bodies, parameters, and the errors of a route."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from api.http.errors import codes_of

REF = "#/components/schemas/{model}"


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="For people.")
    type: str = Field(description="OpenAI's class of the error.", examples=["invalid_request_error"])
    param: str | None = Field(None, description="The request field it is about.", examples=["model"])
    code: str = Field(description="For programs.", examples=["model_not_found"])


class ErrorBody(BaseModel):
    """Body of every answer that is not a success."""

    error: ErrorDetail


_ERRORS = {
    400: "The request is wrong",
    401: "The API key is missing or wrong",
    403: "Not allowed",
    404: "It does not exist",
    408: "The body came too slowly",
    409: "Its state does not allow this",
    410: "It was deleted",
    413: "The body is too large",
    416: "The range begins after the end",
    429: "Too many jobs. Has `Retry-After`",
    500: "The server failed",
    503: "Unavailable now. Has `Retry-After`",
    504: "Too late",
    507: "The file storage is full",
}


_KEY = "api_key"


def error_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's ``responses`` for these errors.

    The body is named, not given as ``model``: FastAPI would make a validator for each error of each route, 450 in all,
    which is a third of the time that making the app takes. :func:`describe` adds the model.
    """
    docs: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        codes = ", ".join(f"`{code}`" for code in codes_of(status))
        docs[status] = {"description": f"{_ERRORS[status]}: {codes}.", "content": _error_content()}
    return docs


def _error_content() -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REF.format(model=ErrorBody.__name__)}}}


def answers(model: Any, *errors: int, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's ``responses`` for a success with this model, and for these errors."""
    return {status: {"model": model}, **error_docs(*errors)}


def streamed(event: type[BaseModel]) -> dict[str, Any]:
    """Return the ``content`` of an answer of Server-Sent Events.

    Args:
        event: the model of one event, with the fields that an event has: ``event``, ``id`` and ``data``, whose JSON is
            written out. OpenAPI 3.1 has no word for a stream; this is its schema. Give the model to :func:`describe` too.
    """
    return {"text/event-stream": {"schema": {"$ref": REF.format(model=event.__name__)}}}


def parameter(place: str, name: str, description: str | None = None, **schema: Any) -> dict[str, Any]:
    """Describe a parameter of a raw route.

    Args:
        place: ``path``, ``query`` or ``header``.
        name: its name.
        description: a sentence.
        schema: members of its JSON schema; a string unless they say otherwise.
    """
    described: dict[str, Any] = {"name": name, "in": place, "schema": {"type": "string", **schema}}
    if place == "path":
        described["required"] = True
    return described if description is None else described | {"description": description}


def body_docs(model: type[BaseModel], example: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """Return FastAPI's ``openapi_extra`` for a body that FastAPI does not read; see :func:`describe`."""
    content = {"schema": {"$ref": REF.format(model=model.__name__)}, "example": example}
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def describe(
    app: FastAPI,
    bodies: Sequence[type[BaseModel]],
    *,
    needs_key: Callable[[str], bool],
    scope_of: Callable[[str, str], str | None],
) -> None:
    """Complete the generated document: the models of :func:`body_docs` and :func:`streamed`, and the answers that are the
    same everywhere.

    A wrong parameter is answered 400, not FastAPI's 422. Every path that needs a key may answer 401 and 403, and names the
    scope that the key must have.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            components = schema["components"]
            models: list[type[BaseModel]] = [*bodies, ErrorBody]
            _, defined = models_json_schema([(model, "validation") for model in models], ref_template=REF)
            components["schemas"] |= defined["$defs"]
            for name in ("HTTPValidationError", "ValidationError"):  # of FastAPI's 422
                components["schemas"].pop(name, None)
            components["securitySchemes"] = {_KEY: {"type": "http", "scheme": "bearer"}}
            errors: dict[str, Any] = {}
            components["responses"] = errors
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    if needs_key(path):
                        scope = scope_of(method.upper(), path)
                        operation["security"] = [{_KEY: [scope] if scope else []}]
                    _complete(operation["responses"], errors, key=needs_key(path))
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(responses: dict[str, Any], errors: dict[str, Any], *, key: bool) -> None:
    """Add an operation's common answers, and name its errors, which are described once.

    Args:
        responses: the operation's; changed.
        errors: the errors that are described already, by name; added to.
        key: the operation needs an API key, if any are set.
    """
    statuses = [401, 403] if key else []
    if responses.pop("422", None):
        statuses.append(400)
    for status in statuses:
        responses.setdefault(str(status), error_docs(status)[status])
    for code, answer in responses.items():
        if code.startswith(("4", "5")) and ErrorBody.__name__ in str(answer.get("content")):
            errors.setdefault(name := f"Error{code}", answer)
            responses[code] = {"$ref": f"#/components/responses/{name}"}
