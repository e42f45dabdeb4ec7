"""Groups of commands: their lists, and what they say when no command has the name that was typed."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

import click

_SAME = {
    "ls": ("list",),
    "ps": ("list",),
    "rm": ("remove", "delete", "unalias", "revoke"),
    "del": ("delete", "remove"),
    "show": ("get", "status", "show"),
    "info": ("get", "status", "show"),
    "status": ("get", "list"),
    "new": ("create", "add"),
    "add": ("create", "set", "alias"),
    "create": ("add", "set", "submit"),
    "start": ("run",),
    "stop": ("cancel", "drain", "pause"),
}
"""Words of other tools for what a command here may be called."""


_WHOLE = 1000


class Group(click.Group):
    """A group that lists its commands in whole sentences, and answers a wrong name with those that come near."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first word names. Raises click.UsageError if there is none."""
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        said = f"There is no command {name!r}"
        near = [f"{ctx.command_path} {one}" for one in self._near(ctx, name)] or list(self._below(ctx, name))
        if near:
            said = f"{said}. Did you mean {' or '.join(f'{one!r}' for one in near)}?"
        raise click.UsageError(said, ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their whole first sentences; click would cut them."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, one.get_short_help_str(_WHOLE))
            for name, one in found
            if one is not None and not one.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def _near(self, ctx: click.Context, name: str) -> list[str]:
        """Return the commands of this group with another word of the same meaning, or nearly this name."""
        names = self.list_commands(ctx)
        same = [word for word in _SAME.get(name, ()) if word in names]
        return same or get_close_matches(name, names, n=2, cutoff=0.65)

    def _below(self, ctx: click.Context, name: str) -> Iterator[str]:
        """Yield the commands of this name in the groups of this one, as they are typed."""
        for word in self.list_commands(ctx):
            group = self.get_command(ctx, word)
            if isinstance(group, click.Group) and name in group.commands:
                yield f"{ctx.command_path} {word} {name}"
