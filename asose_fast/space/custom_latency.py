"""The candidates in a user's model take this long."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from asose_fast.space.copying import deepcopy
from asose_fast.space.custom import CustomNetwork
from asose_fast.space.latency import Latencies, Target, Timing, middle, running, timings


def custom_latencies(network: CustomNetwork, x: Any, target: Target) -> Latencies:
    """Times every candidate where it would run: in the model that has the first candidates everywhere, then the second
    ones, and so on. A mixed operation with fewer candidates has its last one in the models that are left.

    Where a row does not have a candidate, the latency of its first one stands. The model itself stays as it is.

    Args:
        network: the supernet; no mixed operation may be within a candidate of another one.
        x: what its model takes. Of a tensor the first `target.batch` examples are taken, of anything else all.
        target: where.

    Raises ValueError for a batch of too few examples, and for a device that is not there.
    """
    batch = _examples(x, target)
    own: list[list[Timing]] = [[] for _ in network.columns]
    rests = []
    with running(target):
        for k in range(max(map(len, network.columns))):
            path = [columns[min(k, len(columns) - 1)] for columns in network.columns]
            model = deepcopy(network.derive(path).model).to(target.device)
            rows, rest = timings(model, batch, [[model.get_submodule(name)] for name in network.mixed], target)
            for found, timing in zip(own, rows, strict=True):
                found.append(timing)
            rests.append(rest)
    table = network.by_column([found[: len(columns)] for found, columns in zip(own, network.columns, strict=True)])
    return Latencies(tuple(map(tuple, table)), middle(rests))


def _examples(x: Any, target: Target) -> Any:
    if not isinstance(x, Tensor):
        return x
    if len(x) < target.batch:
        raise ValueError(f"latency_batch must be at most {len(x)}, as many as a batch has, got {target.batch}")
    return x[: target.batch].to(target.device)
