"""What the operator reads of a Deployment."""

from __future__ import annotations

from typing import Any

from deploy.operator.looking import version_of
from deploy.operator.pool import POOL_LABEL

DEPLOYMENT: dict[str, Any] = {
    "metadata": {"name": "penstock-worker-chat", "generation": 1, "labels": {POOL_LABEL: "chat"}},
    "spec": {"replicas": 1},
}


def stuck(*conditions: tuple[str, str, str], waits: str | None = None) -> str | None:
    said = [dict(zip(("type", "status", "message"), one, strict=True)) for one in conditions]
    state = {"waiting": {"reason": waits}} if waits else {"running": {}}
    pod = {
        "metadata": {"name": "p", "labels": {POOL_LABEL: "chat"}},
        "status": {"containerStatuses": [{"state": state}]},
    }
    return version_of({**DEPLOYMENT, "status": {"conditions": said}}, [pod]).stuck


def test_it_says_why_pods_are_not_made_or_not_ready() -> None:
    refused = "pods is forbidden: violates PodSecurity baseline: hostPath volumes"
    assert stuck(("Progressing", "True", "goes on"), waits="ImagePullBackOff") is None  # it may still come
    assert stuck(("Progressing", "True", "goes on"), ("ReplicaFailure", "True", refused)) == refused
    assert (
        stuck(("Progressing", "False", "timed out"), waits="ImagePullBackOff")
        == "timed out; p: ImagePullBackOff"
    )
    assert stuck(("Progressing", "False", "")) == ""
