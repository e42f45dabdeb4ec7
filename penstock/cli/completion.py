"""``penstock completion``: what the shell needs to complete command lines of ``penstock``."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click import argument, option
from click.shell_completion import get_completion_class

from penstock.cli._exits import USAGE, fail, note

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_PENSTOCK_COMPLETE"
_ZSH_NEEDS = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n"


@click.command("completion")
@argument("shell", type=click.Choice(_SHELLS), required=False)
@option("--install", is_flag=True, help="Write it where new shells of yours read it.")
@click.pass_context
def completion(ctx: click.Context, /, *, shell: str | None, install: bool) -> None:
    """Print what SHELL needs to complete commands, options, and names of models, pools, workers and servers.

    \b
    Examples:
      penstock completion --install
      penstock completion bash > /etc/bash_completion.d/penstock
      penstock completion zsh > "${fpath[1]}/_penstock"
      penstock completion fish | source

    Without SHELL: that of the variable SHELL. Names that the server knows are kept for a minute; a server that does not
    answer at once is not waited for.
    """  # noqa: D301  # \b is click's mark
    name = shell or Path(os.environ.get("SHELL", "")).name
    made = get_completion_class(name) if name in _SHELLS else None
    if made is None:
        raise click.UsageError(f"name the shell: {', '.join(_SHELLS)}")
    source = made(ctx.find_root().command, {}, "penstock", _VARIABLE).source()
    if not install:
        click.echo(source)
        return
    try:
        _install(name, source)
    except OSError as exc:
        fail(f"cannot write: {exc}", USAGE)


def _install(shell: str, source: str) -> None:
    """Write the script, and for shells without a folder for such scripts, the line that reads it.

    Raises:
        OSError: a file cannot be written.
    """
    if shell == "fish":
        script = _folder("XDG_CONFIG_HOME", ".config") / "fish" / "completions" / "penstock.fish"
        _write(script, source)
        note(f"{script} is written; new shells complete penstock")
        return
    script = _folder("XDG_DATA_HOME", ".local/share") / "penstock" / f"completion.{shell}"
    _write(script, (_ZSH_NEEDS if shell == "zsh" else "") + source)
    home = Path(os.environ.get("ZDOTDIR") or Path.home()) if shell == "zsh" else Path.home()
    start = home / f".{shell}rc"
    line = f'[ -r "{script}" ] && . "{script}"  # completion of penstock'
    before = start.read_bytes() if start.exists() else b""  # in whatever encoding
    if os.fsencode(line) not in before.splitlines():
        with start.open("ab") as file:
            file.write((b"" if not before or before.endswith(b"\n") else b"\n") + os.fsencode(line) + b"\n")
    note(f"{script} is written, and {start} reads it; new shells complete penstock")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default)
