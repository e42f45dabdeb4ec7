"""The reference page on settings, from the settings classes and the commands' options."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr

from tools.markdown import code, generated, table

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


def settings_page() -> str:
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
