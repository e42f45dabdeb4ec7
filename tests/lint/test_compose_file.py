"""What is written in the compose file and the Dockerfiles, checked without an engine (tests/heavy brings them up)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict] = yaml.safe_load(TEXT)["services"]
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("penstock-")}
EXAMPLE = (ROOT / ".env.example").read_text()
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
    assert len(DOCKERFILES) == 2
    tool("hadolint", *map(str, DOCKERFILES))


def test_shell_scripts_are_clean() -> None:
    tool("shellcheck", *map(str, SCRIPTS))


def test_every_service_is_looked_after() -> None:
    for name, service in SERVICES.items():
        assert service["restart"] == "unless-stopped", name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        assert "healthcheck" in service or name == "dcgm-exporter"  # its image has no client to ask it with
        assert not service.get("privileged"), name
        if name in OURS:
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name


def test_foreign_images_are_pinned_to_a_version() -> None:
    for name in SERVICES.keys() - OURS:
        assert re.search(r":v?\d+\.\d+\.\d+[\w.-]*$", SERVICES[name]["image"]), name


def test_ports_are_published_on_the_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_only_valkeys_friends_reach_valkey() -> None:
    assert yaml.safe_load(TEXT)["networks"]["queue"]["internal"] is True
    assert SERVICES["valkey"]["networks"] == ["queue"]
    on_queue = {name for name, service in SERVICES.items() if "queue" in service.get("networks", [])}
    assert on_queue == OURS | {"valkey"}


def test_no_secret_is_in_the_file() -> None:
    for name, operator, default in VARIABLES.findall(TEXT):
        if re.search(r"_(PASSWORD|TOKEN|KEY)$", name):
            assert operator == ":?" or default in {"", "none"}, name


def test_the_example_names_every_variable_and_no_other() -> None:
    used = {name for name, _, _ in VARIABLES.findall(TEXT)}
    named = set(re.findall(r"^#?([A-Z_]+)=", EXAMPLE, re.MULTILINE)) - {"COMPOSE_PROFILES"}
    assert named == used


def test_the_examples_defaults_are_the_files() -> None:
    defaults = {name: default for name, operator, default in VARIABLES.findall(TEXT) if operator == ":-"}
    shown = dict(re.findall(r"^#([A-Z_]+)=(.+)$", EXAMPLE, re.MULTILINE))
    assert shown == {name: defaults[name] for name in shown}


def test_required_variables_are_at_the_top_of_the_example() -> None:
    required = {name for name, operator, _ in VARIABLES.findall(TEXT) if operator == ":?"}
    assert required == {"VALKEY_PASSWORD", "FLOWER_PASSWORD", "GRAFANA_PASSWORD"}
    assert all(re.search(rf"^{name}=$", EXAMPLE, re.MULTILINE) for name in required)


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

    for image in ("api", "worker-cpu", "worker-gpu"):
        mine, tested = pins(f"image-{image}.lock"), pins("gpu.lock" if image.endswith("gpu") else "cpu.lock")
        assert {"pytest", "mypy", "ruff", "playwright", "hypothesis"}.isdisjoint(mine), image
        assert {"celery", "fastapi", "flower", "uvicorn"} <= set(mine), image
        assert {name: version for name, version in mine.items() if tested.get(name, version) != version} == {}
