"""The experiment files that ship with the package, by name."""

from __future__ import annotations

from pathlib import Path

from rllib_tag.errors import check_choice

FOLDER = Path(__file__).parent.parent / "examples"  # in a checkout, a link to `experiments/`
GROUPS = (".", "games", "sweeps", "study")


def example_files() -> dict[str, Path]:
    """Returns the shipped experiment files by name, such as `tag_ppo` or `sweeps/asha`."""
    found = [path for group in GROUPS for path in sorted((FOLDER / group).glob("*.yaml"))]
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in found}


def example_file(name: str) -> Path:
    """Returns the experiment file of a name.

    Raises:
        ConfigError: If no example has this name.
    """
    files = example_files()
    check_choice("example", name, files)
    return files[name]


def describe(file: Path) -> str:
    """Returns the comment at the top of an experiment file, on one line."""
    lines = file.read_text().splitlines()
    top = [line.removeprefix("#").strip() for line in lines[: [line[:1] == "#" for line in lines].index(False)]]
    return " ".join(top)
