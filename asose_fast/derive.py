"""Chooses a network from the supernet of a run, anew and in other ways.

The supernet is that of the end of the search, `checkpoints/supernet.pt`, or, of a run that has not come so far, that
of its newest checkpoint. The network has the supernet's weights; `retrain` trains from scratch.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
import yaml
from torch import Tensor

from asose_fast.bounds import MOST_COST, Bounds, check_value
from asose_fast.command import Parser, command, warn
from asose_fast.config import Config
from asose_fast.data import Data
from asose_fast.data.place import load_again, moved, require_outside
from asose_fast.engine import resume
from asose_fast.engine.alpha.budget import NAMES, PER_MILLISECOND
from asose_fast.engine.alpha.budget_keeper import BudgetKeeper
from asose_fast.engine.alpha.perturbation import losses_without
from asose_fast.engine.alpha.pool import Measured
from asose_fast.engine.resume import Resumable
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.paths import given_path
from asose_fast.program import spelled
from asose_fast.space.build import ImageNetwork, of_images
from asose_fast.space.cost import Cost, cost_of
from asose_fast.space.latency import Target, Timing, network_latency
from asose_fast.space.prune import pruned
from asose_fast.store import checkpoint, run_folder
from asose_fast.store.checkpoint import CheckpointError, write_atomically
from asose_fast.store.derived import save

Method = Literal["argmax", "perturbation", "validation", "random", "evolution"]
AMONG = 32
"""Architectures that are measured where the run has no number of its own."""


COUNTS = ("max_parameters", "max_flops", "min_parameters", "min_flops")
"""Options that bound a number."""
SETTINGS = {name: f"derive_{name}" for name in (*COUNTS, "min_share", "max_latency")} | {
    name: name for name in ("latency_device", "latency_threads", "latency_batch")
}
"""The settings that options take the place of, where they are given."""


class Derived(NamedTuple):
    """What was chosen, and what it is worth before any further training."""

    network: ImageNetwork
    cost: Cost
    latency: Timing
    """On `target`, in nanoseconds."""
    target: Target
    valid_accuracy: float
    data: Data
    config: Config
    """Of the run, bounds given since included."""


def derive(
    run: str | Path,
    method: Method = "argmax",
    *,
    among: int | None = None,
    max_parameters: int | None = None,
    max_flops: int | None = None,
    min_parameters: int | None = None,
    min_flops: int | None = None,
    min_share: float | None = None,
    max_latency: float | None = None,
    latency_device: str | None = None,
    latency_threads: int | None = None,
    latency_batch: int | None = None,
    dataset: str | None = None,
    data_root: str | None = None,
    device: str = "cpu",
) -> Derived:
    """The network of largest total score, sum_l s[l, k_l], within the budget, or of largest validation accuracy.

    Args:
        run: run folder of `asose-fast train`.
        method: `argmax`: s is the logarithm of the architecture's probability; `perturbation`: the validation accuracy
            that the supernet loses without the candidate (`none` excepted; `perturbation.losses_without`);
            `validation`: of the argmax and architectures drawn by their probability the one of the best validation
            accuracy (`SearchState.final_path`); `random`: the best of uniformly random ones; `evolution`: the best of
            those that regularised evolution breeds. The last two do not look at alpha.
        among: how many are measured, for `validation` besides the argmax; None: `derive_among` of the run, or 32 where
            that is 0.
        max_parameters: of the network; None: as the run was configured.
        max_flops: likewise.
        min_parameters: likewise, at least.
        min_flops: likewise, at least.
        min_share: of the FLOPs of the dearest network within the other bounds; None: as the run was configured.
        max_latency: milliseconds that the network takes at most, by its candidates, which are timed anew; None: as the
            run was configured.
        latency_device, latency_threads, latency_batch: where, on how many threads of a CPU and for how many images at
            a time; None: as the run was configured.
        dataset: imagefolder:PATH or csv:PATH, where the images of the run lie now; None: where they did.
        data_root: likewise, of a downloaded set.
        device: where to evaluate.

    Raises:
        CheckpointError, DataError: the run cannot be read, or the images are others; BudgetError: no network is within
            the bounds; ValueError: `among` is given to another method or is below 1, or a lower bound is above the
            upper one.
    """
    resumable, config = _supernet(given_path(run), dataset, data_root)
    given = {
        "max_parameters": max_parameters,
        "max_flops": max_flops,
        "min_parameters": min_parameters,
        "min_flops": min_flops,
        "min_share": min_share,
        "max_latency": max_latency,
        "latency_device": latency_device,
        "latency_threads": latency_threads,
        "latency_batch": latency_batch,
    }
    return _derive(resumable, config, method, among, given, device)


def _derive(
    resumable: Resumable,
    config: Config,
    method: Method,
    among: int | None,
    options: dict[str, Any],
    device: str = "cpu",
) -> Derived:
    if among is not None and method not in get_args(Measured):
        raise ValueError(f"among is a number of the methods {', '.join(get_args(Measured))}, got {among} for {method}")
    check_value("among", among, int | None, Bounds(least=1, most=10**5))
    for name in COUNTS:
        check_value(name, options[name], int | None, Bounds(least=1, most=MOST_COST))
    given = {name: value for name, value in options.items() if value is not None}
    place = torch.device(device)
    data = load_again(config, config.batch_size, config.seed, place)
    state = SearchState(ImageTask(config, data, place))
    config = dataclasses.replace(config, **{SETTINGS[name]: value for name, value in given.items()})
    resumable.restore(
        state, lambda _: None, to_train=False
    )  # what may make a run differ in rounding does not matter here
    said = {SETTINGS[name]: name for name in given}
    keeper = BudgetKeeper(config, data.image_size, [said.get(setting, setting) for setting in NAMES])
    path = state.best_path(keeper)  # a budget that cannot be kept is refused before the long part
    if method == "perturbation":
        scores = state.selector.logits().detach().softmax(1)
        none = [k for k, name in enumerate(state.selector.candidates) if name == "none"]
        scores = losses_without(scores, lambda weights: _mixture_accuracy(state, weights), config.seed, none)
        path = keeper.choose(state.network, scores)
    elif method != "argmax":
        path = state.final_path(among or config.derive_among or AMONG, keeper, method)
    network = of_images(state.network.derive(path))
    state.calibrate(network)
    network = pruned(network)
    cost = cost_of(network.spec, data.image_size)
    latency = network_latency(network.spec, data.image_size, keeper.target)
    return Derived(network.eval(), cost, latency, keeper.target, state.valid_accuracy(network), data, config)


def _supernet(run: Path, dataset: str | None, data_root: str | None) -> tuple[Resumable, Config]:
    """The supernet of a run, and the settings of the run with the place where its images lie now."""
    resumable = _newest_supernet(run)
    return resumable, moved(resume.placed(run, resumable.config), dataset, data_root)


def _newest_supernet(run: Path) -> Resumable:
    kept = run / "checkpoints" / "supernet.pt"
    if os.path.lexists(kept):
        return resume.resumable(kept, checkpoint.load(kept))
    resumable = resume.read(run, warn)
    progress = resumable.saved.get("progress")
    if isinstance(progress, dict) and progress.get("phase") == "optimize":
        raise CheckpointError(f"{run} has no supernet any more: {kept} is missing, and the network is derived already")
    return resumable


@torch.no_grad()
def _mixture_accuracy(state: SearchState, weights: Tensor) -> float:
    """Validation accuracy of the soft mixture under the statistics of each batch."""
    network = state.network.train()
    buffers = [buffer.clone() for buffer in network.buffers()]
    correct = images = 0
    for x, y in state.data.valid.batches(0, shuffle=False, augment=False):
        correct += int((network(x, weights).argmax(1) == y).sum())
        images += len(y)
    for buffer, before in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return correct / images


def _write(found: Derived, out: Path) -> None:
    """Raises OSError, ValueError and CheckpointError."""
    run_folder.clear(out)
    settings = yaml.safe_dump(found.config.to_dict(), sort_keys=False)
    write_atomically(out / "config.yaml", settings.encode())  # what retrain takes its data from
    data = found.data
    save(out, found.network, classes=data.classes, mean=data.mean, std=data.std, image_size=data.image_size)


@command
def main(arguments: Sequence[str]) -> int:
    """Derives, saves and prints. Returns the exit status: 0, or 2 after an error."""
    parser = Parser("derive", __doc__)
    parser.add_argument("run", metavar="RUN", help=f"The run folder of {spelled('train')}.")
    parser.add_argument(
        "--method", choices=get_args(Method), default="argmax", help="How operations are chosen; default: %(default)s."
    )
    parser.add_argument(
        "--among",
        type=int,
        metavar="N",
        help=f"validation, random and evolution measure so many; default: as in the run, or {AMONG}.",
    )
    bound: dict[str, Any] = {"type": int, "metavar": "N"}
    parser.add_argument("--max_parameters", help="The network has at most so many; default: as in the run.", **bound)
    parser.add_argument("--max_flops", help="An image takes at most so many; default: as in the run.", **bound)
    parser.add_argument("--dataset", metavar="TEXT", help="imagefolder:PATH or csv:PATH; default: as in the run.")
    parser.add_argument("--data_root", metavar="FOLDER", help="Where downloaded sets are kept; default: as in the run.")
    parser.add_argument("--min_parameters", help="The network has at least so many; default: as in the run.", **bound)
    parser.add_argument("--min_flops", help="An image takes at least so many; default: as in the run.", **bound)
    parser.add_argument(
        "--min_share", type=float, metavar="X", help="Of the dearest network's FLOPs, at least; default: as in the run."
    )
    parser.add_argument(
        "--max_latency",
        type=float,
        metavar="MS",
        help="The network takes at most so many milliseconds, as its candidates are timed; default: as in the run.",
    )
    place: dict[str, Any] = {"help": "Where latencies are timed; default: as in the run."}
    parser.add_argument("--latency_device", choices=["cpu", "cuda"], **place)
    parser.add_argument("--latency_threads", type=int, metavar="N", **place)
    parser.add_argument("--latency_batch", type=int, metavar="N", **place)
    parser.add_argument("--out", metavar="FOLDER", help="The folder to write; default: RUN/derived-METHOD.")
    parser.add_argument("--overwrite", action="store_true", help="Replace what --out holds of a run or a derivation.")
    given = parser.parse_args(arguments)
    run = given_path(given.run)
    out = given_path(given.out or run / f"derived-{given.method}")
    if out.resolve() == run.resolve():
        raise ValueError(f"--out {out} is the run itself, whose trained network would be lost: give another folder")
    resumable, config = _supernet(run, given.dataset, given.data_root)
    require_outside(config, out)
    options = {name: getattr(given, name) for name in SETTINGS}
    with run_folder.claimed(out):
        if not given.overwrite:
            run_folder.require_empty(out)
        found = _derive(resumable, config, given.method, given.among, options)
        _write(found, out)
    print(f"operations: {', '.join(found.network.operations)}")
    print(f"{found.cost.parameters:,} parameters, {found.cost.flops:,} FLOPs an image")
    print(f"latency {found.latency.low / PER_MILLISECOND:.3g} ms ({found.target.words})")
    print(f"validation accuracy with the supernet's weights {found.valid_accuracy:.2%}; written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
