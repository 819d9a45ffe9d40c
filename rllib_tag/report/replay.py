"""HTML pages: one that replays a recorded episode and needs nothing but a browser, and the one of `rllib play`."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from rllib_tag.report.video import CLASS_COLOURS, GOOD_COLOUR, SHOWN

COLOURS = {"classes": CLASS_COLOURS, "good": GOOD_COLOUR, "landmark": "#bbbbbb", "link": "#444444"}


def replay_page(episode: dict[str, Any]) -> str:
    """Returns a page that replays an episode with a slider. It opens from disk, without a network.

    Args:
        episode: What `read_episode` returns.
    """
    page = files("rllib_tag.report").joinpath("replay.html").read_text(encoding="utf-8")
    # A "</script>" or a comment in a string would end the block that holds it.
    data = json.dumps({key: episode[key] for key in SHOWN}, separators=(",", ":")).replace("<", "\\u003c")
    return page.replace("__COLOURS__", json.dumps(COLOURS)).replace("__EPISODE__", data)


def play_page() -> str:
    """Returns the page of `rllib play`, which talks to its server."""
    page = files("rllib_tag.report").joinpath("play.html").read_text(encoding="utf-8")
    return page.replace("__COLOURS__", json.dumps(COLOURS))
