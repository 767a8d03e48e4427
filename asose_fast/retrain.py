"""Trains a derived architecture from scratch.

GENOTYPE is a run folder, its `genotype.json`, or an architecture of cells in the text format of DARTS or
NAS-Bench-201, as it is or in a file. The images are those of the run unless options say otherwise. Killed
and called again with the same options and --out, it goes on from the last epoch's end.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from asose_fast import checkpoint_folder, derived, files, run_folder
from asose_fast.checkpoint import CheckpointError, write_atomically, write_json
from asose_fast.command import command, warn
from asose_fast.data import Data, load_data
from asose_fast.data.config import DataConfig
from asose_fast.machine import refused
from asose_fast.options import SettingsParser
from asose_fast.paths import given_path
from asose_fast.search.device import device_named
from asose_fast.search.processes import started
from asose_fast.search.retrainer import Record, RetrainConfig, Retrainer
from asose_fast.space.build import Spec
from asose_fast.space.cells.genotype import from_text, is_text
from asose_fast.space.cells.spec import Kind
from asose_fast.terminal import make_console

EVALUATION: dict[Kind, tuple[int, int]] = {"darts": (36, 20), "nasbench201": (16, 5)}
"""Channels and cells of the networks that published architectures are trained in."""


@command
def main(arguments: Sequence[str]) -> int:
    """Trains or goes on training. Returns the exit status: 0, or 2 after an error."""
    options = parser()
    words = options.words(arguments)
    folder, architecture = _architecture(options.parse_args(words).genotype)
    options.set_defaults(_data_settings(folder))
    settings = options.parse_args(words)
    if not settings.dataset:
        raise ValueError(f"there is no {folder}/config.yaml that says which images it is of: give --dataset")
    config = RetrainConfig(**{field.name: settings[field.name] for field in dataclasses.fields(RetrainConfig)})
    name = f"retrain-{time.strftime('%Y%m%d-%H%M%S')}"
    new = (folder or Path("runs")) / name
    with run_folder.claimed(given_path(settings.out or new), new=settings.out is None) as out:
        _check_out(out, folder, settings.overwrite)
        _run(config, architecture, out, make_console(), settings.overwrite)
    return 0


def parser() -> SettingsParser:
    """The options of the training, with those of its images."""
    options = SettingsParser("retrain", __doc__, "GENOTYPE")
    options.add_argument(
        "genotype", metavar="GENOTYPE", help="A run folder, its genotype.json, or the text of a genotype of cells."
    )
    options.add_argument(
        "--out", type=str | None, metavar="FOLDER", help="The folder to write; default: RUN/retrain-TIME."
    )
    options.add_argument(
        "--overwrite",
        type=bool,
        default=False,
        help="Begin anew though --out is not empty, and replace what a run or a training has left there.",
    )
    options.add_settings(RetrainConfig)
    return options


def _architecture(word: str) -> tuple[Path | None, Spec | str]:
    """The run folder and its architecture, or no folder and a text of cells."""
    if is_text(word):
        return None, word
    path = given_path(word)
    folder = path if path.is_dir() else path.parent
    if path.exists() and not path.is_dir() and path.name != derived.GENOTYPE:
        text = files.read(path, files.MOST_SETTINGS).decode(errors="replace")
        if is_text(text):
            return None, text
    if not path.is_dir() and path.name != derived.GENOTYPE:
        raise ValueError(f"{path} is neither a run folder nor a {derived.GENOTYPE}, nor a file with a genotype's text")
    return folder, derived.load_genotype(folder).network


def _spec(architecture: Spec | str, config: RetrainConfig, data: Data) -> Spec:
    """Of a text, the evaluation network of the published size for its space, unless the config has another."""
    if not isinstance(architecture, str):
        return architecture
    kind: Kind = "nasbench201" if architecture.lstrip().startswith("|") else "darts"
    channels, cells = config.channels or EVALUATION[kind][0], config.cells or EVALUATION[kind][1]
    return from_text(architecture, in_channels=data.channels, classes=len(data.classes), channels=channels, cells=cells)


def _data_settings(folder: Path | None) -> dict[str, Any]:
    """Those of the run in `folder`, which hold where no option says otherwise; no dataset where it does not say."""
    if folder is None:
        return {}
    path, names = folder / "config.yaml", [field.name for field in dataclasses.fields(DataConfig)]
    if not os.path.lexists(path):
        return {"dataset": ""}
    run = files.read_settings(path)
    if missing := [name for name in names if name not in run]:
        raise ValueError(f"{path} is damaged: {', '.join(missing)} of the images are missing")
    values = {name: run[name] for name in names}
    try:
        DataConfig(**values)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return values


def _check_out(out: Path, run: Path | None, overwrite: bool) -> None:
    """Raises ValueError for the run itself, and FileExistsError for a folder with something else than a training."""
    if run is not None and out.resolve() == run.resolve():
        raise ValueError(f"--out {out} is the run whose architecture is trained: give another folder")
    if not overwrite and not checkpoint_folder.holds_checkpoints(out / "checkpoints"):
        run_folder.require_empty(out)


def _run(config: RetrainConfig, architecture: Spec | str, out: Path, console: Console, overwrite: bool) -> None:
    if started() > 1:
        raise ValueError(f"retraining runs in one process, and torchrun has started {started()}: start it with python")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = device_named(config.device)
    data = load_data(config, config.batch_size, config.seed, device)
    for note in data.notes:
        warn(note)
    spec = _spec(architecture, config, data)
    try:
        retrainer = Retrainer(config, spec, data, device)
    except (RuntimeError, MemoryError) as error:  # of an architecture that is larger than the memory
        raise ValueError(f"the network cannot be built: {str(error).splitlines()[0]}") from error
    checkpoints = out / "checkpoints"
    if overwrite:
        run_folder.clear(out)
    if checkpoint_folder.holds_checkpoints(checkpoints):
        path, state = checkpoint_folder.load_newest(checkpoints, warn)
        try:
            retrainer.load_state_dict(state)
        except Exception as error:  # the file is whole, but not what a training wrote
            raise CheckpointError(f"cannot go on from {path}: {error}") from error
        console.print(f"going on after {len(retrainer.history)} of {config.epochs} epochs", soft_wrap=True)
    checkpoints.mkdir(parents=True, exist_ok=True)
    operations = ", ".join(retrainer.network.operations)
    console.print(f"{out}: {len(retrainer.images)} training images; {operations}", soft_wrap=True)

    def tell(record: Record) -> None:
        lines = "".join(json.dumps(one) + "\n" for one in retrainer.history)
        write_atomically(out / "metrics.jsonl", lines.encode())
        valid = f"  valid {record['valid_accuracy']:.1%}" if "valid_accuracy" in record else ""
        console.print(
            f"{record['epoch']:4d}/{config.epochs:<4d}  loss {record['train_loss']:.3f}  train "
            f"{record['train_accuracy']:.1%}{valid}  {record['images_per_second']:.0f} images/s",
            soft_wrap=True,
        )

    try:
        retrainer.run(tell, checkpoints)
    except Exception as error:
        if (what := refused(error)) is None:
            raise
        raise CheckpointError(
            f"{what}. When that is mended, the same command with --out {out} goes on from the last epoch's end"
        ) from error
    network = retrainer.network.eval()
    test_accuracy = retrainer.test_accuracy()
    images = {field.name: getattr(config, field.name) for field in dataclasses.fields(DataConfig)}
    write_atomically(out / "config.yaml", yaml.safe_dump(images, sort_keys=False).encode())  # for a further training
    derived.save(out, network, classes=data.classes, mean=data.mean, std=data.std, image_size=data.image_size)
    parameters = sum(p.numel() for p in network.parameters())
    last = retrainer.history[-1]
    summary = {
        "test_accuracy": test_accuracy,
        "valid_accuracy": last.get("valid_accuracy"),
        "train_accuracy": last["train_accuracy"],
        "operations": list(network.operations),
        "parameters": parameters,
        "seconds": sum(record["seconds"] for record in retrainer.history),
        "settings": dataclasses.asdict(config),
    }
    write_json(out / "summary.json", summary)
    console.print(f"test accuracy {test_accuracy:.2%} ({parameters:,} parameters); results in {out}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
