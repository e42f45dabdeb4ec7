"""The chart's life in a cluster: install, upgrade, rollback and uninstall by Helm itself, against a server in memory."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helm import CHART, ROOT, HelmError, helm, values
from tests.kubernetes import Cluster


class Release:
    """A release of the chart in a cluster of its own."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self._config = cluster.kubeconfig(folder / "config")

    def run(self, command: str, *words: str) -> str:
        return helm(command, "penstock", *words, "--namespace", "llm", kubeconfig=self._config)

    def apply(self, command: str, *words: str) -> str:
        return self.run(command, str(CHART), *values("one-gpu"), *words)

    def secret(self) -> dict[str, str]:
        data: dict[str, str] = self.cluster.named("Secret")["penstock-secrets"]["data"]
        return data

    def history(self) -> list[tuple[int, str]]:
        listed: list[dict[str, Any]] = json.loads(self.run("history", "--output", "json"))
        return [(each["revision"], each["status"]) for each in listed]


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Release]:
    with Cluster() as cluster:
        yield Release(cluster, tmp_path)


def test_install_upgrade_rollback_uninstall(release: Release) -> None:
    operator = ("--set", "operator.enabled=true")
    notes = release.apply("install", *operator)
    assert "get modelpools" in notes
    assert "rollout status deploy/penstock-worker-chat" in notes
    assert "penstock keys create --direct" in notes
    worker = "penstock-worker-chat"
    deployed = release.cluster.named("Deployment")
    assert deployed.keys() == {
        "penstock-api",
        "penstock-coordinator",
        "penstock-flower",
        "penstock-operator",
        worker,
    }
    made = release.secret()
    assert len(base64.b64decode(made["key_pepper"])) == 48

    release.apply("upgrade", *operator, "--set", "pools.chat.replicas=3", "--set", "pools.more.gpus=1")
    deployed = release.cluster.named("Deployment")
    assert deployed[worker]["spec"]["replicas"] == 3
    assert "penstock-worker-more" in deployed
    assert release.secret() == made  # with another pepper every key would be lost

    release.run("rollback", "1")
    deployed = release.cluster.named("Deployment")
    assert deployed[worker]["spec"]["replicas"] == 1
    assert "penstock-worker-more" not in deployed
    assert release.secret() == made
    assert release.history() == [(1, "superseded"), (2, "superseded"), (3, "deployed")]

    release.run("uninstall")
    left = {one["metadata"]["name"] for one in release.cluster.objects.values()}
    # What cannot be made again; with the CRD all ModelPools would go.
    assert left == {"penstock-secrets", "penstock-files", "modelpools.penstock.dev"}

    release.apply("install", *operator, "--take-ownership")
    assert release.secret() == made


def test_a_change_of_settings_starts_new_pods(release: Release) -> None:
    def pods(name: str) -> dict[str, str]:
        found: dict[str, str] = release.cluster.named("Deployment")[name]["spec"]["template"]["metadata"][
            "annotations"
        ]
        return found

    release.apply("install")
    before = pods("penstock-worker-chat")
    release.apply("upgrade", "--set", "api.replicas=2")
    assert pods("penstock-worker-chat") == before
    release.apply("upgrade", "--set", "settings.retention_s=3600")
    assert pods("penstock-worker-chat") != before


def commands(heading: str) -> Iterator[list[str]]:
    """Yield the commands below a heading of the page on Kubernetes, as a shell splits them."""
    _, _, below = (ROOT / "docs" / "operate" / "kubernetes.md").read_text().partition(f"\n## {heading}\n")
    for block in re.findall(r"```bash\n(.*?)```", below.partition("\n## ")[0], re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line, comments=True)


def test_the_commands_of_the_page_run_as_they_are_written(tmp_path: Path) -> None:
    """Those of Helm; what those of kubectl name is there, by a name that the server tells kubectl."""
    mine = str(CHART / "examples" / "one-gpu.yaml")
    with Cluster() as cluster:
        config = cluster.kubeconfig(tmp_path / "config")
        claim = {"name": "data-penstock-valkey-0"}  # the StatefulSet's controller makes it
        cluster.create(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim}, namespace="llm"
        )

        def there() -> set[str]:
            return {
                f"{called}/{one['metadata']['name']}"
                for (group, plural, *_), one in cluster.objects.items()
                for called in (plural.removesuffix("s"), plural, *cluster.store.kinds[group][plural].short)
            }

        ran: set[str] = set()
        for program, *words in (*commands("Install"), *commands("Upgrade, go back, uninstall")):
            if program == "helm":
                helm(*(mine if word == "my-values.yaml" else word for word in words), kubeconfig=config)
                ran |= {"install", "upgrade", "history", "rollback", "uninstall"} & {*words}
            elif program == "kubectl" and "crd" not in words:
                named = {word for word in words if re.fullmatch(r"[a-z]+/[a-z0-9-]+", word)}
                assert named
                assert named <= there(), words
        assert ran == {"install", "upgrade", "history", "rollback", "uninstall"}
        assert "namespace/llm" in there()  # --create-namespace


def test_an_upgrade_says_what_was_forgotten_and_what_does_not_work(release: Release) -> None:
    release.apply("install")
    said = release.apply("upgrade", "--set", "pools.chat.model=org/other")
    assert "WARNING: the pool chat serves Qwen/Qwen2.5-7B-Instruct, and now names org/other." in said
    plain = ("upgrade", str(CHART), "--set", "api.replicas=2")
    with pytest.raises(HelmError, match=r"redis\.url is not set.*-f FILE.*--reset-then-reuse-values"):
        release.run(*plain)
    assert "WARNING" not in release.run(*plain, "--reset-then-reuse-values")
    assert release.cluster.named("Deployment")["penstock-api"]["spec"]["replicas"] == 2


def test_a_pool_is_made_to_scale_and_to_stay(release: Release) -> None:
    scaling = {"enabled": "true", "minReplicas": 0, "slots": 64}
    words = [
        word
        for name, value in scaling.items()
        for word in ("--set", f"pools.chat.autoscaling.{name}={value}")
    ]
    release.apply("install")
    by_api = ("--set", "keda.trigger=metrics-api", "--set", "keda.apiKeySecret=keda")
    assert "set settings.queue_timeout_s" in release.apply("upgrade", *words, *by_api)
    (scaled,) = release.cluster.named("ScaledObject").values()
    (key,) = release.cluster.named("TriggerAuthentication")
    assert scaled["spec"]["triggers"][0]["authenticationRef"] == {"name": key}
    assert release.cluster.named("Role").keys() == {"penstock-worker"}
    release.run("rollback", "1")
    for kind in ("ScaledObject", "TriggerAuthentication", "Role", "RoleBinding"):
        assert not release.cluster.named(kind)
