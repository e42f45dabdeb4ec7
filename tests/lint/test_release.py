"""What ``make release-check`` relies on, as far as it can be seen without building and installing."""

from __future__ import annotations

import json
import re
import sys
import tarfile
from pathlib import Path

import pytest

import penstock
from tests.processes import ROOT
from tools import release_check, setup_node
from tools.release import bills, contexts, runs
from tools.release.runs import ReleaseError


@pytest.mark.parametrize("name", ["api", "worker", "operator"])
def test_a_context_holds_what_its_dockerfile_copies_and_nothing_else(name: str, tmp_path: Path) -> None:
    with tarfile.open(contexts.pack(ROOT / "deploy" / f"{name}.Dockerfile", tmp_path)) as archive:
        names = archive.getnames()
    assert "penstock/__main__.py" in names
    assert not [one for one in names if one.startswith(("tests/", ".git", "shared/", "docs/"))]


def test_a_dockerfile_that_copies_what_its_context_lacks_is_refused(tmp_path: Path) -> None:
    dockerfile = ROOT / "deploy" / "api.Dockerfile"
    names = [*contexts.files(), "deploy/api.Dockerfile"]
    contexts.check_copies(
        "FROM scratch\nCOPY jobs jobs\nCOPY requirements/image-${FLAVOUR}.lock .\n", dockerfile, names
    )
    with pytest.raises(ReleaseError, match="copies docs"):
        contexts.check_copies("FROM scratch\nCOPY docs docs\n", dockerfile, names)


def test_a_licence_that_nobody_looked_at_is_refused(tmp_path: Path) -> None:
    good = {"name": "good", "version": "1", "licenses": [{"license": {"id": "MIT"}}]}
    known = {"name": "pycountry", "version": "2", "licenses": [{"expression": "LGPL-2.1-only"}]}
    assert bills.licences({"components": [known, good]}, tmp_path / "licences.md") == 2
    assert "| good | 1 | MIT |" in (tmp_path / "licences.md").read_text()
    for wrong in ([], [{"expression": "GPL-3.0-only"}]):
        bill = {"components": [good, {"name": "bad", "version": "1", "licenses": wrong}]}
        with pytest.raises(ReleaseError, match="bad: "):
            bills.licences(bill, tmp_path / "licences.md")


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ("Apache Software License", True),
        ("Mozilla Public License 2.0 (MPL 2.0)", True),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-2-Clause AND BSL-1.0 AND MIT", True),
        ("GPL-2.0-only OR MIT", True),
        ("(GPL-2.0-only OR MIT) AND BSD-3-Clause", True),
        ("MIT AND (GPL-2.0-only OR LGPL-3.0-only)", False),
        ("GNU Affero GPL AND MIT", False),
        ("GPL-3.0-only / MIT", False),
        ("Proprietary (Mozilla-like)", False),
    ],
)
def test_every_part_of_a_licence_counts(said: str, allowed: bool, tmp_path: Path) -> None:
    assert bills.allowed(said) == allowed
    two = [{"license": {"name": "MIT"}}, {"license": {"name": said}}]
    bill = {"components": [{"name": "one", "licenses": two}]}
    if allowed:
        assert bills.licences(bill, tmp_path / "licences.md") == 1
    else:
        with pytest.raises(ReleaseError, match="one: "):
            bills.licences(bill, tmp_path / "licences.md")


def test_everything_that_is_released_has_one_version() -> None:
    chart = (ROOT / "deploy" / "helm" / "penstock" / "Chart.yaml").read_text()
    said = re.findall(r'(?m)^(?:version|appVersion): "?([^"\n]+)"?$', chart)
    said.append(json.loads((ROOT / "clients" / "typescript" / "package.json").read_text())["version"])
    assert said == [penstock.__version__] * 3


def test_programs_get_how_this_machine_reaches_registries_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("PIP_FIND_LINKS", "HTTP_PROXY", "https_proxy", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
    for name in (*kept, "PYTHONPATH", "PENSTOCK_URL"):
        monkeypatch.setenv(name, "x")
    said = runs.run(sys.executable, "-c", "import os; print(*os.environ)", cwd=tmp_path).split()
    assert set(kept) <= set(said)
    assert not {"PYTHONPATH", "PENSTOCK_URL"} & set(said)
    with pytest.raises(ReleaseError, match=r"did not end within 0\.1 s"):
        runs.run(sys.executable, "-c", "import time; time.sleep(60)", cwd=tmp_path, timeout_s=0.1)


def test_the_sums_have_packages_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "npm").mkdir()
    for folder in (tmp_path, tmp_path / "npm"):
        (folder / "penstock-1.tgz").write_text(folder.name)
    release_check.write_sums(tmp_path)
    assert re.findall(r"  (\S+)", (tmp_path / "SHA256SUMS").read_text()) == [
        "npm/penstock-1.tgz",
        "penstock-1.tgz",
    ]


@pytest.mark.parametrize(
    ("said", "will_do"),
    [
        ("v20.18.3", False),
        ("v20.19.0", True),
        ("v21.7.3", False),
        ("v22.11.0", False),
        ("v22.12.0", True),
        ("", False),
    ],
)
def test_node_is_as_new_as_the_tools_of_the_sdk_ask(said: str, will_do: bool) -> None:
    assert setup_node.new_enough(f"{said}\n") == will_do
