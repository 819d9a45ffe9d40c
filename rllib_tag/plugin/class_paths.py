"""Import paths from YAML, resolved only to the kind of thing that belongs there."""

from __future__ import annotations

import importlib
from typing import Any

from rllib_tag.errors import ConfigError


def resolve(what: str, path: Any) -> Any:
    """Imports what a dotted path such as `rllib_tag.TagEnv` names.

    Args:
        what: What the path is for, as the message should call it.
        path: The dotted path.

    Raises:
        ConfigError: If it is not a dotted path or does not resolve.
    """
    if not isinstance(path, str) or "." not in path or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{what}: expected an import path such as package.module.Name, got {path!r}. Write it so.")
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # importing runs a module, which may raise anything
        raise ConfigError(
            f"{what}: cannot import {path!r} ({error}). Check the spelling and that the package is installed."
        ) from error


def resolve_subclass(what: str, path: Any, base: type) -> type:
    """Imports a class and checks its kind.

    Raises:
        ConfigError: If the path does not name a subclass of `base`.
    """
    found = resolve(what, path)
    if not isinstance(found, type) or not issubclass(found, base):
        kind = f"class {found.__qualname__}" if isinstance(found, type) else type(found).__name__
        raise ConfigError(f"{what}: expected a subclass of {base.__name__}, got {path!r}, a {kind}. Name another.")
    return found
