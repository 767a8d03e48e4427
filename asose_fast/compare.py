"""Is the search worth it on these images? Trains what RUN found beside random networks of its size.

All networks are trained from scratch, alike. Called again with the same options, it goes on where it was.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import sys
from collections.abc import Sequence

import torch

from asose_fast import files
from asose_fast.command import Parser, command, warn
from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.data.config import DataConfig
from asose_fast.engine.device import device_named
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.retrainer import RetrainConfig, Retrainer, TrainingState
from asose_fast.paths import given_path
from asose_fast.space.cost import candidate_costs, cost_of
from asose_fast.space.network import NetworkSpec
from asose_fast.stopping import stopping_on_signals
from asose_fast.store import checkpoint_folder, derived, run_folder
from asose_fast.store.checkpoint import write_json

BANDS = ((0.10, 0.05), (0.20, 0.10), (0.40, 0.20))
"""Relative distances in parameters and FLOPs; a wider one is taken where the one before has too few networks."""
DRAWS = 100_000


def random_specs(
    found: NetworkSpec, candidates: tuple[str, ...], size: int, count: int, seed: int
) -> tuple[list[NetworkSpec], tuple[float, float]]:
    """Uniform draws, all different, in the narrowest band that has `count`; the band. Raises ValueError for none."""
    blocks = tuple(dataclasses.replace(block, candidates=candidates) for block in found.blocks)
    costs, own = candidate_costs(dataclasses.replace(found, blocks=blocks), size), cost_of(found, size)
    generator = torch.Generator().manual_seed(seed)
    paths = torch.randint(len(candidates), (DRAWS, len(blocks)), generator=generator)
    rows = torch.arange(len(blocks))
    taken = tuple(candidates.index(name) for name in found.operations)
    away = [
        ((table[rows, paths].sum(1) + fixed).double() / of - 1).abs()
        for table, fixed, of in zip((costs.parameters, costs.flops), costs.fixed, own, strict=True)
    ]
    for band in BANDS:
        inside = paths[(away[0] <= band[0]) & (away[1] <= band[1])].tolist()
        different = [path for path in dict.fromkeys(map(tuple, inside)) if path != taken][:count]
        if len(different) == count:
            return [_of_path(found, candidates, path) for path in different], band
    raise ValueError(f"there are not {count} random networks of about this size: give a smaller --random")


def _of_path(found: NetworkSpec, candidates: tuple[str, ...], path: tuple[int, ...]) -> NetworkSpec:
    pairs = zip(found.blocks, path, strict=True)
    return dataclasses.replace(
        found, blocks=tuple(dataclasses.replace(block, candidates=(candidates[k],)) for block, k in pairs)
    )


def interval(found: float, others: Sequence[float]) -> tuple[float, float, float]:
    """Found minus the mean of k others, and the ends of the 95 % interval t_{k-1} s sqrt(1 + 1/k) around it."""
    from scipy.stats import t

    k, difference = len(others), found - statistics.fmean(others)
    half = float(t.ppf(0.975, k - 1)) * statistics.stdev(others) * math.sqrt(1 + 1 / k)
    return difference, difference - half, difference + half


@command
def main(arguments: Sequence[str]) -> int:
    """Trains, compares and prints. Returns the exit status."""
    parser = Parser("compare", __doc__)
    parser.add_argument("run", metavar="RUN", help="The folder of a finished run.")
    parser.add_argument("--random", type=int, default=4, metavar="K", help="Random networks; default: %(default)s.")
    parser.add_argument("--epochs", type=int, metavar="N", help="Of each training; default: optimize_epochs.")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="Of drawing and training.")
    parser.add_argument("--out", metavar="FOLDER", help="The folder to write; default: RUN/compare.")
    given = parser.parse_args(arguments)
    if given.random < 2:
        raise ValueError(f"--random must be at least 2, got {given.random}")
    run = given_path(given.run)
    genotype = derived.load_genotype(run)
    config = Config(**Config.completed(files.read_settings(run / "config.yaml")))
    found = genotype.network
    if not isinstance(found, NetworkSpec):
        raise ValueError("compare is for the spaces chain and stages, not for cells")
    images = {field.name: getattr(config, field.name) for field in dataclasses.fields(DataConfig)}
    settings = RetrainConfig(
        **images,
        epochs=config.optimize_epochs if given.epochs is None else given.epochs,
        batch_size=max(2, config.batch_size),
        seed=given.seed,
    )
    device = device_named(settings.device)
    data = load_data(settings, settings.batch_size, settings.seed, device, trained="joined")
    names = dict.fromkeys((*config.candidates, *found.operations))
    specs, band = random_specs(found, tuple(names), data.image_size, given.random, given.seed)
    print(f"random networks: parameters within {band[0]:.0%}, FLOPs within {band[1]:.0%} of the found one's")
    rows = []
    with run_folder.claimed(given_path(given.out or run / "compare")) as out:
        for name, spec in {"found": found, **{f"random-{i + 1}": spec for i, spec in enumerate(specs)}}.items():
            state = TrainingState(settings, spec, data, device)
            if checkpoint_folder.holds_checkpoints(out / name / "checkpoints"):
                state.load_state_dict(checkpoint_folder.load_newest(out / name / "checkpoints", warn)[1])
            retrainer = Retrainer(state, out / name)
            (out / name / "checkpoints").mkdir(parents=True, exist_ok=True)
            retrainer.save("last")
            try:
                with stopping_on_signals(state.stop, "the same command"):
                    retrainer.run()
            except InterruptedRunError as interruption:
                print(f"{interruption}; the same command goes on from there")
                return 128 + interruption.signal
            state.result.eval()
            seconds = sum(record["seconds"] for record in state.history)
            row = {"network": name, **cost_of(spec, data.image_size)._asdict(), "seconds": seconds}
            rows.append({**row, "test_accuracy": state.test_accuracy(), "operations": list(spec.operations)})
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items() if key != "operations"), flush=True)
        difference, low, high = interval(rows[0]["test_accuracy"], [row["test_accuracy"] for row in rows[1:]])
        verdict = "worth it" if low > 0 else "worse" if high < 0 else "not shown to be worth it"
        result = {"difference": difference, "low": low, "high": high, "verdict": verdict, "band": band}
        write_json(out / "compare.json", {**result, "networks": rows, "settings": dataclasses.asdict(settings)})
    print(
        f"found minus the mean of random: {100 * difference:+.2f} points (95 %: {100 * low:+.2f} to {100 * high:+.2f})"
    )
    print(f"The interval is Student's, of one new network against {given.random}. The search is {verdict}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
