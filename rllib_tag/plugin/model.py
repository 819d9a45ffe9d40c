"""Where runs of version 0.1 look for what is now in `old_api_stack`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rllib_tag.nn.config import DEFAULTS_OF_0_1
from rllib_tag.plugin.old_api_stack import model


class CommModel(model.CommModel):
    """`CommModel` with the defaults of version 0.1."""

    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS_OF_0_1
