"""Errors that name the bad value, the allowed ones and the nearest match."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, name: object, allowed: Iterable[object]) -> ValueError:
    """The error for a name that is not one of the allowed ones.

    Args:
        what: what the name stands for, in the singular ("network", "parameter of notebook 03").
        name: the value that was given.
        allowed: the values that would have been accepted.
    Returns:
        A ValueError to raise; its message holds the nearest allowed name, if one is near, and all of them.
    """
    choices = [str(choice) for choice in allowed]
    near = get_close_matches(str(name), choices, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what}: {name!r}.{hint} Allowed: {', '.join(choices) or 'none'}.")
