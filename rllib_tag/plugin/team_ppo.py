"""Where checkpoints of version 0.1 look for what is now in `old_api_stack`."""

from rllib_tag.plugin.old_api_stack import team_ppo
from rllib_tag.plugin.old_api_stack.team_ppo import TeamPPOConfig

__all__ = ["TeamPPO", "TeamPPOConfig"]


class TeamPPO(team_ppo.TeamPPO):
    """`TeamPPO` with a name for each method that it had then: RLlib's checkpoints name them all."""

    _epochs = team_ppo.TeamPPO._learn
