"""``penstock rollout``: new versions of models, for administrators."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from click import argument, option

from penstock.cli._exits import EXIT_CODES, JOB_NOT_OK, fail, note
from penstock.cli._group import Group
from penstock.cli._names import pools
from penstock.cli._parse import named
from penstock.cli._run import Console, client_command
from penstock.cli._table import Column, panel, plural, screen, table

if TYPE_CHECKING:
    from penstock.client import Penstock
    from penstock.rollout_models import Rollout, Version

_LOOK_EVERY_S = 0.5
_POOL = argument("pool", metavar="POOL", type=named("the pool"), shell_complete=pools)
_WAIT = option("--wait", "waiting", is_flag=True, help="Return when it has ended; exit code 1 if it failed.")


@click.group("rollout", cls=Group)
def rollout() -> None:
    """Start a new version of a pool's model without downtime, and go back. Needs a key with the scope admin.

    \b
    Examples:
      penstock rollout start chat --model Qwen/Qwen3-8B --wait
      penstock rollout status
      penstock rollout back chat
    """  # noqa: D301  # \b is click's mark


@rollout.command("start", epilog=EXIT_CODES)
@_POOL
@option("--model", metavar="NAME_OR_PATH", help="The new model.  [default: the same]")
@option(
    "--engine-arg",
    "engine_args",
    multiple=True,
    metavar="FLAG",
    help="A flag for vLLM after the pool's own, as --engine-arg=--max-model-len=2048.",
)
@option("--no-surge", is_flag=True, help="End the old workers first: there is no room for both. Calls wait.")
@option("--in-place", is_flag=True, help="Load the weights in the running workers: the shapes are the same.")
@_WAIT
@client_command
def start(
    console: Console,
    *,
    pool: str,
    model: str | None,
    engine_args: tuple[str, ...],
    no_surge: bool,
    in_place: bool,
    waiting: bool,
) -> None:
    """Start a new version of the model that POOL serves.

    \b
    Examples:
      penstock rollout start default --model ./checkpoints/step-2000
      penstock rollout start chat --engine-arg=--quantization=fp8 --no-surge --wait
      penstock rollout start chat --model ./checkpoints/step-2000 --in-place

    The new version has the old one's names. Its workers start beside the old ones; when all of them are ready, jobs go
    to it, those that wait are moved, and the old workers drain. If it does not come up, the old version serves on.
    """  # noqa: D301  # \b is click's mark
    if no_surge and in_place:
        raise click.UsageError("--no-surge and --in-place exclude each other")
    mode = "no_surge" if no_surge else "in_place" if in_place else "surge"
    with console.client() as client:
        begun = client.rollouts.start(pool, model, engine_args=engine_args, mode=mode)
        _finish(console, client, begun, waiting=waiting)


@rollout.command("status", epilog=EXIT_CODES)
@argument("pool", metavar="[POOL]", required=False, type=named("the pool"), shell_complete=pools)
@client_command
def status(console: Console, *, pool: str | None) -> None:
    """Show the versions of POOL, or list every pool whose model got another version.

    \b
    Examples:
      penstock rollout status
      penstock rollout status chat --json | jq -r .state
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        if pool is None:
            console.show_all(client.rollouts.list(), _print_list)
        else:
            console.show(client.rollouts.get(pool), _print_one)


@rollout.command("back", epilog=EXIT_CODES)
@_POOL
@option("--no-surge", is_flag=True, help="End the present workers first.")
@_WAIT
@client_command
def back(console: Console, *, pool: str, no_surge: bool, waiting: bool) -> None:
    """Return to the version that served before, the same way.

    \b
    Examples:
      penstock rollout back chat --wait
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        begun = client.rollouts.back(pool, mode="no_surge" if no_surge else None)
        _finish(console, client, begun, waiting=waiting)


@rollout.command("abort", epilog=EXIT_CODES)
@_POOL
@client_command
def abort(console: Console, *, pool: str) -> None:
    """Stop a rollout whose new version does not serve yet. The old version serves on.

    \b
    Examples:
      penstock rollout abort chat
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show(client.rollouts.abort(pool), _print_one)


@rollout.command("switch", epilog=EXIT_CODES)
@_POOL
@option(
    "--to",
    required=True,
    metavar="POOL",
    type=named("the pool"),
    shell_complete=pools,
    help="The pool that serves from now on.",
)
@option("--no-drain", is_flag=True, help="Leave the workers of the version before running.")
@client_command
def switch(console: Console, *, pool: str, to: str, no_drain: bool) -> None:
    """Have another pool serve in place of POOL, if `penstock up` does not run the workers (compose, Kubernetes).

    \b
    Examples:
      penstock worker run --pool chat --pool-version v2 --model ./step-2000 --served-model-name chat
      penstock rollout switch chat --to chat-v2
      penstock rollout switch chat --to chat      # back

    Workers of the other pool must be ready, and serve the same names. Jobs that wait are moved; the workers of the
    version before drain.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show(client.rollouts.switch(pool, to, drain=not no_drain), _print_one)


def _finish(console: Console, client: Penstock, begun: Rollout, *, waiting: bool) -> None:
    """Show a rollout that has begun, or wait for its end."""
    one = begun
    while waiting and one.under_way:
        time.sleep(_LOOK_EVERY_S)
        one = client.rollouts.get(one.id)
    console.show(one, _print_one)
    if waiting and one.state != "done":
        fail(f"the rollout of {one.id} {one.state}: {one.message or 'no reason was given'}", JOB_NOT_OK)


def _print_list(found: Iterable[Rollout]) -> None:
    made = table(
        [
            Column("pool", lambda one: one.id),
            Column("state", lambda one: one.state),
            Column("serves", lambda one: _words(one.current)),
            Column("next", lambda one: _words(one.target)),
            Column("before", lambda one: _words(one.previous)),
            Column("left", lambda one: f"{one.left:,}", right=True),
            Column("message", lambda one: one.message or "", cut=True),
        ],
        found,
    )
    if made.row_count:
        screen().print(made)
    else:
        note("no pool's model got another version")


def _print_one(one: Rollout) -> None:
    fields: list[tuple[str, str | None]] = [
        ("state", one.state),
        ("mode", one.mode.replace("_", "-")),
        ("serves", _words(one.current)),
        ("next", _words(one.target) or None),
        ("before", _words(one.previous) or None),
        ("left there", plural(one.left, "job") if one.left else None),
        ("carried out by", one.keeper),
        ("message", one.message),
    ]
    screen().print(panel(one.id, fields))


def _words(version: Version | None) -> str:
    if version is None:
        return ""
    told = " ".join(filter(None, (version.model, *version.engine_args)))
    return f"{version.pool} ({told})" if told else version.pool
