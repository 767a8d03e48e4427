from functools import partial

from torch import Tensor, nn

from asose_fast import ops
from tests.ops.cases import Case, random
from tests.ops.cases.mixed_norm_sum import NORMS
from tests.ops.test_mixed_layer import KINDS, new_norm


def case(kind: str, pool: int) -> Case:
    norm = new_norm(3, **KINDS[kind]).double()

    def run(x: Tensor, weight: Tensor, *_: Tensor) -> Tensor:
        return ops.conv_norm(x, weight, norm, relu=True, pool=pool)

    return run, [random(2, 2, 3, 4), random(3, 2, 3, 3)], nn.ModuleList([norm])


def blend(kind: str) -> Case:
    norm = new_norm(3, **KINDS[kind]).double()

    def run(x: Tensor, weight: Tensor, shortcut: Tensor, gain: Tensor, *_: Tensor) -> Tensor:
        return ops.conv_norm(x, weight, norm, stride=2, shortcut=shortcut, gain=gain)

    tensors = [random(2, 2, 3, 4), random(3, 2, 3, 3), random(2, 3, 2, 2), random()]
    return run, tensors, nn.ModuleList([norm])


DIFFERENTIABLE = {f"conv_norm {pool} {kind}": partial(case, kind, pool) for kind in NORMS for pool in (1, 2)} | {
    f"conv_norm blend {kind}": partial(blend, kind) for kind in NORMS
}
