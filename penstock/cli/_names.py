"""Names for the shell's completion: of servers from their file, of models, pools and workers from the server.

A key press must not wait. So the server is asked once a minute at most, and has a moment to answer; one that does not
is left alone as long.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import click
from click.shell_completion import CompletionItem

from penstock.cli import _servers
from penstock.cli._target import Target, target

_DEFAULT_URL = "http://127.0.0.1:8080"
_ANSWER_S = 0.4
_KEPT_S = 60.0
_MOST_BYTES = 1 << 20

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def servers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a server in the file of servers."""
    del ctx, param
    with suppress(click.ClickException):
        known = _servers.read().by_name
        return [CompletionItem(name, help=known[name].url) for name in known if name.startswith(incomplete)]
    return []


def _from_server(path: str, field: str) -> Completer:
    """Return a completer of a field of the objects that the server lists at a path."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del param
        with suppress(click.ClickException, OSError, ValueError):
            asked = _asked(ctx)
            return [
                CompletionItem(name) for name in _names(asked, path, field) if name.startswith(incomplete)
            ]
        return []

    return complete


models = _from_server("/v1/models", "id")
pools = _from_server("/v1/queues", "pool")
workers = _from_server("/v1/workers", "name")


def _asked(ctx: click.Context) -> Target:
    """Return the server that the options typed so far name: those of the command, or of the program."""
    levels = [ctx.params, *([ctx.parent.params] if ctx.parent else []), ctx.find_root().params]
    for given in levels:
        if given.get("url") or given.get("server_name"):
            break
    key = next((level["api_key"] for level in levels if level.get("api_key")), None)
    return target(given.get("url"), given.get("server_name"), key)


def _names(asked: Target, path: str, field: str) -> list[str]:
    """Return the names as of the last minute."""
    url = (asked.url or _DEFAULT_URL).rstrip("/").removesuffix("/v1")
    key = os.environ.get("PENSTOCK_API_KEY", "") if asked.api_key is None else asked.api_key
    digest = hashlib.sha256(f"{url} {path} {key}".encode()).hexdigest()[:24]
    kept = _cache() / f"{digest}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        if 0 <= time.time() - kept.stat().st_mtime < _KEPT_S:
            return [str(name) for name in json.loads(kept.read_bytes())]
    found: list[str] = []

    def ask() -> None:
        with suppress(Exception):  # a completion never complains
            found.extend(dict.fromkeys(str(one[field]) for one in _listed(url, path, key, asked.ca_file)))

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWER_S)
    names = sorted(found)
    with suppress(OSError):  # then the next key press asks again
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = kept.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(names))
        draft.replace(kept)
    return names


def _listed(url: str, path: str, key: str, ca_file: str | None) -> list[dict[str, Any]]:
    """Ask with the standard library: to import the SDK takes longer than most answers. It follows no redirect."""
    import ssl
    from http.client import HTTPConnection, HTTPSConnection

    at = urlsplit(url)
    connection = HTTPConnection(at.netloc, timeout=_ANSWER_S)
    if at.scheme == "https":
        trusted = ssl.create_default_context()
        if also := ca_file or os.environ.get("PENSTOCK_CA_FILE"):
            trusted.load_verify_locations(also)
        connection = HTTPSConnection(at.netloc, timeout=_ANSWER_S, context=trusted)
    with closing(connection):
        connection.request("GET", at.path + path, headers={"authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        listed: list[dict[str, Any]] = (
            json.loads(answer.read(_MOST_BYTES))["data"] if answer.status == 200 else []
        )
    return listed


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "penstock" / "names"
