"""Checks for NaN and infinity that name the first bad number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tree


def first_not_finite(arrays: Any) -> str | None:
    """Names the first number that is not finite, such as `obs/team[17, 0, 3] = nan`; None if all numbers are finite.

    Args:
        arrays: Arrays or tensors of numbers, nested in mappings and sequences.
    """
    for path, values in tree.flatten_with_path(arrays):
        found = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
        if not np.issubdtype(found.dtype, np.number):
            continue
        bad = ~np.isfinite(found)
        if bad.any():
            place = tuple(int(i) for i in np.argwhere(bad)[0])
            return f"{'/'.join(map(str, path))}{list(place) if place else ''} = {found[place]}"
    return None


def check_finite(where: str, arrays: Mapping[str, Any]) -> None:
    """Raises unless all numbers are finite.

    Args:
        where: What the numbers belong to; the error message begins with it.
        arrays: Arrays of numbers, nested in mappings and sequences.

    Raises:
        FloatingPointError: If a number is not finite; the message names it.
    """
    if not all(np.isfinite(values).all() for values in tree.flatten(arrays)):
        raise FloatingPointError(f"{where}: expected finite numbers, got {first_not_finite(arrays)}.")
