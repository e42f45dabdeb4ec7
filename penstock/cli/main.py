"""The ``penstock`` command: the client's commands, and the server's if its packages are installed."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

import click

from penstock._version import __version__
from penstock.cli._exits import INTERRUPTED, OK, leave_broken_pipe, wrong_usage
from penstock.cli._group import Group
from penstock.cli._moved import renewed
from penstock.cli._run import Globals, common_options, server_is_installed

SECTIONS = {
    "Use": {
        "submit": ("submit:submit", "Submit a job: a prompt, or a raw OpenAI request."),
        "chat": ("chat:chat", "Talk with a model in the terminal."),
        "batch": ("batch:batch", "Bulk runs: files of prompts to files of answers."),
        "jobs": ("jobs:jobs", "Jobs: list, get, wait, stream, cancel, move, retry."),
        "files": ("files:files", "Files on the server: inputs and outputs of batches."),
        "models": ("models:models", "The models that are served, and aliases of them."),
        "webhooks": ("webhooks:webhooks", "Webhooks: events of jobs and batches, posted to your server."),
    },
    "Watch": {
        "status": ("status:status", "Health, models, workers and queues in one look."),
        "top": ("top:top", "Watch queues, workers and GPUs."),
        "usage": ("ledgers:usage", "What tenants, keys and models used."),
    },
    "Operate": {
        "queue": ("queue:queue", "Queues: list, pause, resume, purge them."),
        "worker": ("worker:worker", "Workers: run, list, drain them."),
        "rollout": ("rollouts:rollout", "New versions of models: start, look, go back."),
        "adapters": ("adapters:adapters", "LoRA adapters: add, list, pin, remove them."),
        "tenants": ("tenants:tenants", "Tenants: shares, bounds, rights, quotas."),
        "keys": ("keys:keys", "API keys: make, list, rotate and revoke them."),
        "audit": ("ledgers:audit", "Administrative acts: who did what, when."),
        "encryption": ("encryption:encryption", "Keys of the encryption at rest."),
    },
    "Run": {
        "up": ("server:up", "Run everything on this machine until Ctrl-C."),
        "init": ("init:init", "Write a commented penstock.toml for this machine."),
        "doctor": ("doctor:doctor", "Look for what is wrong on this machine, and with a server."),
        "api": ("server:api", "Run the HTTP api."),
        "coordinator": ("server:coordinator", "Run a coordinator, the process that drives batches."),
        "flower": ("server:flower", "Run Flower on the same queue."),
        "bench": ("bench:bench", "Load a server and measure it; or an engine on this machine."),
        "servers": ("servers:servers", "Names for the servers you work with: add, list, use, remove."),
        "completion": ("completion:completion", "Completion of command lines in bash, zsh and fish."),
    },
}
"""Section, name: module and attribute in ``penstock.cli``, and help line, so that ``penstock --help`` imports no module."""

_NEED_THE_SERVER = "Run (init, up, api, coordinator, flower and worker run need the repository checkout)"


class _Commands(Group):
    """Finds commands when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands, in the order of the sections."""
        del ctx
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if there is none of this name."""
        del ctx
        for section in SECTIONS.values():
            if cmd_name in section:
                module, _, attribute = section[cmd_name][0].partition(":")
                command: click.Command = getattr(import_module(f"penstock.cli.{module}"), attribute)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the first words name, by an old name too."""
        return super().resolve_command(ctx, args if ctx.resilient_parsing else renewed(args))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        del ctx
        for title, section in SECTIONS.items():
            said = title if title != "Run" or server_is_installed() else _NEED_THE_SERVER
            with formatter.section(said):
                formatter.write_dl([(name, text) for name, (_, text) in section.items()])


@click.group("penstock", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@common_options
@click.version_option(__version__, prog_name="penstock")
@click.pass_context
def cli(ctx: click.Context, /, **given: str | None) -> None:
    """One queue for interactive, asynchronous and bulk inference on the same GPUs.

    \b
    Examples:
      penstock status
      penstock submit "Why is the sky blue?" --stream
      penstock batch run prompts.txt -o out.jsonl
      penstock jobs list --state running
      penstock --url https://penstock.example submit --input request.json --wait

    `penstock COMMAND --help` shows a command's options, more examples and its exit codes.
    """  # noqa: D301  # \b is click's mark
    ctx.obj = Globals(**given)


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
    raise SystemExit(code if isinstance(code, int) else OK)
