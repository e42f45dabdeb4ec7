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
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"

sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, the repository's root need not be

from tools.chart_schema import NAMES, SCHEMA, names_text, schema_text  # noqa: E402
from tools.commands_page import commands_page  # noqa: E402
from tools.failure_codes_page import failure_codes_page  # noqa: E402
from tools.http_pages import http_pages  # noqa: E402
from tools.log_events import logs_page  # noqa: E402
from tools.metrics_page import metrics_page  # noqa: E402
from tools.openapi_document import DOCUMENT, REASONS, document_text, openapi, unexplained  # noqa: E402
from tools.redis_keys_page import redis_keys_page  # noqa: E402
from tools.settings_page import settings_page  # noqa: E402
from tools.typescript_page import typescript_page  # noqa: E402

PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "configuration.md": settings_page,
    "metrics.md": metrics_page,
    "failure-codes.md": failure_codes_page,
    "redis-keys.md": redis_keys_page,
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
