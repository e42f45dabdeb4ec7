"""``penstock doctor``: what is wrong, or will be, on this machine and with a server."""

from __future__ import annotations

from typing import Any

import click
from click import option

from penstock.cli._exits import JOB_NOT_OK, note
from penstock.cli._findings import Area, Finding, counts, guarded, show
from penstock.cli._local import running_here
from penstock.cli._run import Console, client_command, print_json, server_is_installed
from penstock.cli._table import Column, Columns, printable, screen, table

_CODES = """\b
Exit codes:
  0  nothing failed; there may be warnings
  1  something failed
  2  wrong usage"""


@click.command("doctor", epilog=_CODES)
@option("--settings", "all_settings", is_flag=True, help="List every setting in effect, with its source.")
@option("--redis-url", metavar="URL", help="A server to look at.  [default: as the settings say]")
@option("--data-dir", metavar="DIR", help="Queue, models and logs.  [default: .penstock]")
@option("--model", metavar="NAME_OR_PATH", help="A model, to see whether it fits.")
@option("--quiet", is_flag=True, help="Only what is to be done.")
@client_command
def doctor(console: Console, *, all_settings: bool, quiet: bool, **overrides: Any) -> None:
    """Look for what is wrong: settings, ports, disk, limits, Redis, GPUs, models; and a running server.

    \b
    Examples:
      penstock doctor
      penstock doctor --model Qwen/Qwen2.5-7B-Instruct
      penstock doctor --redis-url redis://queue.internal:6379/0
      penstock doctor --url https://penstock.example
      penstock doctor --settings
      penstock doctor --json | jq '.findings[] | select(.level == "fail")'

    It changes nothing, and needs no running server. If one is named (--url, PENSTOCK_URL), or runs in this folder, it is
    looked at too. Secrets are not shown.
    """  # noqa: D301  # \b is click's mark
    here = running_here()
    findings: list[Finding] = []
    settings: list[Any] = []
    if server_is_installed():
        from penstock.server.doctor.examine import examine

        given = {name: value for name, value in overrides.items() if value is not None}
        findings, settings = examine(given, here)
    else:
        said = "this is an install of the client alone: this machine is not looked at"
        findings.append(Area("machine").skipped("server", said))
    if console.named_url or here:
        from penstock.cli._doctor_server import server

        with console.client(on_retry=None) as client:
            findings += guarded("server", lambda: server(client))
    else:
        said = "none is named, and none runs in this folder"
        findings.append(Area("server").skipped("running", said, "Name one with --url to look at it too."))
    _tell(console, findings, settings, all_settings=all_settings, quiet=quiet)
    if counts(findings)["fail"]:
        raise SystemExit(JOB_NOT_OK)


def _tell(
    console: Console, findings: list[Finding], settings: list[Any], *, all_settings: bool, quiet: bool
) -> None:
    said = counts(findings)
    if console.json:
        print_json(
            {
                "summary": said,
                "findings": [one.as_json() for one in findings],
                "settings": [one.as_json() for one in settings if all_settings or not one.is_default],
            }
        )
        return
    show([one for one in findings if one.advice or not quiet])
    changed = [one for one in settings if all_settings or not one.is_default]
    if changed and not quiet:
        click.echo(click.style("settings in effect" if all_settings else "settings that were set", bold=True))
        columns: Columns[Any] = [
            Column("name", lambda one: f"  {one.name}"),
            Column("value", lambda one: printable(one.value), cut=True),
            Column("source", lambda one: one.source),
        ]
        screen().print(table(columns, changed))
    note(f"{said['ok']} ok, {said['warn']} warnings, {said['fail']} failures")
