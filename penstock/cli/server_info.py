"""The commands that ask about the server: models and health."""

from __future__ import annotations

import click

from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES, REFUSED
from penstock.cli._run import Console, client_command


@click.command("models", epilog=EXIT_CODES)
@client_command
def models(console: Console) -> None:
    """List the models that are served now.

    \b
    Examples:
      penstock models
      penstock models --json | jq -r .id
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show_all(client.models(), output.models_table)


@click.command("health", epilog=EXIT_CODES)
@client_command
def health(console: Console) -> None:
    """Say whether the server can run jobs now; exit code 0 if so, 4 if not.

    \b
    Examples:
      penstock health
      until penstock health --json > /dev/null; do sleep 1; done
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        report = client.health()
        console.show(report, lambda report: output.health_lines(report, client.base_url))
    if not report.ready:
        raise SystemExit(REFUSED)
