"""The trained teams that ship with the package, by name."""

from __future__ import annotations

from pathlib import Path

PRETRAINED = Path(__file__).parent.parent / "pretrained"  # one folder of exported weights for each
DEFAULT_TEAM = "generalist"


def pretrained_teams() -> list[str]:
    """Returns their names."""
    return sorted(manifest.parent.name for manifest in PRETRAINED.glob("*/manifest.json"))
