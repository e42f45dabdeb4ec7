"""ModelPools for tests, and the part of the operator that the chart renders."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from deploy.operator.base import Base, read_base
from tests.helm import ROOT, rendered

LEAST = ("--set", "redis.url=redis://queue.data:6379/0", "--set", "operator.enabled=true")
CRD = yaml.safe_load((ROOT / "deploy" / "operator" / "crd.yaml").read_text())
NAMESPACE = "llm"


def base_text(*words: str) -> str:
    """Return the file that the chart writes for the operator, with these options."""
    (found,) = (one for one in rendered(*words) if "base.yaml" in one.get("data", {}))
    text: str = found["data"]["base.yaml"]
    return text


@cache
def base_of(*words: str) -> Base:
    """Return what it says."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "base.yaml"
        path.write_text(base_text(*words))
        return read_base(path)


def a_pool(name: str = "chat", **spec: Any) -> dict[str, Any]:
    """Return a ModelPool."""
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "ModelPool",
        "metadata": {"name": name},
        "spec": {"model": "org/model-1", "engine": "simulated", "device": {"gpus": 0}, **spec},
    }
