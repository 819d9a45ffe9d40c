"""The games other than tag that ship with the package; your own can be just as short."""

from rllib_tag.games.speaker_listener import SpeakerListener
from rllib_tag.games.spread import Spread

__all__ = ["SpeakerListener", "Spread"]
