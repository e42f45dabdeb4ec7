"""The patches that a client may send, and the schema of custom resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonpatch
from openapi_schema_validator import OAS30Validator

from tests.kubernetes.kinds import Object


def merged(old: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7386). Lists are replaced, directives of strategic patches (``$...``) are left out."""
    if not isinstance(old, dict) or not isinstance(patch, dict):
        return patch
    new = dict(old)
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        elif not name.startswith("$"):
            new[name] = merged(new.get(name), value)
    return new


def applied(old: Any, before: Any, now: Any) -> Any:
    """Apply a server-side apply: fields that the same manager applied before and leaves out now go. Lists are atomic."""
    if not isinstance(old, dict) or not isinstance(now, dict):
        return now
    before = before if isinstance(before, dict) else {}
    new = {name: value for name, value in old.items() if name in now or name not in before}
    for name, value in now.items():
        new[name] = applied(old.get(name), before.get(name), value)
    return new


def json_patched(old: Object, operations: list[Any]) -> Object | None:
    """Apply a JSON patch (RFC 6902). None: a test in it fails, or a path is not there."""
    try:
        new: Object = jsonpatch.apply_patch(old, operations)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException):
        return None
    return new


def fitted(value: Any, schema: Mapping[str, Any]) -> Any:
    """Set the defaults of a structural schema, and drop fields that it does not know, as the real server does."""
    if isinstance(value, list) and "items" in schema:
        return [fitted(one, schema["items"]) for one in value]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return value
    known: Mapping[str, Any] = schema.get("properties", {})
    others = schema.get("additionalProperties")
    new = {name: one["default"] for name, one in known.items() if "default" in one and name not in value}
    for name, inner in value.items():
        if name in known:
            new[name] = fitted(inner, known[name])
        elif others is not None:
            new[name] = fitted(inner, others) if isinstance(others, Mapping) else inner
    return new


def wrong(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a custom resource; None: it fits its schema."""
    for error in OAS30Validator(dict(schema)).iter_errors(value):
        return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
    return None
