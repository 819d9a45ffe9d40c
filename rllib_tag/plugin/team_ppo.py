"""Where checkpoints of version 0.1 look for what is now in `old_api_stack`."""

from rllib_tag.plugin.old_api_stack import team_ppo
from rllib_tag.plugin.old_api_stack.team_ppo import TeamPPOConfig

__all__ = ["TeamPPO", "TeamPPOConfig"]


class TeamPPO(team_ppo.TeamPPO):
    """`TeamPPO` with every method name of version 0.1, because RLlib's checkpoints refer to methods by name."""

    _epochs = team_ppo.TeamPPO._learn  # RLlib only looks the name up, and never calls it
