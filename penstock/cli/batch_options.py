"""The options that say how rows are made of an input, the same for ``penstock batch run``, ``submit`` and ``verify``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from penstock.cli._parse import batch_endpoint, pair

if TYPE_CHECKING:
    from penstock.bulk.rows import Recipe

F = TypeVar("F", bound=Callable[..., Any])

_FORMATS = ["text", "jsonl", "csv", "tsv", "parquet", "openai"]

_READING = (
    click.option(
        "--format",
        "kind",
        type=click.Choice(_FORMATS),
        help="What the input is; default: seen from its content and its name.",
    ),
    click.option("--delimiter", metavar="CHAR", help="Between the values of CSV; default: a comma."),
    click.option(
        "--id-field", metavar="NAME", help="The field that is the row's id; default: its number, row-1."
    ),
)

_MAKING = (
    click.option(
        "-m", "--model", envvar="PENSTOCK_MODEL", help="Served name; with --embedded: hub name or path."
    ),
    click.option("--template", metavar="TEXT", help="The prompt, with {field} for a record's values."),
    click.option(
        "--template-file",
        type=click.File("r", encoding="utf-8"),
        metavar="FILE",
        help="The same, from a file.",
    ),
    click.option("--system", metavar="TEXT", help="System message (chat)."),
    click.option(
        "--endpoint", type=batch_endpoint, help="chat (the default), completions, embeddings, responses."
    ),
    click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens to generate for a row."),
    click.option("--temperature", type=click.FloatRange(min=0), help="0 always takes the likeliest token."),
    click.option("--top-p", type=click.FloatRange(min=0, max=1), help="Nucleus sampling."),
    click.option("--seed", type=int, help="Of the sampling."),
    click.option("--stop", multiple=True, metavar="TEXT", help="Ends the text; may be repeated."),
    click.option(
        "--param", type=pair, multiple=True, metavar="K=V", help="Any field of the request, JSON or text."
    ),
)


@dataclass(frozen=True, slots=True)
class Making:
    """How rows are made, and how the input is read."""

    recipe: Recipe
    kind: str | None
    delimiter: str | None


def row_options(function: F) -> F:
    """Give a command the options of :class:`Making`."""
    for option in reversed((*_MAKING, *_READING)):
        function = option(function)
    return function


def id_options(function: F) -> F:
    """Give a command those that say which ids the rows have."""
    for option in reversed(_READING):
        function = option(function)
    return function


def making(
    *,
    kind: str | None,
    delimiter: str | None,
    id_field: str | None,
    model: str | None,
    template: str | None,
    template_file: Any,
    system: str | None,
    endpoint: str | None,
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    stop: tuple[str, ...],
    param: tuple[tuple[str, str], ...],
) -> Making:
    """Read the options. Raises click.UsageError where they contradict each other."""
    from penstock.bulk.rows import Recipe

    if template is not None and template_file is not None:
        msg = "give either --template or --template-file"
        raise click.UsageError(msg)
    if delimiter is not None and len(delimiter) != 1:
        msg = "--delimiter is one character"
        raise click.UsageError(msg)
    plain = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    params: dict[str, Any] = {name: value for name, value in plain.items() if value is not None}
    if stop:
        params["stop"] = list(stop)
    params |= {name: _value(text) for name, text in param}
    recipe = Recipe(
        endpoint=endpoint,
        model=model,
        system=system,
        template=template_file.read() if template_file is not None else template,
        params=params,
        id_field=id_field,
    )
    return Making(recipe, kind, delimiter)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # a word, as in --param user=me
