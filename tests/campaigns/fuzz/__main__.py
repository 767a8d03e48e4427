"""`python -m tests.campaigns.fuzz --seconds 600 --seed 0`: every target in turn, then the loaders guided by coverage.

Prints how many inputs each target took and refused. The exit status is 1 where there was a finding.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys
import warnings

import torch
import torch._dynamo  # by torch.optim: imported once, ahead of the copies of this process
import torch.utils.tensorboard
from rich.console import Console
from rich.table import Table

from tests.campaigns.fuzz import folders, guided, loaders, operators, registered
from tests.campaigns.fuzz.worker import fuzz


def main() -> int:
    """Runs the campaign that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together; 0: one round each")
    parser.add_argument("--examples", type=int, default=100, help="inputs of a round")
    parser.add_argument("--seed", type=int, default=0, help="number of the first round")
    parser.add_argument("--only", default="", help="targets whose name has this in it")
    settings = parser.parse_args()
    os.environ["PYTHONHASHSEED"] = "0"
    torch.set_num_threads(1)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    targets = [
        t
        for t in (*loaders.targets(), *folders.targets(), *operators.targets(), *registered.targets())
        if settings.only in t.name
    ]
    names = [name for name in guided.LOADERS if settings.seconds and settings.only in f"guided: {name}"]
    share = settings.seconds / (len(targets) + len(names))
    table = Table(
        "target", "inputs", "taken", "refused", "findings", title=f"{settings.seconds:g} s, seed {settings.seed}"
    )
    console, findings = Console(width=110), 0
    for target in targets:
        report = fuzz(target, share, settings.seed, settings.examples)
        findings += report.finding is not None
        if report.finding:
            console.print(report.finding, markup=False, highlight=False, soft_wrap=True)
        counts = (report.taken + report.refused, report.taken, report.refused, int(report.finding is not None))
        table.add_row(target.name, *(f"{count:,}" for count in counts))
    for name in names:
        guided_report = guided.fuzz(name, share, settings.seed)
        findings += guided_report.finding is not None
        if guided_report.finding:
            console.print(guided_report.finding, markup=False, highlight=False, soft_wrap=True)
        table.add_row(f"guided: {name}", guided_report.inputs, "", "", str(int(guided_report.finding is not None)))
    console.print(table)
    return int(findings > 0)


if __name__ == "__main__":
    sys.exit(main())
