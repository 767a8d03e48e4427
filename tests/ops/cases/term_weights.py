from torch import Tensor, nn

from asose_fast.ops.term_weights import term_weights
from tests.ops.cases import Case, Images, random

ORDER = [2, 0, -1]


def raw_calls(images: Images) -> dict[str, dict[str, object]]:
    blend = {"weights": images.accumulated(4), "gain": images.accumulated(1)[0], "order": ORDER, "identity": 3}
    return {
        "term_weights_fwd": {**blend, "dtype": images.accumulation},
        "term_weights_bwd": {"grad": images.accumulated(3), **blend},
    }


def case() -> Case:
    def run(weights: Tensor, gain: Tensor) -> Tensor:
        return term_weights(weights, gain.sum(), ORDER, 3, weights.dtype, weights)

    return run, [random(4), random(1)], nn.ModuleList()


DIFFERENTIABLE = {"term_weights": case}
