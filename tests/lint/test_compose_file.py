"""What is written in the compose file and the Dockerfiles, checked without an engine (tests/heavy brings them up)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from api.settings import ApiSettings
from broker.db.acl import ADMIN, ROLES
from tests.lint.test_layering import BELOW
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
FILE: dict[str, dict] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict] = FILE["services"]
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("penstock-")}
WORKERS = {name for name in OURS if name.startswith("worker")}
EXAMPLE = (ROOT / ".env.example").read_text()
DEFAULTS = dict(re.findall(r"(?m)^([A-Z_]+)=(.*)$", (ROOT / "deploy" / "defaults.env").read_text()))
DOCKERFILES = sorted((ROOT / "deploy").glob("*Dockerfile"))
SCRIPTS = [ROOT / ".ci" / "run", *ROOT.glob("deploy/**/*.sh"), *ROOT.glob("tools/**/*.sh")]
VARIABLES = re.compile(r"\$\{([A-Z_]+)(:?[-?])?([^}]*)\}")


def tool(name: str, *argv: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / name, *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_what_compose_reads() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def test_dockerfiles_are_clean() -> None:
    assert len(DOCKERFILES) == 3
    tool("hadolint", *map(str, DOCKERFILES))


def test_shell_scripts_are_clean() -> None:
    tool("shellcheck", *map(str, SCRIPTS))


def test_every_service_is_looked_after() -> None:
    for name, service in SERVICES.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        assert "healthcheck" in service or name == "dcgm-exporter"  # its image has no client to ask it with
        assert not service.get("privileged"), name
        if name in OURS:
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name


def test_capabilities_are_those_that_a_program_does_not_run_without() -> None:
    """Caddy's image marks its program with `setcap cap_net_bind_service`: without it in the bounds, exec is refused."""
    added = {name: service["cap_add"] for name, service in SERVICES.items() if "cap_add" in service}
    assert added == {"proxy": ["NET_BIND_SERVICE"], "dcgm-exporter": ["SYS_ADMIN"]}
    assert SERVICES["proxy"]["image"].startswith("caddy:")


def test_every_service_has_bounds() -> None:
    for name, service in SERVICES.items():
        assert service["pids_limit"] >= 512, name
        assert service["ulimits"]["nofile"]["hard"], name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        for mount in service.get("tmpfs", []):
            assert re.search(r"\bsize=\d+[mg]\b", mount), name


def test_a_drained_worker_stays_away() -> None:
    """It ends with status 0; anything else is a failure, after which it starts again."""
    for name, service in SERVICES.items():
        assert service["restart"] == ("on-failure" if name in WORKERS else "unless-stopped"), name


def test_a_workers_health_is_its_lease() -> None:
    for name in WORKERS:
        assert SERVICES[name]["healthcheck"]["test"] == ["CMD", "penstock", "worker", "check"]


def test_settings_of_the_user_win() -> None:
    """`environment` beats `env_file`, so it has only what this file itself fixes; and the user's file is read last."""
    fixed = {"PENSTOCK_NAMESPACE", "PENSTOCK_REDIS_URL", "TMPDIR"}
    for name in OURS:
        assert set(SERVICES[name]["environment"]) <= fixed, name
        first, last = SERVICES[name]["env_file"]
        assert (first, last) == (
            "deploy/defaults.env",
            {"path": "${SETTINGS_FILE:-penstock.env}", "required": False},
        ), name


def test_a_variable_of_the_compose_file_is_no_setting() -> None:
    """Its names are read by compose alone, and Penstock refuses names of settings that it does not know."""
    assert [name for name, _, _ in VARIABLES.findall(TEXT) if name.startswith("PENSTOCK_")] == []
    assert "PENSTOCK_" not in re.sub(r"(?m)^# .*$", "", EXAMPLE)


def test_the_defaults_are_settings() -> None:
    known = {name.upper() for layer in (ApiSettings, WorkerSettings) for name in layer.model_fields}
    given = {name.removeprefix("PENSTOCK_") for name in DEFAULTS if name.startswith("PENSTOCK_")}
    assert given <= known


def test_each_role_has_its_own_user_of_redis() -> None:
    for name in OURS:
        role = "worker" if name in WORKERS else name
        assert SERVICES[name]["environment"]["PENSTOCK_REDIS_URL"] == f"redis://{role}@valkey:6379/0"
        given = [one for one in SERVICES[name]["secrets"] if "redis" in str(one)]
        assert given == [{"source": f"redis_{role}", "target": "penstock_redis_password"}]
    assert set(SERVICES["valkey"]["secrets"]) == {f"redis_{user}" for user in (*ROLES, ADMIN)}


def test_the_scripts_make_and_read_every_secret(tmp_path: Path) -> None:
    subprocess.run(["sh", "deploy/make-secrets.sh", str(tmp_path)], cwd=ROOT, check=True)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(made) == set(FILE["secrets"])
    assert {one["file"] for one in FILE["secrets"].values()} == {
        f"${{SECRETS_DIR:-./secrets}}/{name}" for name in made
    }
    assert {name for name, text in made.items() if not text} == {
        *("api_keys", "encryption_keys", "openai_api_key", "hf_token")
    }
    assert len({text for text in made.values() if text}) == len(made) - 4
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    subprocess.run(["sh", "deploy/make-secrets.sh", str(tmp_path)], cwd=ROOT, check=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == made
    start = (ROOT / "deploy" / "valkey" / "start.sh").read_text()
    assert f"for user in {' '.join([ADMIN, *ROLES])}; do" in start


def test_foreign_images_are_pinned_to_a_version() -> None:
    for name in SERVICES.keys() - OURS:
        assert re.search(r":v?\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?$", SERVICES[name]["image"]), name


def test_ports_are_published_on_the_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [
        port for port in ports if not re.match(r"(127\.0\.0\.1|\$\{TLS_BIND:-127\.0\.0\.1\}):", port)
    ] == []


def test_only_valkeys_friends_reach_valkey() -> None:
    assert yaml.safe_load(TEXT)["networks"]["queue"]["internal"] is True
    assert SERVICES["valkey"]["networks"] == ["queue"]
    on_queue = {name for name, service in SERVICES.items() if "queue" in service.get("networks", [])}
    assert on_queue == OURS | {"valkey"}


def test_no_secret_is_in_the_file() -> None:
    for name, operator, default in VARIABLES.findall(TEXT):
        if re.search(r"_(PASSWORD|TOKEN|KEY)$", name):
            assert operator == ":-", name
            assert default in {"", "none"}, name


def test_the_example_names_every_variable_and_no_other() -> None:
    used = {name for name, _, _ in VARIABLES.findall(TEXT)}
    named = set(re.findall(r"^#?([A-Z_]+)=", EXAMPLE, re.MULTILINE)) - {"COMPOSE_PROFILES"}
    assert named == used


def test_the_examples_defaults_are_the_files() -> None:
    defaults = {
        name: default for name, operator, default in VARIABLES.findall(TEXT) if operator in {":-", "-"}
    }
    shown = dict(re.findall(r"^#([A-Z_]+)=(.+)$", EXAMPLE, re.MULTILINE))
    assert shown == {name: defaults[name] for name in shown}


def test_nothing_has_to_be_set() -> None:
    assert [name for name, operator, _ in VARIABLES.findall(TEXT) if operator not in {":-", "-"}] == []


def test_what_a_dockerfile_copies_is_let_in() -> None:
    allowed = (ROOT / ".dockerignore").read_text()
    for dockerfile in DOCKERFILES:
        for source in re.findall(r"^COPY (?!--from)(\S+)", dockerfile.read_text(), re.MULTILINE):
            pattern = re.sub(r"image-.*\.lock", "image-*.lock", source)
            assert f"!{pattern}\n" in allowed, source


def test_images_run_as_nobody_in_particular() -> None:
    for dockerfile in DOCKERFILES:
        text = dockerfile.read_text()
        assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["10001"], dockerfile
        assert text.index("USER 10001") < text.index("ENTRYPOINT"), dockerfile


def test_an_images_lock_has_no_test_tools_and_the_versions_that_are_tested() -> None:
    def pins(name: str) -> dict[str, str]:
        text = (ROOT / "requirements" / name).read_text()
        return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", text, re.MULTILINE))

    needed = {"celery", "fastapi", "flower", "uvicorn"}
    for image, least in {
        "api": needed,
        "operator": {"kopf", "lightkube", "httpx", "pydantic"},
        "worker-cpu": needed,
        "worker-gpu": needed,
    }.items():
        mine, tested = pins(f"image-{image}.lock"), pins("gpu.lock" if image.endswith("gpu") else "cpu.lock")
        assert {"pytest", "mypy", "ruff", "playwright", "hypothesis"}.isdisjoint(mine), image
        assert least <= set(mine), image
        assert {name: version for name, version in mine.items() if tested.get(name, version) != version} == {}


def test_every_package_of_a_lock_file_has_hashes() -> None:
    """`pip --require-hashes`, which installs them, would refuse one without; here the file is named."""
    for lock in (ROOT / "requirements").glob("*.lock"):
        blocks = re.findall(r"(?m)^[a-z0-9._-]+(?:\[[^\]]*\])?==.*(?:\n[ \t].*)*", lock.read_text())
        assert len(blocks) > 1, lock
        assert [block for block in blocks if "--hash=sha256:" not in block] == [], lock


def test_images_have_every_package() -> None:
    """Each process reads the names of all settings, which are in their packages. The operator is a client."""
    for dockerfile in DOCKERFILES:
        copied = set(re.findall(r"(?m)^COPY ([a-z/]+) \1$", dockerfile.read_text()))
        client = dockerfile.name == "operator.Dockerfile"
        assert copied == ({"deploy/operator", "penstock"} if client else set(BELOW)), dockerfile


def test_images_have_labels_and_byte_code() -> None:
    for dockerfile in DOCKERFILES:
        text = dockerfile.read_text()
        for label in ("title", "description", "licenses", "version", "revision"):
            assert f"org.opencontainers.image.{label}=" in text, dockerfile
        copied = re.findall(
            r"(?m)^COPY (?!--from|tools|requirements)(\S+)", text.partition("FROM ${PYTHON_IMAGE}\n")[2]
        )
        assert f"compileall -q --invalidation-mode unchecked-hash {' '.join(sorted(copied))}\n" in text, (
            dockerfile
        )


def test_digests_are_pinned_in_every_file_or_in_none(tmp_path: Path) -> None:
    """The registry's answer is a stand-in for docker; the files, and the rest of the tool, are real."""
    for name in (
        "docker-compose.yml",
        "tools/pin_images.py",
        *(f"deploy/{file.name}" for file in DOCKERFILES),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        '#!/bin/sh\n[ "$FAIL" ] && exit 1\nprintf "sha256:%s\\n" "$(printf %s "$6" | sha256sum | cut -d " " -f 1)"\n'
    )
    docker.chmod(0o755)

    def pin(**env: str) -> subprocess.CompletedProcess[str]:
        path = {"PATH": f"{docker.parent}:/usr/bin:/bin"}
        command = [sys.executable, "tools/pin_images.py"]
        return subprocess.run(
            command, cwd=tmp_path, env=path | env, capture_output=True, text=True, check=False
        )

    assert pin(FAIL="1").returncode == 1
    assert (tmp_path / "docker-compose.yml").read_text() == TEXT
    for _ in range(2):
        assert pin().returncode == 0
        services = yaml.safe_load((tmp_path / "docker-compose.yml").read_text())["services"]
        assert all(
            re.search(r"@sha256:[0-9a-f]{64}$", services[name]["image"]) for name in SERVICES.keys() - OURS
        )
        assert (tmp_path / "deploy/api.Dockerfile").read_text().count("slim-bookworm@sha256:") == 1
