"""The failure that began all this, and its fix: `python -m benchmarks.evidence.failure_and_fix --data imagefolder:PATH`

Searches the same images twice, with the semantics and settings of the original (`faults.py`, `configs/original.yaml`)
and with ours, and shows accuracy, entropy and largest architecture weight epoch by epoch in one table and, with --plot,
one figure.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
import yaml

from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.engine.trainer import Trainer
from benchmarks.evidence import faults
from benchmarks.evidence.report import Table, changes, summary, write

ROOT = Path(__file__).resolve().parents[2]
SERIES = ("train_accuracy", "valid_accuracy", "entropy", "max_weight")
NAMES = {
    "train_accuracy": "accuracy of sampled paths, training images",
    "valid_accuracy": "validation accuracy",
    "entropy": "architecture entropy (nats)",
    "max_weight": "largest architecture weight",
}


def run(kind: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of all epochs of a search, "original" or "ours"."""
    if kind == "original":
        settings = {**yaml.safe_load((ROOT / "configs" / "original.yaml").read_text()), **settings}
    config = Config(**settings)
    if config.threads:
        torch.set_num_threads(config.threads)
    data = load_data(config, config.batch_size, config.seed, faults.CPU)
    state = {"original": faults.original, "ours": faults.sound}[kind](config, data)
    Trainer(state).run()
    return state.history


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is asked of a search that is stable, from the epoch after the warmup until phase optimize."""

    warmup: float
    """Accuracy at the end of the warmup."""
    lowest: float
    """The lowest afterwards."""
    last: float
    entropy: float
    """At the end of the search."""
    max_weight: float

    def __str__(self) -> str:
        kept = self.lowest / self.warmup
        return (
            f"warmup's last {self.warmup:.1%}, lowest afterwards {self.lowest:.1%} ({kept:.0%}), last {self.last:.1%}; "
            f"entropy {self.entropy:.2f}, max weight {self.max_weight:.2f}"
        )


def verdict(records: list[dict[str, Any]], accuracy: str) -> Verdict:
    """Of the accuracy named so in the records."""
    warmup = [r for r in records if r["phase"] == "warmup"]
    search = [r for r in records if r["phase"] in ("search", "growth")]
    values = [r[accuracy] for r in search]
    return Verdict(warmup[-1][accuracy], min(values), values[-1], search[-1]["entropy"], search[-1]["max_weight"])


def plot(runs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """One panel a series, one line a run, the phases of ours as bands."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(10, 6), sharex=True, layout="constrained")
    for panel, series in zip(panels.flat, SERIES, strict=True):
        for (kind, records), colour in zip(runs.items(), ("#b5482a", "#1f6f8b"), strict=False):
            panel.plot([r["epoch"] for r in records], [r[series] for r in records], color=colour, label=kind)
        phases = [r["phase"] for r in next(iter(runs.values()))]
        for name in ("search", "growth", "optimize"):
            panel.axvline(phases.index(name) + 0.5, color="#999999", linewidth=0.8, linestyle=":")
            panel.text(phases.index(name) + 1, 0.98, name, transform=panel.get_xaxis_transform(), fontsize=7, va="top")
        panel.set_title(NAMES[series], fontsize=10)
        panel.set_ylim(bottom=0)
    panels[0, 0].legend(frameon=False)
    for panel in panels[1]:
        panel.set_xlabel("epoch")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.failure_and_fix", description=__doc__)
    parser.add_argument("--data", required=True, help="dataset of Config")
    parser.add_argument("--only", choices=["original", "ours"], help="one of the two")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of Config, for both")
    parser.add_argument("--plot", type=Path, help="figure to write (.svg, .png)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    settings = {"dataset": options.data, **changes(options.set)}
    runs = {kind: run(kind, settings) for kind in ([options.only] if options.only else ["original", "ours"])}
    show(runs)
    kept = {kind: [{key: r[key] for key in ("epoch", "phase", *SERIES)} for r in rs] for kind, rs in runs.items()}
    write(options.out, {**summary(options), "runs": kept})
    if options.plot:
        plot(runs, options.plot)


def show(runs: dict[str, list[dict[str, Any]]]) -> None:
    """The table, and what is asked of a stable search."""
    columns = [f"{kind}: {name}" for kind in runs for name in ("sampled", "valid", "entropy", "max w")]
    table = Table("epoch", "phase", *columns)
    for records in zip(*runs.values(), strict=True):
        cells = [
            f"{r['train_accuracy']:.3f} | {r['valid_accuracy']:.3f} | {r['entropy']:.2f} | {r['max_weight']:.2f}"
            for r in records
        ]
        table.row(records[0]["epoch"], records[0]["phase"], *cells)
    for kind, records in runs.items():
        for accuracy in ("train_accuracy", "valid_accuracy"):
            print(f"{kind}, {NAMES[accuracy]}: {verdict(records, accuracy)}")


if __name__ == "__main__":
    main()
