"""Beside other implementations of a search: `python -m benchmarks.peers PATH [--algorithm darts|gdas] [--batch 16]`

PATH is a checkout of github.com/quark0/darts or of github.com/automl/ConfigurableOptimizer (confopt). Theirs and ours
search the space of DARTS on the same images from the same weights: an alpha step, then a weight step. By `darts`, at
first order, both are of the soft mixture; by `gdas`, which confopt has too, both run one sampled candidate an edge, the
same in theirs and ours. First the losses, the gradients and the weights after both steps are compared, in float64, then
the times, interleaved in this process, then the peaks of memory, each in a process of its own. "ours, sampled" is the
same network under straight-through sampling, our default, which is another algorithm: its weight steps run one
candidate an edge.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from asose_fast.space.replay import RARE
from benchmarks import measure, record
from benchmarks.measure import Duration, interleaved, ratio
from benchmarks.memory import peak_in_fresh_process
from benchmarks.peers.agreement import Agreement
from benchmarks.peers.confopt import Confopt
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import Peer, Size
from benchmarks.peers.quark0 import Quark0
from benchmarks.peers.variants import Given, make, prepare, seeded, variants_of

PEERS: tuple[type[Peer], ...] = (Quark0, Confopt)
EPOCHS, IMAGES = 50, 25_000
"""Of a search in the paper of DARTS: half of CIFAR-10's training images for the weights, the other half for alpha."""
Report = Callable[[str, object], None]


def compare(given: Given, row: str, report: Report) -> bool:
    """Whether theirs and ours do the same work."""
    agreement = Agreement.of(make(*given, "theirs, NCHW"), make(*given, "ours"))
    report(f"{row}: loss, theirs and ours", f"{agreement.theirs:.6f} {agreement.ours:.6f}")
    report(f"{row}: difference of the gradients, of their norm", f"{agreement.gradient:.1e}")
    report(f"{row}: difference of the weights after both steps, of their norm", f"{agreement.weights:.1e}")
    return agreement.is_close()


def time(given: Given, row: str, report: Report, rounds: int) -> None:
    """Times every variant."""
    names, batch = list(variants_of(given.algorithm)), given.size.batch
    made = {name: make(*given, name) for name in names}
    for variant in made.values():
        if isinstance(variant, Ours):  # until a step of all candidates is what it then stays
            for _ in range(RARE + 1):
                variant.step()
    times = interleaved({name: seeded(variant.step) for name, variant in made.items()}, rounds, 1)
    for name in names:
        seconds = statistics.median(times[name])
        report(f"{row}, {name}", Duration(seconds))
        # Every step sees a batch for alpha and one for the weights, an epoch every image of either half once.
        report(f"{row}, {name}: images/s", f"{2 * batch / seconds:.1f}")
        report(f"{row}, {name}: {EPOCHS} epochs", f"{EPOCHS * IMAGES / batch * seconds / 3600:.1f} h")
        if name.startswith("theirs"):
            report(f"{row} / {name}", ratio(times[name], times["ours"]))
            if "ours, sampled" in times:
                report(f"{row}, sampled / {name}", ratio(times[name], times["ours, sampled"]))


def weigh(given: Given, row: str, report: Report) -> None:
    """Measures the memory of every variant."""
    for name in variants_of(given.algorithm):
        peak = peak_in_fresh_process(prepare, *given, name, pool=False)
        report(f"{row}, {name}: peak, live tensors", measure.Size(peak.tensors))
        report(f"{row}, {name}: peak, resident", measure.Size(peak.resident))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, metavar="PATH")
    parser.add_argument("--algorithm", choices=["darts", "gdas"], default="darts")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["time", "memory"], help="the comparison is for the time")
    parser.add_argument("--json", type=Path, metavar="F", default=record.ROOT / ".benchmarks" / "peers.jsonl")
    options = parser.parse_args()
    peer = next((peer for peer in PEERS if (options.path / peer.mark).exists()), None)
    if peer is None:
        marks = ", ".join(f"{peer.mark} ({peer.name})" for peer in PEERS)
        parser.error(f"{options.path} is no checkout of another implementation: it has none of {marks}")
    if options.algorithm not in peer.algorithms:
        parser.error(f"{peer.name} has no {options.algorithm}, but {', '.join(peer.algorithms)}")
    size = Size(options.batch, options.channels, options.cells)
    given = Given(peer, options.path.resolve(), size, options.algorithm)
    row = f"{peer.name}, {options.algorithm}, {size.cells} cells, C={size.channels}, batch {size.batch}, both steps"
    rows: list[record.Row] = []

    def report(name: str, value: object) -> None:
        rows.append(record.row_of(name, value))
        print(f"{name:90s} {value}", flush=True)

    if options.only != "memory":
        if not compare(given, row, report):
            print("not the same work: nothing is measured", file=sys.stderr)
            return 1
        time(given, row, report, options.rounds)
    if options.only != "time":
        weigh(given, row, report)
    record.append(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
