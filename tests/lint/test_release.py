"""What ``make release-check`` relies on, as far as it can be seen without building and installing."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest

import penstock
from tests.processes import ROOT
from tools.release import bills, contexts
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


def test_everything_that_is_released_has_one_version() -> None:
    chart = (ROOT / "deploy" / "helm" / "penstock" / "Chart.yaml").read_text()
    said = re.findall(r'(?m)^(?:version|appVersion): "?([^"\n]+)"?$', chart)
    said.append(json.loads((ROOT / "clients" / "typescript" / "package.json").read_text())["version"])
    assert said == [penstock.__version__] * 3
