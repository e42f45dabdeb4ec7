"""Runs Helm (``tools/setup_helm.py``) on the chart."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C takes a tenth of the time
BINARY = ROOT / ".venv" / "tools" / "helm"
CHART = ROOT / "deploy" / "helm" / "penstock"
EXAMPLES = tuple(sorted(path.stem for path in (CHART / "examples").glob("*.yaml")))


class HelmError(Exception):
    """Helm refused. The message is its own."""


def helm(*words: str, kubeconfig: Path | None = None) -> str:
    """Run Helm in the repository's root, and return what it printed.

    Raises:
        HelmError: with what it said instead.
    """
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    if kubeconfig is not None:
        env |= {"KUBECONFIG": str(kubeconfig), "HELM_CACHE_HOME": str(kubeconfig.parent / "cache")}
    done = subprocess.run(
        [BINARY, *words], capture_output=True, text=True, check=False, env=env, cwd=ROOT, timeout=120
    )
    if done.returncode:
        raise HelmError(done.stdout + done.stderr)
    return done.stdout


def values(example: str) -> tuple[str, str]:
    """Return the option that takes an example's values."""
    return "--values", str(CHART / "examples" / f"{example}.yaml")


@cache
def rendered(*words: str) -> tuple[dict[str, Any], ...]:
    """Return the objects that the chart makes of these options."""
    printed = helm("template", "penstock", str(CHART), "--namespace", "llm", *words)
    return tuple(one for one in yaml.load_all(printed, LOADER) if one)
