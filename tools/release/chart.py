"""The Helm chart: packaged, and then linted and rendered from the package, which has no links to other files any more."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import yaml

from tools.release.runs import ROOT, ReleaseError, run

SOURCE = ROOT / "deploy" / "helm" / "penstock"


def pack(out: Path, helm: Path, version: str) -> Path:
    """Package the chart, and check the package.

    Raises:
        ReleaseError: its versions are not ``version``, or Helm refuses it or one of its examples.
    """
    run(helm, "package", SOURCE, "--destination", out, cwd=ROOT)
    path = out / f"penstock-{version}.tgz"
    if not path.exists():
        made = ", ".join(one.name for one in out.glob("penstock-*.tgz"))
        raise ReleaseError(f"the chart's version is not {version}: {made}")
    folder = out / "chart"
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    chart = folder / "penstock"
    said = yaml.safe_load((chart / "Chart.yaml").read_text())
    if said["appVersion"] != version:
        raise ReleaseError(f"the chart's appVersion is {said['appVersion']}, not {version}")
    if links := [one.name for one in chart.rglob("*") if one.is_symlink()]:
        raise ReleaseError(f"the packaged chart has links: {links}")
    for example in sorted((SOURCE / "examples").glob("*.yaml")):
        run(helm, "lint", "--strict", "--quiet", chart, "-f", example, cwd=out)
        rendered = run(helm, "template", "penstock", path, "-f", example, cwd=out)
        if not any(one["kind"] == "Deployment" for one in yaml.safe_load_all(rendered) if one):
            raise ReleaseError(f"{example.name} renders no Deployment")
    return path
