"""What the Helm chart renders, by the schemas of Kubernetes, KEDA and the Prometheus operator, and by our own settings."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import schema_contents
from pydantic import BaseModel

from api.settings import ApiSettings
from jobs.declared import from_tables
from tests.helm import CHART, EXAMPLES, ROOT, HelmError, helm, rendered, values
from workers.devices.pools import read_tables, worker_settings

KUBERNETES = ("1.29", "1.33", "1.37")

LEAST = ("--set", "redis.url=redis://queue.data:6379/0")
EVERYTHING = (
    *values("mixed-fleet"),
    *("--set", "encryption.enabled=true"),
    *("--set", "image.pullSecrets={registry}", "--set", "image.registry=registry.example.com"),
    *("--set", "valkey.enabled=true", "--set", "files.credentialsSecret=s3"),
    *("--set", "pools.chat.runtimeClassName=nvidia", "--set", "pools.chat.hfToken=true"),
    *("--set", "api.priorityClassName=high", "--set", "valkey.storageClass=fast"),
    *("--set", "operator.enabled=true", "--set", "operator.apiKeySecret.name=operator"),
    *("--set", "operator.apiKeySecret.key=api_key"),
)
MATRIX: dict[str, tuple[str, ...]] = {
    "least": LEAST,
    "everything": EVERYTHING,
    **{name: values(name) for name in EXAMPLES},
    "scaled to zero by the api": (
        *values("mixed-fleet"),
        *("--set", "keda.trigger=metrics-api", "--set", "keda.apiKeySecret=keda"),
        *(
            "--set",
            "pools.chat.autoscaling.minReplicas=0",
            "--set",
            "pools.chat.autoscaling.maxWaitSeconds=60",
        ),
    ),
    "no network policies, no flower": (
        *LEAST,
        *("--set", "networkPolicy.enabled=false", "--set", "flower.enabled=false"),
    ),
    "long names": (*LEAST, "--set", f"fullnameOverride={'x' * 60}", "--set", f"pools.{'P_' * 20}p.gpus=8"),
}


@cache
def custom() -> dict[str, type[BaseModel]]:
    """Return a model of each kind of custom resource."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
    from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

    return {
        one.__name__: one for one in (ScaledObject, TriggerAuthentication, PrometheusRule, ServiceMonitor)
    }


def of_kind(objects: Iterable[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] in kinds]


def one(objects: Iterable[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


def containers(objects: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        container
        for each in of_kind(objects, "Deployment", "StatefulSet")
        for container in each["spec"]["template"]["spec"]["containers"]
    ]


def env_of(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


@pytest.fixture(scope="module")
def schemas() -> Iterator[None]:
    """Kubernetes' schemas are read once: a megabyte for each object and version otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kubernetes_validate.utils.schema_contents", cache(schema_contents))
        yield


@pytest.mark.usefixtures("schemas")
@pytest.mark.parametrize("case", MATRIX)
def test_every_object_fits_its_schema(case: str) -> None:
    for each in rendered(*MATRIX[case]):
        assert len(each["metadata"]["name"]) <= 63
        pod = each.get("spec", {}).get("template", {}).get("metadata", {})
        for value in (*each["metadata"].get("labels", {}).values(), *pod.get("labels", {}).values()):
            assert re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", value), value
        if model := custom().get(each["kind"]):
            again = model.model_validate(each).model_dump(by_alias=True, exclude_unset=True, mode="json")
            assert again == each  # the models drop what they do not know
        else:
            for version in KUBERNETES:
                kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("example", EXAMPLES)
def test_helm_finds_nothing_to_complain_of(example: str) -> None:
    helm("lint", "--strict", str(CHART), *values(example))


@pytest.mark.parametrize("case", MATRIX)
def test_every_container_is_bounded_and_may_do_little(case: str) -> None:
    objects = rendered(*MATRIX[case])
    for each in of_kind(objects, "Deployment", "StatefulSet"):
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False
        scales = each["metadata"]["name"] in {
            one["spec"]["scaleTargetRef"]["name"] for one in of_kind(objects, "ScaledObject")
        }
        speaks = scales or each["metadata"]["name"].endswith("-operator")
        assert pod["automountServiceAccountToken"] is speaks  # workers that scale patch their pods
        claims = each["spec"].get("volumeClaimTemplates", [])
        mounted = {volume["name"] for volume in pod["volumes"]} | {one["metadata"]["name"] for one in claims}
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounted
    if case in EXAMPLES:
        assert all("memory" in container["resources"]["limits"] for container in containers(objects))


@pytest.mark.parametrize("case", [*EXAMPLES, "everything", "scaled to zero by the api"])
def test_the_processes_take_their_settings(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered(*MATRIX[case])
    toml = one(objects, "ConfigMap", "penstock-settings")["data"]["penstock.toml"]
    (tmp_path / "penstock.toml").write_text(toml)
    (tmp_path / "penstock_key_pepper").write_text("x" * 48)
    for container in containers(objects):
        if container["name"] == "valkey":
            continue
        monkeypatch.delenv("PENSTOCK_POD_DELETION_COST", raising=False)
        for name, value in env_of(container).items():
            if value:
                monkeypatch.setenv(name, value.replace("$(POD_NAME)", "pod-1"))
        monkeypatch.setenv("PENSTOCK_SETTINGS_FILE", str(tmp_path / "penstock.toml"))
        monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(tmp_path))
        if container["name"] == "api":
            settings = ApiSettings()
            assert settings.keys_required is (case != "kind")
            assert "penstock-api.llm" in settings.allowed_hosts
        elif container["name"] == "worker":
            pool = container["args"][container["args"].index("--pool") + 1]
            said = worker_settings({"pool": pool})
            gpus = container["resources"]["limits"].get("nvidia.com/gpu")
            assert (said.tensor_parallel or 1) == (gpus or 1)
            assert ("--gpus" in container["args"]) is bool(gpus)
            if said.pod_deletion_cost is not None:
                assert said.pod_deletion_cost.startswith("llm/")
    assert tomllib.loads(toml)["pools"].keys() == read_tables().keys()


def test_a_pod_outlives_its_drain() -> None:
    objects = rendered(*values("mixed-fleet"))
    toml = tomllib.loads(one(objects, "ConfigMap", "penstock-settings")["data"]["penstock.toml"])
    for each in of_kind(objects, "Deployment"):
        pod = each["spec"]["template"]["spec"]
        if pool := each["metadata"]["labels"].get("penstock.dev/pool"):
            drain_s = toml["pools"][pool]["drain_timeout_s"]
            assert pod["terminationGracePeriodSeconds"] == drain_s + 20
    scaled = one(objects, "ScaledObject", "penstock-worker-chat")["spec"]
    down = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] > toml["pools"]["chat"]["drain_timeout_s"]


def scaled(*options: str) -> dict[str, Any]:
    """Return the ScaledObject of the pool ``chat`` of the mixed fleet."""
    found: dict[str, Any] = one(
        rendered(*values("mixed-fleet"), *options), "ScaledObject", "penstock-worker-chat"
    )
    return found["spec"]


def test_a_pool_that_drains_for_hours_has_the_window_that_kubernetes_allows() -> None:
    spec = scaled("--set", "pools.chat.drainSeconds=7200")
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert (down["stabilizationWindowSeconds"], spec["cooldownPeriod"]) == (3600, 7200)


def test_pools_whose_long_names_begin_alike_have_objects_of_their_own() -> None:
    pools = {f"qwen2-5-72b-instruct-{one}": {"gpus": 1} for one in ("a", "b")}
    names = [
        each["metadata"]["name"]
        for each in of_kind(rendered(*LEAST, "--set-json", f"pools={json.dumps(pools)}"), "Deployment")
    ]
    assert len(names) == len(set(names)) == 5


def test_the_valkey_of_the_chart_gets_its_passwords_and_no_other_secret() -> None:
    (pod,) = (each["spec"]["template"]["spec"] for each in of_kind(rendered(*EVERYTHING), "StatefulSet"))
    (secret,) = (each["secret"] for each in pod["volumes"] if "secret" in each)
    script = (CHART / "files" / "start.sh").read_text()
    users = re.findall(r"^for user in (.*); do$", script, re.MULTILINE)[0].split()
    assert secret["items"] == [{"key": f"redis_{user}", "path": f"redis_{user}"} for user in users]


def test_a_pool_of_no_replicas_has_none_and_scales_from_zero() -> None:
    objects = rendered(
        *values("mixed-fleet"),
        *("--set", "pools.chat.autoscaling.minReplicas=0", "--set", "pools.embed.replicas=0"),
    )
    assert one(objects, "ScaledObject", "penstock-worker-chat")["spec"]["minReplicaCount"] == 0
    assert one(objects, "Deployment", "penstock-worker-embed")["spec"]["replicas"] == 0
    toml = tomllib.loads(one(objects, "ConfigMap", "penstock-settings")["data"]["penstock.toml"])
    (declared,) = from_tables(toml["pools"])
    assert (declared.pool, declared.model, declared.aliases) == (
        "chat",
        "Qwen/Qwen2.5-72B-Instruct",
        ("chat",),
    )
    assert scaled()["minReplicaCount"] == 1


def test_both_kinds_of_trigger_ask_for_the_same() -> None:
    wait = ("--set", "pools.chat.autoscaling.maxWaitSeconds=60")
    plain = scaled(*wait, "--set", "metrics.serviceMonitor.enabled=false")
    by_query = [each["metadata"] for each in plain["triggers"]]
    assert [(each["query"], each["threshold"]) for each in by_query] == [
        ('max(penstock_pool_backlog_jobs{pool="chat"} and on (instance) penstock_redis_up == 1)', "204.8"),
        ('max(penstock_pool_deadline_replicas{pool="chat"} and on (instance) penstock_redis_up == 1)', "1"),
        ('max(penstock_pool_oldest_seconds{pool="chat"} and on (instance) penstock_redis_up == 1)', "60"),
    ]
    assert all(each["ignoreNullValues"] == "false" for each in by_query)
    for each in scaled()["triggers"]:
        assert '{pool="chat",namespace="llm",service="penstock-api"}' in each["metadata"]["query"]
    asked = scaled(*wait, "--set", "keda.trigger=metrics-api", "--set", "keda.apiKeySecret=keda")["triggers"]
    assert [(each["metadata"]["valueLocation"], each["metadata"]["targetValue"]) for each in asked] == [
        ("value", "204.8"),
        ("deadline_replicas", "1"),
        ("oldest_s", "60"),
    ]
    assert {each["metadata"]["url"] for each in asked} == {
        "http://penstock-api.llm.svc:8080/v1/autoscaling/chat"
    }
    assert len(scaled("--set", "pools.chat.autoscaling.deadlines=false")["triggers"]) == 1


def test_a_worker_may_patch_pods_only_where_its_pool_scales() -> None:
    objects = rendered(*values("mixed-fleet"))
    (role,) = of_kind(objects, "Role")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]}]
    (binding,) = of_kind(objects, "RoleBinding")
    accounts = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]["serviceAccountName"]
        for each in of_kind(objects, "Deployment")
    }
    bound = {each["name"] for each in binding["subjects"]}
    assert {name for name, account in accounts.items() if account in bound} == {"penstock-worker-chat"}
    for options in (
        ("--set", "worker.podDeletionCost=false"),
        ("--set", "pools.chat.autoscaling.enabled=false"),
    ):
        rest = rendered(*values("mixed-fleet"), *options)
        assert not of_kind(rest, "Role", "RoleBinding")
        assert not any(
            each["spec"]["template"]["spec"]["automountServiceAccountToken"]
            for each in of_kind(rest, "Deployment")
        )


@pytest.mark.parametrize("case", EXAMPLES)
def test_a_worker_may_write_where_its_model_goes(case: str) -> None:
    """A folder of the node that Kubernetes makes is root's, and fsGroup does not reach it."""
    objects = rendered(*MATRIX[case])
    for each in of_kind(objects, "Deployment"):
        pod = each["spec"]["template"]["spec"]
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"] == 10001
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]


def test_a_pool_has_a_claim_of_its_own_or_a_folder_that_is_there() -> None:
    def models(*options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        objects = rendered(*LEAST, *options)
        pod = one(objects, "Deployment", "penstock-worker-chat")["spec"]["template"]["spec"]
        (volume,) = (each for each in pod["volumes"] if each["name"] == "models")
        claims = of_kind(objects, "PersistentVolumeClaim")
        return volume, [each for each in claims if each["metadata"]["name"] != "penstock-files"]

    at = "pools.chat.modelCache"
    volume, (claim,) = models(
        *("--set", f"{at}.claim.size=9Gi", "--set", f"{at}.claim.storageClass=fast"),
        *("--set", f"{at}.claim.accessModes={{ReadWriteMany}}"),
    )
    assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "9Gi"}},
    }
    volume, claims = models("--set", f"{at}.existingClaim=mine")
    assert (volume["persistentVolumeClaim"], claims) == ({"claimName": "mine"}, [])
    volume, claims = models("--set", f"{at}.hostPath=/models")
    assert (volume["hostPath"], claims) == ({"path": "/models", "type": "Directory"}, [])


def test_our_rules_and_dashboards_are_in_it() -> None:
    objects = rendered(*values("mixed-fleet"))
    groups = one(objects, "PrometheusRule", "penstock")["spec"]["groups"]
    written = [
        group
        for name in ("recording", "alerts")
        for group in yaml.safe_load((ROOT / f"monitoring/prometheus/rules/{name}.yml").read_text())["groups"]
    ]
    assert groups == written
    boards = {
        name: text
        for each in of_kind(objects, "ConfigMap")
        for name, text in each["data"].items()
        if name.endswith(".json")
    }
    folder = ROOT / "monitoring" / "grafana" / "dashboards"
    assert boards == {path.name: path.read_text() for path in folder.glob("*.json")}


def test_pods_that_are_not_ready_hold_no_node() -> None:
    """With Redis away none is, and a node could not be drained."""
    budgets = of_kind(
        rendered(*LEAST, "--set", "pools.chat.podDisruptionBudget.enabled=true"), "PodDisruptionBudget"
    )
    assert len(budgets) == 2
    assert all(each["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" for each in budgets)


def test_a_pod_that_does_not_run_yet_is_no_target() -> None:
    """Else PenstockApiDown fires while its image is pulled."""
    monitors = of_kind(rendered(*values("mixed-fleet")), "ServiceMonitor")
    assert len(monitors) == 3
    keep = {"action": "keep", "sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Running"}
    assert all(keep in endpoint["relabelings"] for one in monitors for endpoint in one["spec"]["endpoints"])


def test_network_policies_cover_every_pod_and_port() -> None:
    objects = rendered(*EVERYTHING)
    policies = of_kind(objects, "NetworkPolicy")
    for each in of_kind(objects, "Deployment", "StatefulSet"):
        labels = each["spec"]["template"]["metadata"]["labels"]
        (policy,) = (p for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= labels.items())
        opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        (container,) = each["spec"]["template"]["spec"]["containers"]
        assert opened == {port["containerPort"] for port in container["ports"]}


def test_the_operator_reaches_the_api_whoever_else_may() -> None:
    some = '[{"namespaceSelector":{"matchLabels":{"name":"ingress"}}}]'
    objects = rendered(*EVERYTHING, "--set-json", f"networkPolicy.ingressFrom={some}")
    (rule,) = one(objects, "NetworkPolicy", "penstock-api")["spec"]["ingress"]
    labels = one(objects, "Deployment", "penstock-operator")["spec"]["template"]["metadata"]["labels"]
    chosen = [each["podSelector"]["matchLabels"] for each in rule["from"] if "podSelector" in each]
    assert [each.items() <= labels.items() for each in chosen] == [True]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), r"redis\.url is not set"),
        ((*LEAST, "--set", "pools.chat.replicas=many"), r"replicas"),
        ((*LEAST, "--set", "pools.chat.modell=x"), r"modell"),
        ((*LEAST, "--set", "api.replica=3"), r"replica"),
        ((*LEAST, "--set", "settings.max_activ=3"), r"max_activ"),
        ((*LEAST, "--set", "settings.model=x"), r"model"),
        ((*LEAST, "--set", "pools.chat.settings.bulk_reserv=0.1"), r"bulk_reserv"),
        ((*LEAST, "--set", "pools.chat.settings.retention_s=60"), r"retention_s"),
        ((*LEAST, "--set", "pools.chat.engine=magic"), r"engine"),
        ((*LEAST, "--set", "pools.a b.gpus=1"), r"a b"),
        ((*LEAST, "--set", "pools.chat_.gpus=1"), r"chat_"),
        ((*LEAST, "--set", "api.ingress.enabled=true"), r"api/ingress/hosts"),
        ((*LEAST, "--set", "pools.chat.autoscaling.enabled=true"), r"autoscaling\.slots is not set"),
        ((*values("mixed-fleet"), "--set", "keda.trigger=metrics-api"), r"keda\.apiKeySecret is not set"),
        ((*LEAST, "--set", "keda.trigger=redis"), r"trigger"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(options: tuple[str, ...], says: str) -> None:
    with pytest.raises(HelmError, match=re.compile(says)):
        rendered(*options)


def test_the_page_builds_each_image_that_the_chart_pulls() -> None:
    page = (ROOT / "docs" / "operate" / "kubernetes.md").read_text()
    images = yaml.safe_load((CHART / "values.yaml").read_text())["image"]
    rows = dict(
        re.findall(r"^\| `(penstock-[a-z-]+)` \|.*\| `-f (deploy/[a-z]+\.Dockerfile)", page, re.MULTILINE)
    )
    assert rows.keys() == {one["repository"] for one in images.values() if isinstance(one, dict)}
    assert all((ROOT / file).is_file() for file in rows.values())
    assert f"VERSION={yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']} " in page


def test_every_default_is_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    def check(value: Any, said: dict[str, Any], at: str) -> None:
        said = schema["$defs"][said["$ref"].rpartition("/")[2]] if "$ref" in said else said
        if isinstance(value, dict) and "properties" in said:
            assert said["additionalProperties"] is False, at
            assert value.keys() <= said["properties"].keys(), at
            for name, inner in value.items():
                check(inner, said["properties"][name], f"{at}.{name}")

    check(defaults, schema, "values")
    assert schema["properties"].keys() - {"global"} == defaults.keys()
