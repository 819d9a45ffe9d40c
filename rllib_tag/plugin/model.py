"""Where checkpoints of version 0.1 look for what is now in `old_api_stack`."""

from rllib_tag.plugin.old_api_stack.model import CommModel

__all__ = ["CommModel"]
