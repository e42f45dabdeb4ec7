"""`docker-compose.yml` brought up for real: built, started, used, hardened as it says, taken down, nothing left."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from openai import OpenAI

from tests.heavy.containers import Compose, Engine
from tests.processes import ROOT
from tests.support import free_port, wait_until

pytestmark = pytest.mark.timeout(3000)  # the first test builds the images

FILE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
UP = ("valkey", "api", "coordinator", "worker-simulated", "flower", "prometheus")
OURS = ("api", "coordinator", "worker-simulated", "flower")
LOGIN = ("operator", "correct-horse")


@dataclass(frozen=True)
class Stack:
    """The stack that is up."""

    engine: Engine
    compose: Compose
    ports: dict[str, int]

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    folder = Path(tempfile.mkdtemp(prefix="penstock-containers-"))
    engine = Engine(folder)
    yield engine
    engine.close()
    assert not folder.exists()


@pytest.fixture(scope="module")
def images(engine: Engine) -> Engine:
    """The images that the services of this test name."""
    engine.make_base()
    engine.make_stand_ins(*(FILE["services"][name]["image"] for name in ("valkey", "prometheus", "proxy")))
    engine.build("deploy/api.Dockerfile", "penstock-api:local")
    return engine


@pytest.fixture(scope="module")
def stack(images: Engine) -> Iterator[Stack]:
    ports = {name: free_port() for name in ("api", "flower", "prometheus", "grafana", "open_webui", "tls")}
    secrets = images.folder / "secrets"
    secrets.mkdir()
    (secrets / "flower_basic_auth").write_text(":".join(LOGIN))
    images.run("sh", "deploy/make-secrets.sh", str(secrets))
    (images.folder / "penstock.env").write_text(
        "PENSTOCK_SIMULATED_CAPACITY=7\nPENSTOCK_SIMULATED_INTER_TOKEN_S=0.01\n"
    )
    settings = {
        "COMPOSE_PROFILES": "simulated",
        "SECRETS_DIR": str(secrets),
        "SETTINGS_FILE": str(images.folder / "penstock.env"),
        "NOFILE_LIMIT": str(min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
    } | {f"{name.upper()}_PORT": str(port) for name, port in ports.items()}
    env_file = images.folder / "env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    compose = Compose(images, "penstocktest", env_file)
    try:
        compose.up(UP)
        ready = f"http://127.0.0.1:{ports['api']}/health/ready"
        wait_until(lambda: httpx.get(ready).status_code == 200, 60)
        yield Stack(images, compose, ports)
        for service in UP:
            print(f"--- {service}\n{compose.logs(service)}")
    finally:
        compose.run(
            "--profile", "simulated", "--profile", "cpu", "--profile", "tls", "down", "-v", "-t", "60"
        )
    assert images.podman("ps", "-aq") == ""
    assert images.podman("volume", "ls", "-q") == ""
    assert images.podman("network", "ls", "-q", "--filter", "name=penstocktest") == ""


def curl(*argv: str) -> str:
    done = subprocess.run(
        ["curl", "-sS", "--fail-with-body", *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submit(stack: Stack) -> str:
    body = {"model": "simulated", "input": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}}
    said = curl(f"{stack.url('api')}/v1/jobs", "-H", "content-type: application/json", "-d", json.dumps(body))
    return json.loads(said)["id"]


def state(stack: Stack, job_id: str) -> str:
    return json.loads(curl(f"{stack.url('api')}/v1/jobs/{job_id}?wait=20"))["state"]


def test_a_job_by_curl(stack: Stack) -> None:
    assert state(stack, submit(stack)) == "succeeded"


def test_a_chat_by_the_openai_sdk(stack: Stack) -> None:
    client = OpenAI(base_url=f"{stack.url('api')}/v1", api_key="none")
    ask: dict[str, Any] = {
        "model": "simulated",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 8,
    }
    whole = client.chat.completions.create(**ask)
    parts = [
        c.choices[0].delta.content or ""
        for c in client.chat.completions.create(**ask, stream=True)
        if c.choices
    ]
    assert len("".join(parts)) > 0
    assert "".join(parts) == whole.choices[0].message.content


def test_flower_is_behind_its_login(stack: Stack) -> None:
    job_id = submit(stack)
    assert httpx.get(f"{stack.url('flower')}/tasks").status_code == 401
    assert httpx.get(f"{stack.url('flower')}/tasks", auth=(LOGIN[0], "wrong")).status_code == 401
    assert httpx.get(f"{stack.url('flower')}/tasks", auth=LOGIN).status_code == 200

    def known() -> bool:
        answer = httpx.get(f"{stack.url('flower')}/api/task/info/{job_id}", auth=LOGIN)
        return answer.status_code == 200 and answer.json()["state"] == "SUCCESS"

    wait_until(known)


def test_prometheus_scrapes_api_and_worker(stack: Stack) -> None:
    def value(query: str) -> float:
        found = httpx.get(f"{stack.url('prometheus')}/api/v1/query", params={"query": query}).json()["data"][
            "result"
        ]
        return float(found[0]["value"][1]) if found else 0.0

    submit(stack)
    wait_until(lambda: value("sum(api_requests_total)") > 0, 90)
    wait_until(lambda: value('sum(penstock_jobs_total{state="succeeded"})') > 0, 90)


@pytest.mark.parametrize("service", OURS)
def test_our_containers_can_do_little(stack: Stack, service: str) -> None:
    assert stack.compose.execute(service, "id", "-u") == "10001"
    status = stack.compose.execute(service, "cat", "/proc/self/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {facts[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert facts["NoNewPrivs"] == "1"
    trial = "import pathlib; pathlib.Path('/opt/penstock/x').touch()"
    assert "Read-only" in stack.engine.run(
        "podman", "exec", stack.compose.container(service), "python", "-c", trial, check=False
    ).stderr  # fmt: skip


def test_valkey_wants_a_user_and_is_not_published(stack: Stack) -> None:
    assert "NOAUTH" in stack.compose.execute("valkey", "valkey-cli", "ping")
    assert stack.compose.execute("valkey", "id", "-u") == "999"
    assert not stack.compose.inspect("valkey")["NetworkSettings"]["Ports"].get("6379/tcp")
    cli = ("valkey", "sh", "/etc/valkey/cli.sh")
    clients = stack.compose.execute(*cli, "admin", "CLIENT", "LIST")
    users = {word.removeprefix("user=") for word in clients.split() if word.startswith("user=")}
    assert users == {"admin", "api", "worker", "coordinator", "flower"}
    assert stack.compose.execute(*cli, "admin", "ACL", "LOG") == ""  # nothing was refused until now
    assert "NOPERM" in stack.compose.execute(*cli, "api", "FLUSHALL")
    shown = stack.engine.podman("top", stack.compose.container("valkey"), "args")
    assert "valkey-server" in shown
    assert not any(secret in shown for secret in secrets_of(stack))


def secrets_of(stack: Stack) -> list[str]:
    return [text for file in (stack.engine.folder / "secrets").iterdir() if (text := file.read_text())]


def test_no_secret_is_in_an_environment(stack: Stack) -> None:
    for service in UP:
        shown = json.dumps(stack.compose.inspect(service))
        assert not any(secret in shown for secret in secrets_of(stack)), service


def test_the_users_settings_win(stack: Stack) -> None:
    (worker,) = json.loads(curl(f"{stack.url('api')}/v1/workers"))["data"]
    assert worker["capacity"] == 7


def test_limits_reach_the_engine(stack: Stack) -> None:
    assert stack.compose.inspect("api")["HostConfig"]["Memory"] == 1 << 30
    for service in UP:
        config = stack.compose.inspect(service)["HostConfig"]
        drains = service.startswith("worker")
        assert config["RestartPolicy"]["Name"] == ("on-failure" if drains else "unless-stopped")
        assert config["PidsLimit"] == (4096 if drains else 512)
        assert config["Ulimits"], service
    assert "size=64m" in stack.compose.inspect("api")["HostConfig"]["Tmpfs"]["/tmp"]


def test_images_hold_what_runs_and_nothing_more(images: Engine) -> None:
    python = ["run", "--rm", "--entrypoint", "python", "penstock-api:local", "-c"]
    look = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    names = [
        "api",
        "celery",
        "flower",
        "pytest",
        "mypy",
        "hypothesis",
        "playwright",
        "vllm",
        "torch",
        "tests",
    ]
    assert images.podman(*python, look, *names) == "['api', 'celery', 'flower']"
    files = images.podman(
        *python, "import os; print(sorted(os.listdir()), os.path.exists('/run/secrets/pip'))"
    )
    packages = ["api", "broker", "coordinator", "jobs", "monitoring", "penstock", "storage", "workers"]
    assert files == f"{['.venv', *packages]} False"
    cached = "import os, api.main; print(os.path.exists(api.main.__cached__))"
    assert images.podman(*python, cached) == "True"
    built = json.loads(images.podman("inspect", "penstock-api:local"))[0]
    assert built["Config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert "index" not in json.dumps(built)  # of the pip configuration that the build was given


def test_jobs_outlive_valkeys_death(stack: Stack) -> None:
    done = submit(stack)
    assert state(stack, done) == "succeeded"
    stack.compose.run("kill", "-s", "KILL", "valkey")
    wait_until(lambda: not stack.compose.inspect("valkey")["State"]["Running"])
    stack.compose.run("start", "valkey")
    wait_until(lambda: stack.compose.healthy("valkey"), 60)
    wait_until(lambda: state(stack, done) == "succeeded", 60)
    wait_until(lambda: state(stack, submit(stack)) == "succeeded", 60)


def test_a_stopped_worker_drains(stack: Stack) -> None:
    stack.compose.run("stop", "worker-simulated")
    assert stack.compose.inspect("worker-simulated")["State"]["ExitCode"] == 0
    stack.compose.run("start", "worker-simulated")
    wait_until(lambda: stack.compose.healthy("worker-simulated"), 60)
    assert state(stack, submit(stack)) == "succeeded"


def test_a_drained_worker_stays_away(stack: Stack) -> None:
    (worker,) = json.loads(curl(f"{stack.url('api')}/v1/workers"))["data"]
    curl("-X", "POST", f"{stack.url('api')}/v1/workers/{worker['name']}/drain")
    wait_until(lambda: not stack.compose.inspect("worker-simulated")["State"]["Running"], 60)
    ended = stack.compose.inspect("worker-simulated")
    assert ended["State"]["ExitCode"] == 0
    stack.compose.run("start", "worker-simulated")
    wait_until(lambda: stack.compose.healthy("worker-simulated"), 60)
    assert stack.compose.inspect("worker-simulated")["RestartCount"] == 0


def test_the_worker_image_runs_vllm(stack: Stack) -> None:
    assert shutil.disk_usage(stack.engine.folder).free > 15e9, (
        "the worker's image needs 15 GB while it is made"
    )
    stack.engine.build("deploy/worker.Dockerfile", "penstock-worker:local-cpu", FLAVOUR="cpu")
    stack.compose.run("stop", "worker-simulated")  # the workers of a pool serve the same models
    stack.compose.run("--profile", "cpu", "up", "-d", "--no-build", "--no-deps", "worker-cpu")
    wait_until(lambda: stack.compose.healthy("worker-cpu"), 300)
    client = OpenAI(base_url=f"{stack.url('api')}/v1", api_key="none")
    wait_until(lambda: any(model.id == "tiny-random" for model in client.models.list()), 60)
    ask: Any = [{"role": "user", "content": "Why is the sky blue?"}]
    answer = client.chat.completions.create(model="tiny-random", messages=ask, max_tokens=8)
    assert answer.usage
    assert answer.usage.completion_tokens == 8
    stack.compose.run("--profile", "cpu", "stop", "worker-cpu")
    stack.compose.run("start", "worker-simulated")
    wait_until(lambda: stack.compose.healthy("worker-simulated"), 60)


def test_tls_in_front_of_two_apis(stack: Stack) -> None:
    """Without keys the proxy refuses; with them it serves both, and no metrics."""
    profile = ("--profile", "tls")
    stack.compose.run(*profile, "up", "-d", "--no-build", "--no-deps", "proxy")
    wait_until(lambda: "no keys" in stack.compose.logs("proxy"))
    (stack.engine.folder / "secrets" / "api_keys").write_text("alice=key-of-alice")
    stack.compose.run(*profile, "stop", "api", "proxy")
    stack.engine.podman("rm", "-f", stack.compose.container("api"))
    text = stack.compose.env_file.read_text().replace(f"API_PORT={stack.ports['api']}\n", "API_PORT=\n")
    stack.compose.env_file.write_text(text)
    stack.compose.run("up", "-d", "--no-build", "--no-deps", "--scale", "api=2", "api")
    wait_until(lambda: stack.compose.healthy("api"), 60)
    stack.compose.run(*profile, "start", "proxy")
    wait_until(lambda: stack.compose.healthy("proxy"), 60)
    ask = {
        "model": "simulated",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 200,
        "stream": True,
    }
    key = {"authorization": "Bearer key-of-alice"}
    with httpx.Client(base_url=f"https://localhost:{stack.ports['tls']}", verify=False) as http:
        assert [model["id"] for model in http.get("/v1/models", headers=key).json()["data"]] == ["simulated"]
        with http.stream("POST", "/v1/chat/completions", json=ask, headers=key) as stream:
            started = time.monotonic()
            came = [time.monotonic() - started for line in stream.iter_lines() if line]
        assert came[0] < came[-1] / 2  # two seconds of tokens, as they come
        assert http.get("/v1/models").status_code == 401
        assert http.get("/metrics").status_code == 404
        assert http.get("/health/live").status_code == 200
    stack.engine.podman(
        "rm", "-f", f"{stack.compose.project}_api_2"
    )  # podman-compose forgets all but the first
