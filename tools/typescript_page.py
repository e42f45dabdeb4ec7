"""The page on the TypeScript SDK: the package's own README, as a page of the documentation."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "clients" / "typescript" / "README.md"
DOCS = ROOT / "docs"

_LINK = re.compile(r"\[([^\]]+)\]\((?![a-z]+:|#)([^)#]+)(#[^)]*)?\)")
_MARK = "<!-- Made from clients/typescript/README.md by tools/gen_docs.py; change it there. -->"
_REFERENCE = """\
The classes and types, one by one: <a href="typescript/index.html">reference of the package</a> (in the site that `make docs`
builds)."""


def typescript_page() -> str:
    """Return the page. Links into the documentation stay links; of those to other files, the words."""
    title, text = README.read_text().split("\n\n", 1)
    return "\n\n".join([_MARK, title, _LINK.sub(_moved, text).strip(), "## Reference", _REFERENCE]) + "\n"


def _moved(link: re.Match[str]) -> str:
    words, path, anchor = link[1], (README.parent / link[2]).resolve(), link[3] or ""
    if not path.is_relative_to(DOCS):
        return words
    return f"[{words}]({os.path.relpath(path, DOCS / 'reference')}{anchor})"
