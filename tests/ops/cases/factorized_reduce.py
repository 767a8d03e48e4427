from torch import nn

from asose_fast.space.factorized_reduce import factorized_reduce
from tests.ops.cases import Case, random


def case() -> Case:
    return factorized_reduce, [random(2, 3, 5, 4), random(2, 3, 1, 1), random(1, 3, 1, 1)], nn.ModuleList()


DIFFERENTIABLE = {"factorized_reduce": case}
