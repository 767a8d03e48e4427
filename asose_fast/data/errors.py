"""These errors are raised when the data or their settings cannot be used. The message says what is wrong and what is
right."""

from __future__ import annotations

from collections.abc import Sequence

MOST_NAMED = 20
"""An error names so many things that are wrong, and says how many there are besides."""


class DataError(ValueError):
    """The data cannot be used, or a setting of theirs cannot."""


class DataNotFoundError(DataError, FileNotFoundError):
    """The data are not where they were looked for."""


def listed(what: str, items: Sequence[str]) -> str:
    """Says that there are so many of `what`, and names the first of them, a line each."""
    more = [f"and {len(items) - MOST_NAMED} more"] if len(items) > MOST_NAMED else []
    return f"{len(items)} {what}:\n  " + "\n  ".join([*items[:MOST_NAMED], *more])
