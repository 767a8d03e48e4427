from __future__ import annotations

from tests.ops.cases import Images


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    lists = {name: [images.table(), images.table(images.channels)] for name in ("parameters", "gradients", "momenta")}
    numbers = {"bound": 5.0, "rate": 0.1, "momentum": 0.9, "decay": 3e-4, "nesterov": True}
    return {"sgd": {**lists, "norm": images.accumulated(), **numbers}}
