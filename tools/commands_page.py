"""The reference page of the commands, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from tools.markdown import code, generated, table

_INTRO = """\
`--help` prints the same. [Scripts and errors](../use/scripts-and-errors.md) says what commands print on a
pipe, and has their exit codes. Most options of `up`, `api`, `worker run`, `coordinator` and `flower` set a
[setting](configuration.md), which a file or the environment can set, too."""

_SHARED_INTRO = "Every command that talks to a server also takes these options, before or after its name:"


def commands_page() -> str:
    """Return the page."""
    from penstock.cli.main import cli

    root = click.Context(cli, info_name="penstock")
    submit = cli.get_command(root, "submit")
    assert submit is not None  # noqa: S101 - it is in the table
    shared = {name: text for name, text in _options(click.Context(submit)) if name.split()[0] in _SHARED}
    parts = [part for section in _sections(cli, root, shared) for part in section]
    return generated("Commands", "the commands", _INTRO, _SHARED_INTRO, _table(list(shared.items())), *parts)


_SHARED = frozenset({"--url", "--server", "--api-key", "--json"})


def _sections(
    group: click.Group, ctx: click.Context, shared: dict[str, str], depth: int = 2
) -> Iterator[list[str]]:
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=ctx)
        title = f"{'#' * depth} {inner.command_path}"
        if isinstance(command, click.Group):
            yield [title, *_prose(command)]
            yield from _sections(command, inner, shared, depth + 1)
        else:
            usage = " ".join([inner.command_path, *command.collect_usage_pieces(inner)])
            own = [row for row in _options(inner) if row[0] not in shared]
            yield [title, *_prose(command), f"```text\n{usage}\n```", *([_table(own)] if own else [])]


def _options(ctx: click.Context) -> list[tuple[str, str]]:
    """Return each option with its help, without ``--help``; arguments are in the usage."""
    found = [one.get_help_record(ctx) for one in ctx.command.get_params(ctx)]
    return [one for one in found if one and one[1] and "--help" not in one[0]]


def _table(options: list[tuple[str, str]]) -> str:
    return table(("option", "meaning"), [(code(names), _escaped(text)) for names, text in options])


def _prose(command: click.Command) -> Iterator[str]:
    """Yield a command's help: its paragraphs, and as code those that click does not wrap."""
    text = inspect.cleandoc(command.help or "").partition("\f")[0]
    for paragraph in text.split("\n\n"):
        first, _, rest = paragraph.partition("\n")
        if first.strip() != "\b":
            yield _escaped(" ".join(paragraph.split()))
            continue
        title, _, lines = rest.partition("\n")
        if title.endswith(":") and lines:
            yield _escaped(title)
        else:
            lines = rest
        yield f"```text\n{inspect.cleandoc(lines)}\n```"


def _escaped(text: str) -> str:
    """Return help text as Markdown: only its inline code keeps a meaning."""
    parts = " ".join(text.split()).split("`")
    for at in range(0, len(parts), 2):
        for sign in "\\*<[":
            parts[at] = parts[at].replace(sign, f"\\{sign}")
    return "`".join(parts)
