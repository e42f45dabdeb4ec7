"""The log calls in the code (which events, at which level, from where, with which fields), and the page made from them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.markdown import code, generated, table

ROOT = Path(__file__).parents[1]
ROOMS = ("api", "broker", "coordinator", "jobs", "monitoring", "penstock", "storage", "workers")
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


@dataclass(frozen=True, slots=True)
class LogCall:
    """One call, as ``log.info("event", field=...)``; ``rest`` where it passes further fields on by ``**``."""

    event: str
    level: str
    module: str
    fields: tuple[str, ...]
    rest: bool


def log_calls() -> list[LogCall]:
    """Read every log call of the application.

    Raises:
        ValueError: an event's name is not written out where it is logged.
    """
    found = []
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            found += list(_calls(node, name))
    return found


def _calls(node: ast.AST, name: str) -> Iterator[LogCall]:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return
    owner, level = node.func.value, LEVELS.get(node.func.attr)
    if level is None or not (isinstance(owner, ast.Name) and owner.id == "log"):
        return
    fields = tuple(keyword.arg for keyword in node.keywords if keyword.arg and keyword.arg != "exc_info")
    rest = any(keyword.arg is None for keyword in node.keywords)
    first = node.args[0] if node.args else None
    for event in [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]:
        if not (isinstance(event, ast.Constant) and isinstance(event.value, str)):
            msg = (
                f"{name}:{node.lineno}: write the event's name out, so that it can be listed and searched for"
            )
            raise ValueError(msg)  # noqa: TRY004 - it is the code's text that is wrong
        yield LogCall(event.value, level, name.removesuffix(".py").replace("/", "."), fields, rest)


_LOGS_INTRO = """\
Every process writes to standard error, one line per event: its name and its fields. `log_level` and `log_json`
([configuration](configuration.md)) set the lowest level and the form. uvicorn's, Celery's and vLLM's own records have
the same form, with their sentence as `event`. No line contains a prompt, a
completion or a secret: of a path it shows the route, and the ids of jobs, files and batches.

`penstock up`, and `penstock worker run` with several workers, write the output of each process into a file in `logs` of
`data_dir`. A file of `log_max_bytes` is set aside as `NAME.log.1` while its process runs, and `log_backups` of these are
kept. The processes write into a pipe, so a killed one loses no line. While the command is stopped (Ctrl-Z), a process waits
after a megabyte of output. If the disk is full, the processes continue and lines are dropped.

With `log_json` a line is one JSON object. It begins with those of these fields that apply:

| field | meaning |
| --- | --- |
| `timestamp` | UTC, ISO 8601 |
| `level` | `debug`, `info`, `warning`, `error` |
| `event` | the event's name, one of those below |
| `service` | `api`, `coordinator`, `worker`, `vllm` (its engine process too) or `flower` |
| `request_id` | of a request to the api, as in the header `x-request-id` of its answer |
| `job_id` | the job that it is about |
| `trace_id` | the trace of the request or of the job, with or without a collector behind it |
| `logger` | the module |
| `exception` | the trace of an error |

The events of every job (`job_accepted`, `job_claimed`, `job_finished`, `job_ended`) have the level debug, because a line
for each costs more than a tenth of a small machine's rate; metrics and traces show the same. Failures and attempts that
were given up have the level info.

```bash
jq -c 'select(.job_id == "job_019a...")' .penstock/logs/*.log
```"""


def logs_page() -> str:
    """Return the page on log events."""
    from monitoring.events import EVENTS

    calls = log_calls()
    rows = []
    for event, sentence in sorted(EVENTS.items()):
        mine = [call for call in calls if call.event == event]
        levels = ", ".join(sorted({call.level for call in mine}))
        fields = sorted({field for call in mine for field in call.fields} - {"job_id"})
        rows.append((code(event), levels, ", ".join(code(field) for field in fields), sentence))
    header = ("event", "level", "fields", "meaning")
    return generated("Logs", "monitoring/events.py and the calls", _LOGS_INTRO, table(header, rows))
