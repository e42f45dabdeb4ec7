#!/usr/bin/env python3
"""Name the images of other projects by digest, in docker-compose.yml and in the Dockerfiles.

A tag may move; a digest cannot. Each ``name:tag`` becomes ``name:tag@sha256:...``, the digest that the registry has for the
tag now, for every platform of the image. Run it again to follow the tags.

Standard library only. It needs docker (with buildx) or skopeo, and asks the images' registries.

Exit status: 0, or 1 with a message.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("docker-compose.yml", "deploy/api.Dockerfile", "deploy/worker.Dockerfile")
IMAGE = re.compile(
    r"(?m)^(?P<before>\s*image: |ARG PYTHON_IMAGE=)(?P<name>(?!penstock-)[\w./-]+:[\w.-]+)(?:@sha256:[0-9a-f]{64})?$"
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class PinError(Exception):
    """An image's digest cannot be had."""


def resolve(name: str) -> str:
    """Return the digest that an image's registry has for a tag.

    Raises:
        PinError: there is no program to ask with, or it failed.
    """
    if shutil.which("docker"):
        command = ["docker", "buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", name]
    elif shutil.which("skopeo"):
        command = ["skopeo", "inspect", "--format", "{{.Digest}}", f"docker://{name}"]
    else:
        raise PinError("neither docker nor skopeo is installed; one of them asks the registries")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    digest = done.stdout.strip()
    if done.returncode or not DIGEST.fullmatch(digest):
        raise PinError(f"no digest for {name}: {done.stderr.strip() or digest or command[0]}")
    return digest


def main() -> None:
    """Resolve every image once, then rewrite the files: all of them, or none."""
    texts = {path: path.read_text() for path in (ROOT / name for name in FILES)}
    names = sorted({found["name"] for text in texts.values() for found in IMAGE.finditer(text)})
    digests = {name: resolve(name) for name in names}
    for path, text in texts.items():
        path.write_text(
            IMAGE.sub(lambda found: f"{found['before']}{found['name']}@{digests[found['name']]}", text)
        )
    for name, digest in digests.items():
        print(f"{name} {digest}")


if __name__ == "__main__":
    try:
        main()
    except PinError as problem:
        sys.exit(f"pin-images: {problem}")
