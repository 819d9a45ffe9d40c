"""Where checkpoints of version 0.1 look for what is now in `old_api_stack`."""

from rllib_tag.plugin.old_api_stack.sampler import BatchedSampler
from rllib_tag.plugin.team_rows import TeamBatch

__all__ = ["BatchedSampler", "TeamBatch"]
