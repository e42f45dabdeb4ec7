"""The operator makes what the chart makes, and the chart gives it what it needs and no more."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from openapi_schema_validator import OAS30Validator

from deploy.operator import objects
from deploy.operator.base import read_base
from deploy.operator.pool import ModelPool
from tests.deploy.operators import CRD, LEAST, NAMESPACE, a_pool, base_of
from tests.helm import rendered
from tests.kubernetes.patches import fitted

GPU = {
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "aliases": ["big"],
    "engineArgs": ["--max-model-len=16384"],
    "settings": {"bulk_reserve": 0.25},
    "hfToken": True,
    "modelCache": {"existingClaim": "models"},
    "shmSize": "8Gi",
    "resources": {"requests": {"cpu": "4", "memory": "32Gi"}, "limits": {"memory": "48Gi"}},
    "nodeSelector": {"nvidia.com/gpu.product": "H100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
    "drainSeconds": 300,
    "startSeconds": 605,
    "podAnnotations": {"a": "b"},
    "env": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
}
POOLS: dict[str, dict[str, Any]] = {
    "a GPU": GPU | {"gpus": 1},
    "several GPUs": {
        "model": "m",
        "gpus": 4,
        "gpuResource": "amd.com/gpu",
        "modelCache": {"hostPath": "/models"},
    },
    "the CPU": {"model": "m", "gpus": 0, "modelCache": {"size": "9Gi"}},
    "another server": {"model": "m", "gpus": 0, "engine": "openai", "modelCache": {}},
    "simulated": {"model": "m", "gpus": 0, "engine": "simulated"},
}
OPTIONS: dict[str, tuple[str, ...]] = {
    "least": LEAST,
    "much": (
        *LEAST,
        *("--set", "encryption.enabled=true", "--set", "image.registry=registry.example.com"),
        *("--set", "image.pullSecrets={one}", "--set", "settings.retention_s=3600"),
        *(
            "--set",
            "files.url=s3://bucket",
            "--set",
            "files.credentialsSecret=s3",
            "--set",
            "redis.users=true",
        ),
        *(
            "--set-json",
            'extraEnv=[{"name":"A","value":"b"}]',
            "--set",
            "fullnameOverride=long-name-of-a-release",
        ),
    ),
}


def spec_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of a ModelPool for the chart's values of a pool."""
    own = {name: value for name, value in values.items() if name not in {"gpus", "gpuResource"}}
    return own | {"device": {"gpus": values["gpus"], "resource": values.get("gpuResource", "nvidia.com/gpu")}}


def as_read(spec: dict[str, Any], name: str = "chat") -> ModelPool:
    """Return a ModelPool as the operator reads it from the API server."""
    body = a_pool(name) | {"spec": fitted(copy.deepcopy(spec), schema()["properties"]["spec"])}
    body["metadata"] |= {"namespace": NAMESPACE, "uid": "u", "generation": 1}
    return ModelPool.read(body)


def schema() -> dict[str, Any]:
    found: dict[str, Any] = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def plain(one: dict[str, Any]) -> dict[str, Any]:
    """Leave out what differs on purpose: labels of Helm and of the operator, checksums, the settings' name."""
    spec = copy.deepcopy(one["spec"])
    template = spec["template"]
    assert template["metadata"]["annotations"].pop("checksum/settings")
    for name in ("helm.sh/chart", "app.kubernetes.io/managed-by", "penstock.dev/modelpool"):
        template["metadata"]["labels"].pop(name, None)
    (settings,) = (each for each in template["spec"]["volumes"] if each["name"] == "settings")
    settings["configMap"] = {}
    spec.pop("replicas", None)
    return spec


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("case", POOLS)
def test_the_operator_makes_the_deployment_that_the_chart_makes(case: str, options: str) -> None:
    values = POOLS[case]
    words = OPTIONS[options]
    chart = rendered(*words, "--set-json", f"pools={json.dumps({'chat': values})}")
    (theirs,) = (
        one
        for one in chart
        if one["kind"] == "Deployment" and one["metadata"]["labels"].get("penstock.dev/pool") == "chat"
    )
    pool = as_read(spec_of(values))
    ours = objects.deployment(base_of(*words), pool, "chat")
    assert plain(ours) == plain(theirs)
    assert ours["metadata"]["name"] == theirs["metadata"]["name"]
    kubernetes_validate.validate(ours, "1.33", strict=True)
    (toml,) = (
        tomllib.loads(one["data"]["penstock.toml"]) for one in chart if "penstock.toml" in one.get("data", {})
    )
    toml["pools"]["chat"]["served_model_name"] = "chat"
    made = objects.config_map(base_of(*words), pool, "chat")
    assert tomllib.loads(made["data"]["penstock.toml"]) == toml
    kubernetes_validate.validate(made, "1.33", strict=True)


SCALING: dict[str, dict[str, Any]] = {
    "plain": {"minReplicas": 0, "maxReplicas": 8, "slots": 256},
    "all": {"minReplicas": 2, "maxReplicas": 8, "slots": 3, "target": 0.1, "maxWaitSeconds": 60},
    "no deadlines": {"minReplicas": 1, "maxReplicas": 2, "slots": 256, "target": 50, "deadlines": False},
}


@pytest.mark.parametrize("trigger", ["prometheus", "metrics-api"])
@pytest.mark.parametrize("case", SCALING)
def test_the_operator_scales_as_the_chart_does(case: str, trigger: str) -> None:
    from cloudcoil.models.keda.v1alpha1 import ScaledObject

    given = SCALING[case]
    words = (*LEAST, "--set", f"keda.trigger={trigger}", "--set", "keda.apiKeySecret=keda")
    values = {"gpus": 1, "model": "m", "drainSeconds": 400, "autoscaling": {"enabled": True, **given}}
    chart = rendered(*words, "--set-json", f"pools={json.dumps({'chat': values})}")
    names = {"minReplicas": "min", "maxReplicas": "max"}
    scaling = {names.get(name, name): value for name, value in given.items()}
    pool = as_read({"model": "m", "drainSeconds": 400, "scaling": scaling})
    (theirs,) = (one for one in chart if one["kind"] == "ScaledObject")
    ours = objects.scaled_object(base_of(*words), pool, "chat")
    assert ours["spec"] == theirs["spec"]
    assert (
        ScaledObject.model_validate(ours).model_dump(by_alias=True, exclude_unset=True, mode="json") == ours
    )
    (workers,) = (
        one
        for one in chart
        if one["kind"] == "Deployment" and "penstock.dev/pool" in one["metadata"]["labels"]
    )
    assert plain(objects.deployment(base_of(*words), pool, "chat")) == plain(workers)
    account = workers["spec"]["template"]["spec"]["serviceAccountName"]
    assert account in {one["metadata"]["name"] for one in rendered(*words) if one["kind"] == "ServiceAccount"}


@pytest.mark.parametrize("base_s", [120, 7200])
def test_a_pool_that_drains_for_hours_has_the_window_that_kubernetes_allows(base_s: int) -> None:
    base = base_of(*LEAST, "--set", f"worker.drainSeconds={base_s}")
    pool = as_read({"model": "m", "drainSeconds": 7200, "scaling": {"max": 2, "slots": 8}})
    spec = objects.scaled_object(base, pool, "chat")["spec"]
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert (down["stabilizationWindowSeconds"], spec["cooldownPeriod"]) == (3600, 7200)


def test_a_version_has_names_and_settings_of_its_own() -> None:
    pool, base = as_read({"model": "m", "device": {"gpus": 0}}), base_of(*LEAST)
    made = objects.deployment(base, pool, "chat-v2")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["args"][-4:] == ["--pool", "chat", "--pool-version", "v2"]
    assert made["metadata"]["name"] == "penstock-worker-chat-v2"
    assert made["spec"]["selector"]["matchLabels"]["penstock.dev/pool"] == "chat-v2"
    settings = next(one for one in made["spec"]["template"]["spec"]["volumes"] if one["name"] == "settings")
    assert settings["configMap"]["name"] == objects.config_map(base, pool, "chat-v2")["metadata"]["name"]
    assert objects.PLACE not in json.dumps(made)
    long = as_read({"model": "m"}, "x" * 40)
    assert len(objects.name_of(base_of(*OPTIONS["much"]), f"{long.name}-v12")) <= 63


def test_a_base_that_is_none_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("release: x\n")
    with pytest.raises(ValueError, match=r"base\.yaml is not what the chart writes"):
        read_base(tmp_path / "base.yaml")


def test_the_crd_is_one_and_structural() -> None:
    kubernetes_validate.validate(CRD, "1.33", strict=True)

    def check(node: dict[str, Any], at: str) -> None:
        assert node.get("type"), f"{at}: a structural schema names every type"
        for name, inner in node.get("properties", {}).items():
            check(inner, f"{at}.{name}")
        if isinstance(node.get("additionalProperties"), dict):
            check(node["additionalProperties"], f"{at}.*")
        if node["type"] == "array":
            check(node["items"], f"{at}[]")
        if node["type"] == "object" and at not in {"", ".metadata"}:
            assert {
                "properties",
                "additionalProperties",
                "x-kubernetes-preserve-unknown-fields",
            } & node.keys(), f"{at}: it would lose every field"

    check(schema(), "")


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"model": ""}, "model"),
        ({"model": "m", "replicas": -1}, "replicas"),
        ({"model": "m", "engine": "magic"}, "engine"),
        ({"model": "m", "scaling": {"max": 3}}, "scaling"),
        ({"model": "m", "adapters": [{"name": "a", "source": "/etc"}]}, "adapters"),
        ({"model": "m", "modelCache": {"size": "1Gi", "hostPath": "/m"}}, "modelCache"),
        ({"model": "m", "device": {"gpus": "all"}}, "device"),
    ],
)
def test_a_wrong_spec_is_refused_by_its_field(spec: dict[str, Any], path: str) -> None:
    found = list(OAS30Validator(schema()).iter_errors({"spec": spec}))
    assert path in [part for one in found for part in one.absolute_path]


def test_the_chart_keeps_the_crd_and_may_leave_it_out() -> None:
    (crd,) = (one for one in rendered(*LEAST) if one["kind"] == "CustomResourceDefinition")
    assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert crd == CRD
    left = rendered(*LEAST, "--set", "operator.crd=false")
    assert not [one for one in left if one["kind"] == "CustomResourceDefinition"]
    off = rendered("--set", "redis.url=redis://q:1/0")
    assert not [one for one in off if "operator" in one["metadata"]["name"]]


def test_a_change_of_what_workers_have_in_common_starts_the_operator_anew() -> None:
    def digest(*words: str) -> str:
        (one,) = (
            one
            for one in rendered(*LEAST, *words)
            if one["kind"] == "Deployment" and one["metadata"]["name"] == "penstock-operator"
        )
        said: str = one["spec"]["template"]["metadata"]["annotations"]["checksum/base"]
        return said

    assert digest() == digest("--set", "api.replicas=3")
    assert digest() != digest("--set", "settings.retention_s=3600")


def test_yaml_has_the_columns_that_people_look_for() -> None:
    columns = {one["name"] for one in CRD["spec"]["versions"][0]["additionalPrinterColumns"]}
    assert {"Model", "Ready", "Desired", "Queued", "Oldest", "Tok/s", "Version"} <= columns
    known = schema()["properties"]["status"]["properties"].keys()
    for one in CRD["spec"]["versions"][0]["additionalPrinterColumns"]:
        if one["jsonPath"].startswith(".status."):
            assert one["jsonPath"].split(".")[2].partition("[")[0] in known
    assert yaml.safe_load(yaml.safe_dump(CRD)) == CRD
