"""A report shows what a run's comparison with other networks came to, or how to make one (docs/compare.md)."""

from __future__ import annotations

import shlex
from typing import Any

from asose_fast.engine.comparison.networks import pruned_blocks
from asose_fast.engine.comparison.record import Comparison
from asose_fast.report import charts, costs
from asose_fast.space.build import spec_from_dict
from asose_fast.space.network import NetworkSpec


def shown(comparison: Comparison | None, genotype: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the section of a comparison; None where there is none with the network of the genotype."""
    network = _network(genotype)
    if comparison is None or network is None or network.to_dict() != comparison.found:
        return None
    missing, total = comparison.missing, len(comparison.names)
    return {
        "sentences": comparison.sentences,
        "missing": f"{missing} of {total} networks are not trained yet" if missing else "",
        "caption": f"Each was trained from scratch on {comparison.images:,} images for {comparison.epochs:,} epochs, "
        f"with the same settings, and measured on {comparison.test_images:,} test images. The random ones are "
        f"{comparison.band.words}{comparison.band.reason}. The run's own accuracy comes from another training."
        + _said_of_latency(comparison),
        "heads": costs.HEADS,
        "rows": [
            (
                one.name,
                (*costs.worded(one, comparison.test_images), charts.duration(one.seconds)),
                ", ".join(one.operations),
            )
            for one in comparison.networks
        ],
    }


def command(name: str, genotype: dict[str, Any]) -> str | None:
    """Returns the command that compares the network of the run folder `name`; None where it cannot be compared."""
    return None if _network(genotype) is None else f"asose-fast compare {shlex.quote(name)}"


def _said_of_latency(comparison: Comparison) -> str:
    measured = any(one.latency is not None for one in comparison.networks)
    return f" {costs.said_of_latency(comparison.target)}" if measured else ""


def _network(genotype: dict[str, Any]) -> NetworkSpec | None:
    """Returns the derived network without blocks that compute nothing; None for cells, or for none that is whole."""
    try:
        network = spec_from_dict(genotype["network"])
        return pruned_blocks(network) if isinstance(network, NetworkSpec) and network.derived else None
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
