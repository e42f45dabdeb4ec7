#!/usr/bin/env python3
"""Writes the reference pages that are made from the code.

    .venv/bin/python tools/gen_docs.py            write what is out of date
    .venv/bin/python tools/gen_docs.py --check    only say what is; exit status 1 then

The pages: settings (from the settings classes and the commands' options), metrics, failure codes, Redis keys, logs,
commands, HTTP operations, the TypeScript SDK. The names of settings in the schema of the chart's values, and for the
operator. And ``clients/openapi.json``, unless a change breaks clients and has no reason in ``clients/openapi-breaking.md``.
The code is the source: correct a wrong sentence there.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"

sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, the repository's root need not be

from tools.chart_schema import NAMES, SCHEMA, names_text, schema_text  # noqa: E402
from tools.commands_page import commands_page  # noqa: E402
from tools.http_pages import http_pages  # noqa: E402
from tools.log_events import logs_page  # noqa: E402
from tools.markdown import code, generated, table  # noqa: E402
from tools.metrics_page import metrics_page  # noqa: E402
from tools.openapi_document import DOCUMENT, REASONS, document_text, openapi, unexplained  # noqa: E402
from tools.typescript_page import typescript_page  # noqa: E402

# ---- settings ------------------------------------------------------------------------------------------

_NAMES = {str: "string", SecretStr: "string", int: "integer", float: "number", bool: "boolean", Path: "path"}


def type_words(annotation: Any, metadata: Iterable[Any]) -> str:
    """Say a setting's type and bounds."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in {Union, types.UnionType}:
        return " or ".join("none" if arg is type(None) else type_words(arg, metadata) for arg in args)
    if origin is Literal:
        return ", ".join(code(str(arg)) for arg in args)
    if origin is tuple:
        return f"list of {type_words(args[0], ())}s"
    if origin is dict:
        return "table by name"
    words = _NAMES[annotation]
    bounds = []
    for bound in metadata:
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            if (value := getattr(bound, name, None)) is not None:
                bounds.append(f"{sign} {value:g}" if isinstance(value, float) else f"{sign} {value}")
        if (pattern := getattr(bound, "pattern", None)) is not None:
            bounds.append(f"matches {code(pattern)}")
    return ", ".join([words, *bounds])


def default_words(value: Any) -> str:
    """Write a default as it would be set."""
    if value is None:
        return "none"
    if value == ():
        return "empty"
    if isinstance(value, float):
        return code(f"{value:.15g}")
    return code(json.dumps(value) if isinstance(value, bool | tuple) else str(value))


def options_of(setting: str, commands: Mapping[str, Any]) -> str:
    """Name the options that set a setting, each with the commands that have it."""
    found: dict[str, list[str]] = {}
    for name, command in commands.items():
        for param in command.params:
            if param.name == setting:
                option = "/".join([*param.opts[:1], *param.secondary_opts])
                found.setdefault(option, []).append(name)
    return "; ".join(f"{code(option)} ({', '.join(names)})" for option, names in found.items())


def environment_names(name: str, field: Any) -> str:
    """Name the variables that a setting is read from."""
    from broker.sources import aliases

    return ", ".join(code(alias.upper()) for alias in aliases(name, field))


def settings_table(cls: Any, base: Any, commands: Mapping[str, Any]) -> str:
    """Return a table of the settings that ``cls`` has beyond ``base``."""
    rows = []
    for name, field in cls.model_fields.items():
        if base is not None and name in base.model_fields:
            continue
        rows.append(
            (
                f"{code(name)}<br>{environment_names(name, field)}",
                type_words(field.annotation, field.metadata),
                default_words(field.default),
                options_of(name, commands),
                field.description or "",
            )
        )
    return table(("key in penstock.toml, environment", "type", "default", "option", "meaning"), rows)


_SETTINGS_INTRO = """\
Each process reads its settings once, when it starts. The first of these sources that has a value counts:

1. the command line (the column *option*, with the commands that have it),
2. the environment,
3. a secret file: `/run/secrets/penstock_NAME`, for example `/run/secrets/penstock_api_keys`, or the same name in the
   folder that systemd names in `$CREDENTIALS_DIRECTORY`; an empty one counts as missing (`PENSTOCK_SECRETS_DIR`
   names another folder than `/run/secrets`),
4. a file `penstock.toml` in the current folder, or the file that `PENSTOCK_SETTINGS_FILE` names (top-level keys; the
   tables `[pools.NAME]` are [a pool's](#a-pool)),
5. the default.

- A value that is out of range stops the start, with a message that names the setting. The message quotes numbers and
  choices, and never a text that may hold a password or a key.
- An unknown key of the file or an unknown variable `PENSTOCK_...` stops the start, with the name that it resembles
  most. Settings of other processes are known: one file and one environment serve them all.
- Variables that Kubernetes sets for a Service named `penstock` or `penstock-...` (`PENSTOCK_PORT=tcp://...`,
  `PENSTOCK_SERVICE_HOST`) are ignored.
- An empty environment variable counts as not set.
- Nothing of Penstock reads a file `.env`: it is for compose. To use one, export it: `set -a; . ./.env; set +a`.
- A list is one string in the environment. `engine_args` is split as a shell does
  (`PENSTOCK_ENGINE_ARGS="--max-model-len=4096 --seed 1"`), every other list at commas (`PENSTOCK_ALIASES=gpt-4o,fast`).
- A table is one string too: `PENSTOCK_API_KEYS=alice=sk-1,bob=sk-2`. JSON works for lists and tables, and is needed
  for `tenants` and for values with a comma: `PENSTOCK_TENANTS='{"alice": {"weight": 3}}'`.
- Durations are seconds (`_s`), sizes are bytes (`_bytes`).

```toml
# penstock.toml
redis_url = "redis://queue.internal:6379/0"
model = "Qwen/Qwen2.5-0.5B-Instruct"
engine_args = ["--max-model-len=4096"]
retention_s = 3600
```

| process | reads |
| --- | --- |
| `penstock api` | [every process](#every-process), [the api](#the-api) |
| `penstock coordinator` | [every process](#every-process), [a coordinator](#a-coordinator) |
| `penstock worker run` | [every process](#every-process), [a worker](#a-worker) |
| `penstock flower` | [every process](#every-process), [Flower](#flower) |
| `penstock up` | [every process](#every-process), [a worker](#a-worker), [penstock up](#penstock-up); \
the processes it starts read theirs from the same environment and files |"""

_SHARED_NOTE = """\
Set shared settings such as `namespace`, `lease_ttl_s` and `retention_s` to the same value in every process that uses
one Redis: each process applies its own. `heartbeat_s` must be well below `lease_ttl_s`; nothing checks that."""

_UP_NOTE = """\
Without `redis_url` from any source, `penstock up` starts an embedded Valkey in `data_dir`. The logs are in
`data_dir` too. If several workers have the same `metrics_port`, each gets the next free number."""

_POOL_NOTE = """\
A table `[pools.NAME]` of `penstock.toml` for each model; see [several models](../operate/several-models.md). It may
hold the keys below, with the meanings above. The command line overrides a table, a table overrides everything else.

```toml
default_model = "gpt-4o-mini"

[pools.chat]
model = "Qwen/Qwen2.5-72B-Instruct"
engine_args = ["--max-model-len=16384"]
gpus = "0,1"
tensor_parallel = 2
aliases = ["gpt-4o-mini"]

[pools.embed]
model = "BAAI/bge-m3"
gpus = "2"
```"""


def pool_table() -> str:
    """Return a table of what a pool's table may hold."""
    from workers.devices.pools import KEYS, OWN
    from workers.settings import WorkerSettings

    rows = []
    for name in KEYS:
        field = WorkerSettings.model_fields[name]
        without = default_words(field.default) if name in OWN else "as set for all"
        rows.append((code(name), type_words(field.annotation, field.metadata), without))
    return table(("key", "type", "default"), rows)


def variables_table() -> str:
    """Return a table of the variables that are no settings."""
    from penstock.server.settings import VARIABLES

    rows = [(code(name), reader, meaning) for name, (reader, meaning) in VARIABLES.items()]
    rows.append(
        (
            f"{code('VLLM_*')}, {code('HF_*')}",
            "vLLM, in the worker",
            "as vLLM and the Hugging Face libraries document them",
        )
    )
    return table(("environment", "read by", "meaning"), rows)


def configuration() -> str:
    """Return the page on settings."""
    from api.settings import ApiSettings
    from broker.settings import BrokerSettings
    from coordinator.settings import CoordinatorSettings
    from penstock.cli import server, worker_run
    from penstock.server.settings import FlowerSettings, UpSettings
    from workers.settings import WorkerSettings

    commands = {"up": server.up, "api": server.api, "coordinator": server.coordinator}
    commands |= {"worker run": worker_run.run, "flower": server.flower}

    def of(*names: str) -> dict[str, Any]:
        return {name: commands[name] for name in names}

    return generated(
        "Configuration",
        "the settings classes",
        _SETTINGS_INTRO,
        "## Every process",
        settings_table(BrokerSettings, None, commands),
        _SHARED_NOTE,
        "## The api",
        settings_table(ApiSettings, BrokerSettings, of("api")),
        "## A coordinator",
        settings_table(CoordinatorSettings, BrokerSettings, of("coordinator")),
        "## A worker",
        settings_table(WorkerSettings, BrokerSettings, of("worker run", "up")),
        "## A pool",
        _POOL_NOTE,
        pool_table(),
        "## penstock up",
        settings_table(UpSettings, WorkerSettings, of("up")),
        _UP_NOTE,
        "## Flower",
        settings_table(FlowerSettings, BrokerSettings, of("flower")),
        "## Not settings, but read from the environment",
        variables_table(),
    )


# ---- failure codes -------------------------------------------------------------------------------------

_FAILURES_INTRO = """\
A job in the state `failed` has exactly one of these codes in `error.code`. The set is closed. A synchronous
caller gets the HTTP status and the type of the table, or, if the engine itself refused, the engine's own status and
words, in OpenAI's shape.

*Retryable* means that another attempt may succeed. Penstock tries such a job again, until it has lost
`max_attempts` attempts: see [retries](../use/retries-and-dead-jobs.md#automatic-retries)."""

_FAILURES_OUTRO = """\
A job that was cancelled, or whose deadline passed, is not `failed`: its state is `cancelled` or `expired`. The
codes of requests that were refused before they became a job are in [the HTTP API](http-api.md)."""


def failure_codes() -> str:
    """Return the page on failure codes."""
    from jobs.failures import FAILURES

    rows = [
        (
            code(key.value),
            str(info.http_status),
            code(info.error_type),
            "yes" if info.retryable else "no",
            info.sentence,
        )
        for key, info in FAILURES.items()
    ]
    header = ("code", "HTTP status", "type", "retryable", "meaning")
    return generated(
        "Failure codes", "jobs/failures.py", _FAILURES_INTRO, table(header, rows), _FAILURES_OUTRO
    )


# ---- Redis keys ----------------------------------------------------------------------------------------

_KEYS_INTRO = """\
For inspecting a running system with `valkey-cli` or `redis-cli`. This is not an interface: the keys change
with the code, and only the functions in `broker/lua` write jobs."""


def redis_keys() -> str:
    """Return the page on Redis keys, from the docstring of ``broker/db/keys.py``."""
    import broker.db.keys

    lines = (broker.db.keys.__doc__ or "").splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("====")]
    starts = [
        at
        for at, char in enumerate(lines[rules[0]])
        if char == "=" and (at == 0 or lines[rules[0]][at - 1] == " ")
    ]
    rows = []
    for line in lines[rules[1] + 1 : rules[2]]:
        cells = [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        holds, _, lifetime = cells[2].rpartition("  (")
        rows.append((cells[0], cells[1], holds.strip(), lifetime.removesuffix(")")))
    before = "\n".join(lines[2 : rules[0]]).strip()
    after = "\n".join(lines[rules[2] + 1 :]).strip()
    body = table(("key", "type", "holds", "lifetime"), rows)
    return generated(
        "Redis keys",
        "broker/db/keys.py",
        _KEYS_INTRO,
        *(part.replace("``", "`") for part in (before, body, after)),
    )


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "configuration.md": configuration,
    "metrics.md": metrics_page,
    "failure-codes.md": failure_codes,
    "redis-keys.md": redis_keys,
    "logs.md": logs_page,
    "typescript-sdk.md": typescript_page,
}
"""Each page in ``docs/reference`` that is made here."""


def files() -> Iterator[tuple[Path, str]]:
    """Yield each generated file with the text that it should have."""
    for name, page in PAGES.items():
        yield REFERENCE / name, page()
    for name, text in http_pages(openapi()).items():
        yield REFERENCE / "http" / name, text
    yield DOCUMENT, document_text()
    yield SCHEMA, schema_text()
    yield NAMES, names_text()


def stale() -> dict[Path, str]:
    """Return the files that differ from what the code says, with the text that they should have."""
    return {path: text for path, text in files() if not path.exists() or path.read_text() != text}


def main() -> int:
    """Write or check the files. Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a page is stale")
    check = parser.parse_args().check
    old = stale()
    broken = unexplained() if DOCUMENT in old else []
    for path, text in old.items():
        name = path.relative_to(ROOT)
        if check:
            print(f"{name} is out of date: run tools/gen_docs.py")
        elif path == DOCUMENT and broken:
            print(
                f"{name} is not written: these changes break clients. Undo them, or give each a line with its"
            )
            print(
                f"reason in {REASONS.relative_to(ROOT)}:",
                *(f"- `{change}`: REASON" for change in broken),
                sep="\n",
            )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"{name} written")
    return 1 if broken or (check and old) else 0


if __name__ == "__main__":
    sys.exit(main())
