from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from tests.ops.cases import Case
from tests.ops.cases.mixed_norm_sum import NORMS
from tests.ops.test_mixed_layer import Layer


def case(kinds: tuple[str, ...], **options: bool) -> Case:
    layer = Layer(2, 1, (2, 1), kinds=kinds, dense=1)

    def run(x: Tensor, weights: Tensor, plain_weights: Tensor, z: Tensor, plain: Tensor, *_: Tensor) -> Tensor:
        return layer(x, weights, zs=[z], plain=[x, plain], plain_weights=plain_weights, **options)

    values, _ = layer.values((2, 2, 4, 4), shortcut=True)
    return run, list(values.values()), nn.ModuleList([layer])


DIFFERENTIABLE = {f"mixed_layer {kind}": partial(case, (kind,), recompute=False) for kind in NORMS} | {
    "mixed_layer recompute": partial(case, ("affine", "eval"), recompute=True)
}
