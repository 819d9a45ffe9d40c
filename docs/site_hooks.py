"""For `make docs`: the command line's own reference, and copies of the repository's files that pages link to."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"\]\(\.\./([^)#\s]+)(?:#[^)\s]*)?")
ROOT = Path(__file__).parent.parent
ATTRIBUTES = re.compile(r"(Attributes:</span></p>\s*)<table>")
COMMANDS = "<!-- commands -->"


def on_files(files: Files, config: Any) -> Files:
    """Adds the repository's files that pages link to. A folder stands for its README.md, or for its files' names."""
    for page in list(files.documentation_pages()):
        for target in LINK.findall(page.content_string):
            path = ROOT / target
            if not path.exists():
                continue  # mkdocs warns of the link
            uri = _uri(target)
            if files.get_file_from_path(uri) is None:
                names = "\n".join(sorted(each.name for each in path.iterdir())) if path.is_dir() else ""
                shown = path / "README.md" if path.is_dir() else path
                files.append(File.generated(config, uri, content=shown.read_bytes() if shown.is_file() else names))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the commands in their place, and leads links to the copies."""
    if COMMANDS in markdown:
        command = [sys.executable, "-m", "typer", "rllib_tag.cli", "utils", "docs", "--name", "rllib"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        markdown = markdown.replace(COMMANDS, said.partition("\n")[2])  # the page has a heading of its own
    return LINK.sub(lambda found: f"]({_uri(found[1])}", markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Marks tables without types: keys of experiment files, and attributes, for most of which none is known."""
    if page.file.src_uri == "experiment-files.md":
        return html.replace("<table>", '<table class="untyped">')
    return ATTRIBUTES.sub(r'\1<table class="untyped">', html)


def _uri(target: str) -> str:
    """Where a file of the repository is in the site. Pages outside docs/ are plain text there."""
    path = f"repository/{target.rstrip('/')}"
    return f"{path}.txt" if target.endswith(".md") or (ROOT / target).is_dir() else path
