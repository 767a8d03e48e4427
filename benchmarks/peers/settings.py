"""What steps of theirs and ours have in common, as quark0/darts and confopt have it for a search by DARTS."""

from __future__ import annotations

RATE, DECAY, MOMENTUM = 0.025, 3e-4, 0.9
ALPHA_RATE, ALPHA_DECAY, ALPHA_BETAS = 3e-4, 1e-3, (0.5, 0.999)
CLIP = 5.0
GDAS_TEMPERATURE = 10.0
"""Of confopt's first epoch. No work depends on it."""
