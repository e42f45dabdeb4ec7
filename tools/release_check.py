"""Builds what a release has, and tries each part in a clean environment: ``make release-check``.

    .venv/bin/python tools/release_check.py [--out build/release] [--without worker]

It leaves in ``--out``: the wheel and the source distribution, a build context for each image, the chart's package, the npm
package in ``npm/``, a bill of materials (CycloneDX) for each image, a table of licences for each but the GPU worker's (its
packages cannot be installed everywhere, so its bill is of the lock file), and ``SHA256SUMS``. The server of the
api image's context runs, and the installed wheel and npm package each get an answer from it. The worker's context installs
vLLM (some gigabytes). Exit status: 0, or 1 with what is not fit.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from penstock._version import __version__  # noqa: E402
from tools.release import bills, chart, contexts, npm, server, wheel  # noqa: E402
from tools.release.runs import ReleaseError, run, step  # noqa: E402

HELM = ROOT / ".venv" / "tools" / "helm"


def check_changelog() -> None:
    """The changelog has a section for the version, or one that is not released yet."""
    text = (ROOT / "CHANGELOG.md").read_text()
    if f"## [{__version__}]" not in text and "## [Unreleased]" not in text:
        raise ReleaseError(f"CHANGELOG.md has neither [{__version__}] nor [Unreleased]")


def check(out: Path, scratch: Path, *, worker: bool) -> None:
    """Build and check everything.

    Raises:
        ReleaseError: what is not fit.
    """
    with step("changelog"):
        check_changelog()
    with step("wheel and source distribution, the wheel twice with the same bytes"):
        built, _ = wheel.build(out)
        shutil.rmtree(out / "again")
    with step("build contexts of the images"):
        api_context = contexts.pack(ROOT / "deploy" / "api.Dockerfile", out)
        worker_context = contexts.pack(ROOT / "deploy" / "worker.Dockerfile", out)
        operator_context = contexts.pack(ROOT / "deploy" / "operator.Dockerfile", out)
    with step("chart packaged, linted and rendered"):
        chart.pack(out, HELM, __version__)
        shutil.rmtree(out / "chart")
    with step("bill of materials and licences of the api image, installed from its context"):
        tool = bills.cyclonedx(scratch / "tool")
        python = contexts.set_up(api_context, "api", scratch / "api")
        bill = bills.of_environment(tool, python, out / "sbom-api.json")
        bills.licences(bill, out / "licences-api.md")
    with (
        step("server of the api image's context; the wheel's command and the npm package get an answer"),
        server.up(python.parent / "penstock", scratch / "api") as base,
    ):
        command = wheel.install(built, scratch / "wheel")
        answer = run(command, "--url", base, "submit", "hello", "--wait", "--text", cwd=scratch)
        if not answer.strip():
            raise ReleaseError("penstock submit printed no answer")
        npm.check(out, base, __version__, scratch / "npm")
    with step("bill of materials and licences of the operator image, installed from its context"):
        python = contexts.set_up(
            operator_context, "operator", scratch / "operator", ours="deploy.operator, penstock"
        )
        run(python, "-c", "import deploy.operator.__main__", cwd=scratch / "operator")
        bills.licences(
            bills.of_environment(tool, python, out / "sbom-operator.json"), out / "licences-operator.md"
        )
    with step("bill of materials of the GPU worker image, from its lock file"):
        bills.of_lock(tool, ROOT / "requirements" / "image-worker-gpu.lock", out / "sbom-worker-gpu.json")
    if worker:
        with step("bill of materials and licences of the CPU worker image, installed from its context"):
            python = contexts.set_up(worker_context, "worker-cpu", scratch / "worker")
            run(python, "-c", "import vllm", cwd=scratch)
            bill = bills.of_environment(tool, python, out / "sbom-worker-cpu.json")
            bills.licences(bill, out / "licences-worker-cpu.md")


def write_sums(out: Path) -> None:
    """Write ``SHA256SUMS`` of everything in the folder."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(out)}"
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "SHA256SUMS"
    ]
    (out / "SHA256SUMS").write_text("\n".join([*lines, ""]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "release", help="default %(default)s")
    parser.add_argument("--without", choices=["worker"], help="do not install the worker's context")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-release") as scratch:
            check(args.out.resolve(), Path(scratch), worker=args.without != "worker")
    except ReleaseError as error:
        sys.exit(f"release: {error}")
    write_sums(args.out)
    print(f"release: {__version__} is in {args.out}")


if __name__ == "__main__":
    main()
