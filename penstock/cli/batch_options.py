"""The options that ``penstock batch run``, ``submit`` and ``verify`` share: how rows are made, and of the batch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click import option

from penstock.cli._names import models
from penstock.cli._parse import METADATA, PRIORITIES, SYSTEM, TEMPERATURE, endpoint, pair

if TYPE_CHECKING:
    from penstock.bulk.rows import Recipe
    from penstock.bulk.source import Source

F = TypeVar("F", bound=Callable[..., Any])

_FORMATS = ["text", "jsonl", "csv", "tsv", "parquet", "openai"]

_READING = (
    option(
        "--format",
        "kind",
        type=click.Choice(_FORMATS),
        help="Its format; default: detected from content and name.",
    ),
    option("--delimiter", metavar="CHAR", help="Separates the values of CSV; default: a comma."),
    option("--id-field", metavar="NAME", help="The field that is the row's id; default: its number, row-1."),
)

_MAKING = (
    option(
        "-m",
        "--model",
        shell_complete=models,
        help="Served name; with --embedded: hub name or path.  [env of the served name: PENSTOCK_CLIENT_MODEL]",
    ),
    option("--template", metavar="TEXT", help="The prompt, with {field} for a record's values."),
    option(
        "--template-file",
        type=click.File("r", encoding="utf-8"),
        metavar="FILE",
        help="The same, from a file.",
    ),
    SYSTEM,
    option(
        "--endpoint",
        type=endpoint,
        help="chat (the default), completions, embeddings, responses, messages, rerank, score, classify, pooling.",
    ),
    option("--max-tokens", type=click.IntRange(min=1), help="The most tokens to generate for a row."),
    TEMPERATURE,
    option("--top-p", type=click.FloatRange(min=0, max=1), help="Nucleus sampling."),
    option("--seed", type=int, help="Seed of the sampling."),
    option("--stop", multiple=True, metavar="TEXT", help="Ends the text; may be repeated."),
    option("--param", type=pair, multiple=True, metavar="K=V", help="Any request field, JSON or text."),
)


_BATCH = (
    option("--window", metavar="TIME", help="Rows not done by then expire: 24h (the default), 30m, 7d."),
    option("--priority", type=PRIORITIES, help="Its lane; default: bulk."),
    METADATA,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Making:
    """How rows are made, and how the input is read; None is detected."""

    recipe: Recipe
    kind: str | None
    delimiter: str | None

    def of(self, source: Source, default_model: Callable[[], str]) -> Making:
        """Return this for an input: with its format, and with a model unless its rows name one themselves."""
        from penstock.bulk.source import detect

        kind, recipe = self.kind or detect(source), self.recipe
        if recipe.model is None and kind != "openai":
            recipe = dataclasses.replace(recipe, model=default_model())
        return Making(recipe, kind, self.delimiter)


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


row_options = _options(*_MAKING, *_READING)
"""Gives a command the options of :class:`Making`."""

id_options = _options(*_READING)
"""Gives a command the options that decide the rows' ids."""

batch_options = _options(*_BATCH)
"""Gives a command the options of the batch itself."""


def making(
    *,
    kind: str | None,
    delimiter: str | None,
    template: str | None,
    template_file: Any,
    stop: tuple[str, ...],
    param: tuple[tuple[str, str], ...],
    **options: Any,
) -> Making:
    """Read the options. Raises click.UsageError if they contradict each other."""
    from penstock.bulk.rows import Recipe

    if template is not None and template_file is not None:
        raise click.UsageError("give either --template or --template-file")
    if delimiter is not None and len(delimiter) != 1:
        raise click.UsageError("--delimiter is one character")
    plain = {name: options.pop(name) for name in ("max_tokens", "temperature", "top_p", "seed")}
    params: dict[str, Any] = {name: value for name, value in plain.items() if value is not None}
    if stop:
        params["stop"] = list(stop)
    params |= {name: _value(text) for name, text in param}
    template = template_file.read() if template_file is not None else template
    # What is left of the options are the recipe's fields by their names.
    return Making(Recipe(template=template, params=params, **options), kind, delimiter)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # a word, as in --param user=me
