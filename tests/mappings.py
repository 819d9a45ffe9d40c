"""Mappings of a user's own, importable in workers too."""

from __future__ import annotations

from typing import Any

from rllib_tag import ClassPolicyMapping


class OnePolicy(ClassPolicyMapping):
    """All adversaries, of both classes, act by one policy."""

    def __call__(self, agent_id: str, *args: Any, **kwargs: Any) -> str:
        return "hunters" if agent_id.startswith("adversary") else "prey"


class OnePerAgent(ClassPolicyMapping):
    """Everybody has a policy of their own."""

    def __call__(self, agent_id: str, episode: Any, worker: Any, **kwargs: Any) -> str:  # type: ignore[override]
        return agent_id
