"""A recorded episode as one HTML page that needs nothing but a browser."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from rllib_tag.errors import ConfigError
from rllib_tag.report.video import CLASS_COLOURS, GOOD_COLOUR, SHOWN

COLOURS = {"classes": CLASS_COLOURS, "good": GOOD_COLOUR, "landmark": "#bbbbbb", "link": "#444444"}


def write_replay(episode: dict[str, Any], out: str | os.PathLike[str]) -> Path:
    """Writes a page that replays an episode with a slider; it opens from disk, without a network.

    Args:
        episode: What `read_episode` gives.
        out: The page.

    Raises:
        ConfigError: If it cannot be written.
    """
    page = files("rllib_tag.report").joinpath("replay.html").read_text(encoding="utf-8")
    # A "</script>" or a comment in a string would end the block that holds it.
    data = json.dumps({key: episode[key] for key in SHOWN}, separators=(",", ":")).replace("<", "\\u003c")
    path = Path(out)
    aside = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = page.replace("__COLOURS__", json.dumps(COLOURS)).replace("__EPISODE__", data)
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ConfigError(f"replay: expected a writable place, got {path} ({error.strerror}).") from error
    return path
