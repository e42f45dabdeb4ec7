"""The ``penstock`` command: the client's commands, and the server's if its packages are installed."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

import click

from penstock._version import __version__
from penstock.cli._exits import INTERRUPTED, OK, USAGE, fail, leave_broken_pipe, wrong_usage
from penstock.cli._run import Globals, common_options, server_is_installed

_CLIENT = {
    "submit": ("penstock.cli.submit", "submit", "Submit a job: a prompt, or a raw OpenAI request."),
    "chat": ("penstock.cli.chat", "chat", "Talk with a model in the terminal."),
    "wait": ("penstock.cli.jobs", "wait", "Wait until jobs have ended and print their results."),
    "stream": ("penstock.cli.jobs", "stream", "Follow a job: its text as it is generated."),
    "get": ("penstock.cli.jobs", "get", "Show a job as it is now."),
    "list": ("penstock.cli.jobs", "list_jobs", "List jobs, newest first."),
    "cancel": ("penstock.cli.jobs", "cancel", "Cancel jobs."),
    "priority": ("penstock.cli.queue", "priority", "Move a queued job to another lane."),
    "queue": ("penstock.cli.queue", "queue", "Look at the queues; pause, resume, purge them."),
    "retry": ("penstock.cli.retry", "retry", "Retry finished jobs."),
    "dead": ("penstock.cli.retry", "dead", "Failed and expired jobs: list them, retry them."),
    "batch": ("penstock.cli.batch", "batch", "Bulk runs: files of prompts to files of answers."),
    "files": ("penstock.cli.files", "files", "Files on the server: inputs and outputs of batches."),
    "webhooks": ("penstock.cli.webhooks", "webhooks", "Webhooks: be told when jobs and batches end."),
    "workers": ("penstock.cli.workers", "workers", "List the live workers and how busy they are."),
    "rollout": ("penstock.cli.rollouts", "rollout", "New versions of models: start, look, go back."),
    "aliases": ("penstock.cli.rollouts", "aliases", "Further names of models: set and remove them."),
    "tenants": ("penstock.cli.tenants", "tenants", "Set tenants: shares, bounds, rights, quotas."),
    "adapters": ("penstock.cli.adapters", "adapters", "LoRA adapters: add, list, pin, remove them."),
    "usage": ("penstock.cli.ledgers", "usage", "Say what tenants, keys and models used."),
    "audit": ("penstock.cli.ledgers", "audit", "List administrative acts."),
    "bench": ("penstock.cli.bench", "bench", "Load a server and measure it; or an engine on this machine."),
    "top": ("penstock.cli.top", "top", "Watch queues, workers and GPUs."),
    "models": ("penstock.cli.workers", "models", "List the models that are served now."),
    "keys": ("penstock.cli.keys", "keys", "API keys: make, list, rotate and revoke them."),
    "health": ("penstock.cli.workers", "health", "Say whether the server can run jobs now."),
}
"""Name: module, attribute and help line, so that ``penstock --help`` imports none of them."""

_OURS = frozenset({"api", "broker", "coordinator", "jobs", "monitoring", "storage", "workers"})


class _Commands(click.Group):
    """Finds commands when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the client's commands, then the server's."""
        del ctx
        return [*_CLIENT, *_server_commands()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if there is none of this name."""
        del ctx
        if cmd_name in _CLIENT:
            module, attribute, _ = _CLIENT[cmd_name]
            command: click.Command = getattr(import_module(module), attribute)
            return command
        return _server_commands().get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the two lists, the client's from the table above."""
        del ctx
        with formatter.section("Client commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _CLIENT.items()])
        title = "Server commands" + ("" if server_is_installed() else " (need the repository checkout)")
        with formatter.section(title):
            formatter.write_dl(
                [(name, command.get_short_help_str(80)) for name, command in _server_commands().items()]
            )


@click.group("penstock", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@common_options
@click.version_option(__version__, prog_name="penstock")
@click.pass_context
def cli(ctx: click.Context, url: str | None, api_key: str | None) -> None:
    """One queue for interactive, asynchronous and bulk inference on the same GPUs.

    \b
    Examples:
      penstock health
      penstock submit "Why is the sky blue?" --stream
      penstock batch run prompts.txt -o out.jsonl
      penstock list --state running
      penstock --url https://penstock.example submit --input request.json --wait

    `penstock COMMAND --help` shows a command's options, more examples and its exit codes.
    """  # noqa: D301  # \b is click's mark
    ctx.obj = Globals(url, api_key)


def main() -> NoReturn:
    """Run the command line and exit: see the exit codes in each command's ``--help``."""
    try:
        code = cli.main(prog_name="penstock", standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        raise SystemExit(INTERRUPTED) from None
    except click.ClickException as exc:
        wrong_usage(exc)
    except BrokenPipeError:
        leave_broken_pipe()
    except ModuleNotFoundError as exc:
        # A server command imports its packages only when it runs; this is an install without them.
        name = next((word for word in sys.argv[1:] if word in _server_commands()), None)
        if name is None or not _is_server_package(exc):
            raise
        missing = f"no module {exc.name!r} here"
        fail(
            f"{name} needs the repository checkout with its server requirements installed ({missing})", USAGE
        )
    raise SystemExit(code if isinstance(code, int) else OK)


def _server_commands() -> dict[str, click.Command]:
    """Return the server's commands. They are there without the server, so that typing one gets a useful answer."""
    commands: list[click.Command] = import_module("penstock.cli.server").COMMANDS
    return {command.name: command for command in commands if command.name}


def _is_server_package(exc: ModuleNotFoundError) -> bool:
    """Whether what is missing is the server's: a package of ours, or a library that the SDK does not need."""
    top = (exc.name or "").partition(".")[0]
    return top in _OURS or (top != "" and top not in {"penstock", "httpx", "pydantic", "click", "rich"})
