"""A record says what is known of an epoch when it has ended."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]
"""These are the metrics of an epoch, a line of `metrics.jsonl`."""
