"""Run the benchmarks of this folder and rewrite the tables of docs/benchmarks.md with what they measured.

Every script here whose name does not begin with an underscore is a benchmark, and says four things:

- run by itself it prints one JSON report, with ``benchmark``, ``date`` and ``machine`` among its keys;
- ``QUICK``: the arguments with which it takes minutes at most, and its figures mean little;
- ``TABLES``: the names of its tables;
- ``tables(report)``: the Markdown of each table that it owns, by the table's name.

One that needs what not every machine has also has ``unavailable()``, which says what is missing, or returns None. With
``STANDS_IN = True`` its quick run does without.

A table stands in docs/benchmarks.md, or in one of the ``FURTHER`` pages, between ``<!-- figures: NAME -->`` and
``<!-- end of figures -->``. What is between them belongs to this script; the prose around it does not.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import _tables
from _stack import ROOT

from penstock.server.guardian import die_with_parent

HERE = Path(__file__).parent
PAGE = ROOT / "docs" / "benchmarks.md"
FURTHER = (ROOT / "docs" / "explanation" / "bulk-without-being-felt.md",)
"""Pages that have a table of their own."""

REPORTS = ROOT / ".penstock" / "benchmarks"
EXAMPLES = """
examples:
  make bench                                          every benchmark; rewrites docs/benchmarks.md
  make bench ARGS=--quick                             try them: minutes, prints the tables, leaves the page
  make bench ARGS="--only control_plane"              one of them
  make bench ARGS="--only overhead -- --rounds 5"     what follows -- goes to the benchmark
  make bench ARGS="--from-reports"                    the tables anew, from the reports of earlier runs
"""


class Benchmark(Protocol):
    """What a benchmark's module has."""

    QUICK: Sequence[str]
    TABLES: Sequence[str]

    def tables(self, report: dict[str, Any]) -> dict[str, str]:
        """Return the Markdown of its tables, by name."""


class BenchmarkError(Exception):
    """A benchmark, or the page, is not as it should be. The message is for whoever typed the command."""


def names() -> list[str]:
    """Return the benchmarks, in alphabetical order."""
    return sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_") and p != Path(__file__))


def load(name: str) -> Benchmark:
    """Return a benchmark's module.

    Raises:
        BenchmarkError: it lacks ``QUICK``, ``TABLES`` or ``tables``.
    """
    module = importlib.import_module(name)
    missing = [one for one in ("QUICK", "TABLES", "tables") if not hasattr(module, one)]
    if missing:
        raise BenchmarkError(f"benchmarks/{name}.py has no {' and no '.join(missing)}: see benchmarks/run.py")
    return cast("Benchmark", module)


def block(report: dict[str, Any], table: str) -> str:
    """Return what stands between the marks: when, on what, and the table."""
    facts = _tables.wrap(f"{report['date']}; {report['machine']}.")
    return f"\n{facts}\n\n{table.strip()}\n\n"


def page_of(table: str) -> Path:
    """Return the page with a table's place; the main page, if none has one."""
    return next((page for page in FURTHER if f"<!-- figures: {table} -->" in page.read_text()), PAGE)


def put(page: str, name: str, content: str) -> str:
    """Return the page with one table replaced.

    Raises:
        BenchmarkError: the page has no place for it, or several.
    """
    mark = re.compile(rf"(<!-- figures: {re.escape(name)} -->\n).*?(<!-- end of figures -->)", re.DOTALL)
    if len(mark.findall(page)) != 1:
        raise BenchmarkError(
            f"{PAGE.name} (or another page) must have one '<!-- figures: {name} -->' with its '<!-- end of figures -->'"
        )
    return mark.sub(lambda found: found[1] + content + found[2], page)


def run(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Run one benchmark in a process of its own; its progress goes to stderr.

    Raises:
        BenchmarkError: it failed, or printed no report.
    """
    argv = [sys.executable, str(HERE / f"{name}.py"), *arguments]
    done = subprocess.run(
        argv,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        preexec_fn=die_with_parent(signal.SIGTERM),
    )
    if done.returncode:
        raise BenchmarkError(f"{name} ended with status {done.returncode}")
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise BenchmarkError(f"{name} printed no JSON report: {done.stdout[-500:]!r}") from error
    return report


def measure(name: str, args: argparse.Namespace) -> dict[str, str]:
    """Run one benchmark, or read its last report; return its tables with their headings."""
    module = load(name)
    kept = REPORTS / f"{name}.json"
    if args.from_reports:
        with contextlib.suppress(FileNotFoundError):
            report = json.loads(kept.read_text())
            return {table: block(report, text) for table, text in module.tables(report).items()}
        raise BenchmarkError(f"{name} has no report in {kept.parent}: run it first")
    report = run(name, args.arguments or (module.QUICK if args.quick else ()))
    if not args.quick:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(report, indent=2) + "\n")
    return {table: block(report, text) for table, text in module.tables(report).items()}


def left_out(name: str, args: argparse.Namespace) -> str | None:
    """Say why a benchmark is not run on this machine; None where it is.

    Raises:
        BenchmarkError: it was asked for by its name.
    """
    says = getattr(load(name), "unavailable", None)
    needs_all = not args.from_reports and not (args.quick and getattr(load(name), "STANDS_IN", False))
    reason = says() if says and needs_all else None
    if reason and args.only:
        raise BenchmarkError(f"{name} cannot run: {reason}")
    return reason


def run_all(wanted: Iterable[str], args: argparse.Namespace) -> list[str]:
    """Run benchmarks one after the other; return those that failed. One that fails leaves its tables as they were."""
    failed = []
    for name in wanted:
        start = time.monotonic()
        print(f"bench: {name} …", file=sys.stderr, flush=True)
        try:
            if reason := left_out(name, args):
                print(f"bench: {name} is left out: {reason}", file=sys.stderr, flush=True)
                continue
            tables = measure(name, args)
            if args.quick:
                print("".join(f"## {table}\n{text}" for table, text in tables.items()), flush=True)
            else:
                pages: dict[Path, str] = {}
                for table, text in tables.items():
                    page = page_of(table)
                    pages[page] = put(pages.get(page) or page.read_text(), table, text)
                for page, content in pages.items():
                    page.write_text(content)
        except BenchmarkError as error:
            failed.append(name)
            print(f"bench: {error}", file=sys.stderr, flush=True)
        except Exception:  # noqa: BLE001 - a report of another shape must not cost the others their tables
            failed.append(name)
            print(f"bench: the tables of {name} cannot be made", file=sys.stderr, flush=True)
            traceback.print_exc()
        else:
            took = time.monotonic() - start
            print(f"bench: {name} done in {took:.0f} s", file=sys.stderr, flush=True)
    return failed


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="name the benchmarks, and what each measures")
    parser.add_argument("--quick", action="store_true", help="short runs, tables on the screen only")
    parser.add_argument("--only", nargs="+", choices=names(), metavar="NAME", help="these alone")
    parser.add_argument(
        "--skip", nargs="+", choices=names(), metavar="NAME", default=[], help="all but these"
    )
    parser.add_argument(
        "--from-reports", action="store_true", help=f"measure nothing; read {REPORTS.name}/*.json"
    )
    parser.add_argument(
        "arguments", nargs="*", help="after --: arguments of the one benchmark named by --only"
    )
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    args = parser.parse_args(given[:at])
    args.arguments = given[at + 1 :]
    wanted = [name for name in args.only or names() if name not in args.skip]
    if args.arguments and len(wanted) != 1:
        parser.error("arguments after -- need --only with one benchmark")
    if args.list:
        for name in wanted:
            print(f"{name:24} {(importlib.import_module(name).__doc__ or '').splitlines()[0]}")
        return 0
    failed = run_all(wanted, args)
    if failed:
        print(f"bench: failed: {', '.join(failed)}; their tables are as they were", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
