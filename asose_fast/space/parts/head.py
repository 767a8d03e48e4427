"""The head of a network on kernels: what comes before the classifier, and the classifier."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.library import PLAIN, present
from asose_fast.ops.linear import has_kernels, linear
from asose_fast.ops.norm_relu_mean import norm_relu_mean
from asose_fast.space.exact import computes
from asose_fast.space.fit import Fit
from asose_fast.space.global_average import GlobalAverage
from asose_fast.space.parts.part import Found, Part, in_turn
from asose_fast.space.recognise import is_flattening, is_relu

LARGE = 1 << 15
"""Elements of a tensor from which on the operators are faster."""


class Head:
    """y = mean(relu(BN(x))) W^T + b, or without the norm or the classifier: on `norm_relu_mean` and `linear` where x is
    large and for them, else by the modules.
    """

    def __init__(self, norm: nn.BatchNorm2d | None, classifier: nn.Linear | None, modules: Sequence[Part]) -> None:
        self.norm, self.classifier, self.modules = norm, classifier, modules

    def __call__(self, x: Tensor) -> Tensor:
        fit = Fit.of(x)
        if not (
            x.numel() >= LARGE
            and (fit.takes(x) and (self.norm is None or fit.norm(self.norm, x.shape[1])))
            and registry.has_kernels("norm_relu_mean", x.device.type, x.dtype)
        ):
            return in_turn(self.modules, x)
        features = norm_relu_mean(x, self.norm)
        return features if self.classifier is None else _classified(self.classifier, features)


def _classified(classifier: nn.Linear, x: Tensor) -> Tensor:
    weight, bias = classifier.weight, classifier.bias
    if _fit(x, weight, bias) and has_kernels(x, weight):
        return linear(x, weight, bias, checked=True)
    y: Tensor = classifier(x)
    return y


def _fit(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Says whether the parameters are for the matrix x."""
    tensors = present((x, weight, bias))
    return (
        PLAIN.issuperset(map(type, tensors))
        and weight.shape == (*weight.shape[:1], x.shape[1])
        and (bias is None or bias.shape == weight.shape[:1])
        and all(t.dtype == x.dtype and t.device == x.device for t in tensors)
    )


def find_head(modules: Sequence[Part]) -> Found | None:
    """A ReLU, a global average and a flattening, with the norm before them where one is, and the classifier after them
    where that is next."""
    norm = modules[0] if computes(modules[0], nn.BatchNorm2d) else None
    count = 3 + (norm is not None)
    relu, average, flatten = (*modules[count - 3 : count], None, None, None)[:3]
    if not (is_relu(relu) and computes(average, GlobalAverage) and is_flattening(flatten)):
        return None
    after = modules[count] if len(modules) > count else None
    classifier = after if computes(after, nn.Linear) else None
    count += classifier is not None
    return Head(norm, classifier, modules[:count]), count
