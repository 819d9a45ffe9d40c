"""Games beside tag that ship with the package, each as short as one of your own may be."""

from rllib_tag.games.speaker_listener import SpeakerListener
from rllib_tag.games.spread import Spread

__all__ = ["SpeakerListener", "Spread"]
