"""What a change of the OpenAPI document takes from clients that were built against the one before.

Additions pass: operations, optional parameters and members, members of answers, values that are accepted, kinds of events.
A value of an answer that is new does not: a client that was generated from its enum refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Literal

Schema = dict[str, Any]
Way = Literal["sent", "answered"]
"""Whether a client sends a value, and so needs what it was allowed to send, or reads it."""

_METHODS = ("get", "put", "post", "delete", "patch")
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_INNER = ("items", "additionalProperties")
_NONE = object()


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Return a sentence for each thing that ``old`` promised and ``new`` does not. Empty: ``new`` is compatible."""
    return list(dict.fromkeys(_Documents(old, new).changes()))


class _Documents:
    def __init__(self, old: Schema, new: Schema) -> None:
        self._old, self._new = old, new
        self._seen: set[tuple[str, str, Way]] = set()

    def changes(self) -> Iterator[str]:
        for path, operations in self._old["paths"].items():
            for method in _METHODS:
                if method in operations:
                    place = f"{method.upper()} {path}"
                    after = self._new["paths"].get(path, {}).get(method)
                    if after is None:
                        yield f"{place}: removed"
                    else:
                        yield from self._operation(place, operations[method], after)

    def _operation(self, place: str, old: Schema, new: Schema) -> Iterator[str]:
        if old["operationId"] != new["operationId"]:
            yield f"{place}: operationId {old['operationId']} became {new['operationId']}"
        before = {(one["in"], one["name"]): one for one in old.get("parameters", ())}
        after = {(one["in"], one["name"]): one for one in new.get("parameters", ())}
        for key in before.keys() - after.keys():
            yield f"{place}: {key[0]} parameter {key[1]} removed"
        for key, parameter in after.items():
            name = f"{place}: {key[0]} parameter {key[1]}"
            if parameter.get("required") and not before.get(key, {}).get("required"):
                yield f"{name} is required"
            if key in before:
                yield from self._schema(name, before[key]["schema"], parameter["schema"], "sent")
        yield from self._body(place, old.get("requestBody"), new.get("requestBody"))
        yield from self._security(place, old, new)
        for status, answer in old["responses"].items():
            if status not in new["responses"]:
                yield f"{place}: answer {status} removed"
            elif status.startswith("2"):
                yield from self._contents(
                    f"{place}: answer {status}", answer, new["responses"][status], "answered"
                )

    def _security(self, place: str, old: Schema, new: Schema) -> Iterator[str]:
        """Yield the ways to be admitted that no longer suffice. An empty list, or an empty way in it, asks for nothing."""
        ways = [
            [
                {*way, *chain.from_iterable(way.values())}
                for way in one.get("security", document.get("security")) or [{}]
            ]
            for one, document in ((old, self._old), (new, self._new))
        ]
        for before in ways[0]:
            if not any(after <= before for after in ways[1]):
                yield f"{place}: {' and '.join(sorted(before)) or 'no key'} no longer suffices"

    def _body(self, place: str, old: Schema | None, new: Schema | None) -> Iterator[str]:
        if new is not None and new.get("required") and not (old and old.get("required")):
            yield f"{place}: the body is required"
        if old is not None:
            yield from self._contents(f"{place}: body", old, new or {}, "sent")

    def _contents(self, place: str, old: Schema, new: Schema, way: Way) -> Iterator[str]:
        for kind, content in old.get("content", {}).items():
            if kind not in new.get("content", {}):
                yield f"{place}: {kind} removed"
            else:
                after = new["content"][kind].get("schema", {})
                yield from self._schema(place, content.get("schema", {}), after, way)

    def _schema(self, place: str, old: Schema, new: Schema, way: Way) -> Iterator[str]:
        names = old.get("$ref", ""), new.get("$ref", "")
        if all(names):
            if (*names, way) in self._seen:  # compared already, or being compared: models may hold themselves
                return
            self._seen.add((*names, way))
            place = f"{names[0].rpartition('/')[2]} ({way})"
        before, after = list(_variants(self._old, old)), list(_variants(self._new, new))
        if any(_says_nothing(one) for one in (before if way == "answered" else after)):
            return
        for one in before:
            like = [other for other in after if _alike(one, other) or (way == "sent" and _wider(one, other))]
            if not like:
                yield f"{place}: no longer {_words(one)}"
                continue
            found = [list(self._plain(place, one, other, way)) for other in like]
            yield from min(found, key=len)
        if way == "answered":
            for one in after:
                if not any(_alike(other, one) for other in before) and one.get("type") != "object":
                    yield f"{place}: may be {_words(one)}"

    def _plain(self, place: str, old: Schema, new: Schema, way: Way) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in before:
            if name not in after:
                yield f"{place}: {name} removed"
            else:
                yield from self._schema(f"{place}: {name}", before[name], after[name], way)
        asked, promised = set(old.get("required", ())), set(new.get("required", ()))
        if way == "sent":
            yield from (f"{place}: {name} is required" for name in sorted(promised - asked))
            yield from _bounds(place, old, new)
        else:
            yield from (f"{place}: {name} may be missing" for name in sorted((asked - promised) & set(after)))
            yield from _answers(place, old, new)
        for inner in _INNER:
            if isinstance(old.get(inner), dict) and isinstance(new.get(inner), dict):
                yield from self._schema(f"{place}: {inner}", old[inner], new[inner], way)


def _variants(document: Schema, schema: Schema) -> Iterator[Schema]:
    """Yield the schemas of which a value must meet one, without references and unions."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    union = schema.get("anyOf") or schema.get("oneOf")
    if union is None:
        yield schema
    for one in union or ():
        yield from _variants(document, one)


def _says_nothing(schema: Schema) -> bool:
    return not {"type", "enum", "const", "properties"} & schema.keys()


def _alike(one: Schema, other: Schema) -> bool:
    """Whether two variants are versions of one: of the same type, and of the same event if they are events."""
    marks = [[part.get("properties", {}).get("event", {}).get("const") for part in (one, other)]]
    return one.get("type") == other.get("type") and all(a == b for a, b in marks)


def _wider(one: Schema, other: Schema) -> bool:
    """Whether the other takes all numbers that one took."""
    return one.get("type") == "integer" and other.get("type") == "number"


def _answers(place: str, old: Schema, new: Schema) -> Iterator[str]:
    """Yield what an answer said of its values, and does not say any more."""
    before, after = _values(old), _values(new)
    if before and not after:
        yield f"{place}: may be any {new.get('type', 'value')}"
    elif before:
        yield from (f"{place}: may be {value}" for value in sorted(after - before))
        yield from (f"{place}: is never {value}" for value in sorted(before - after))
    for inner in _INNER:
        if isinstance(old.get(inner), dict) and not isinstance(new.get(inner), dict):
            yield f"{place}: {inner} may be anything"


def _bounds(place: str, old: Schema, new: Schema) -> Iterator[str]:
    """Yield how a value that was accepted may be refused now, or one that is not sent mean something else."""
    if old.get("default", _NONE) != new.get("default", _NONE):
        yield f"{place}: default {old.get('default')} became {new.get('default')}"
    step, finer = new.get("multipleOf"), old.get("multipleOf")
    if step is not None and (finer is None or finer % step):
        yield f"{place}: multipleOf {finer} became {step}"
    for word in (*_LOWER, *_UPPER):
        before, after = old.get(word), new.get(word)
        tighter = after is not None and (
            before is None or (after > before if word in _LOWER else after < before)
        )
        if tighter:
            yield f"{place}: {word} {before} became {after}"
    if new.get("pattern") not in {None, old.get("pattern")}:
        yield f"{place}: pattern {old.get('pattern')} became {new['pattern']}"
    if old.get("additionalProperties", True) is not False and new.get("additionalProperties") is False:
        yield f"{place}: unknown members are refused"
    values = [_values(one) for one in (old, new)]
    if values[1] and not (values[0] and values[0] <= values[1]):
        yield f"{place}: accepts only {', '.join(sorted(values[1]))}"


def _values(schema: Schema) -> set[str]:
    return {str(one) for one in schema.get("enum", [schema["const"]] if "const" in schema else ())}


def _words(schema: Schema) -> str:
    kind = schema.get("type", "any value")
    return str(schema.get("title", kind) if kind == "object" else kind)
