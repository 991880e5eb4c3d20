"""Hooks of mkdocs: the generated pages, the pages from the root, and links that leave the site."""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
import reference  # noqa: E402

ROOT = Path(__file__).parents[2]
# Files outside docs/ that are pages of the site, by their path there.
FROM_THE_ROOT = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "how-to/policies.md": "policies/README.md",
    "how-to/example-policies.md": "policies/examples/README.md",
    "contributing/index.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)|(!\[[^\]]*\])\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and those from the root."""
    for path, text in reference.pages().items():
        files.append(File.generated(config, path, content=text))
    for path, source in FROM_THE_ROOT.items():
        files.append(File.generated(config, path, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files outside docs/ to their page, or make them plain text."""
    path = page.file.src_uri
    source = FROM_THE_ROOT.get(path, f"docs/{path}")
    held: list[str] = []

    def hold(block: Any) -> str:
        held.append(block[0])
        return f"\0{len(held) - 1}\0"

    text = FENCE.sub(hold, markdown)
    text = LINK.sub(lambda link: _relinked(link, source, path, files), text)
    return re.sub(r"\0(\d+)\0", lambda mark: held[int(mark[1])], text)


def _relinked(link: Any, source: str, path: str, files: Files) -> str:
    label = link[1] or link[3]
    target = link[2] or link[4]
    if re.match(r"[a-z]+:|#", target):
        return str(link[0])
    address, mark, anchor = target.partition("#")
    at_root = posixpath.normpath(posixpath.join(posixpath.dirname(source), address))
    pages = {root: page for page, root in FROM_THE_ROOT.items()}
    site = pages.get(at_root) or at_root.removeprefix("docs/")
    known = at_root in pages or at_root.startswith("docs/")
    if not known or files.get_file_from_path(site) is None:
        # A file of the repository that the site does not show. Of docs/ it is a broken link.
        return str(link[0]) if _is_lost(at_root) else str(label)
    relative = posixpath.relpath(site, posixpath.dirname(path) or ".")
    return (
        f"{label}({relative}{mark}{anchor})" if link[3] else f"[{label}]({relative}{mark}{anchor})"
    )


def _is_lost(at_root: str) -> bool:
    """Say whether a link leads to nothing at all: then mkdocs is left to complain."""
    return not (ROOT / at_root).exists()
