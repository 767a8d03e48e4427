"""How fast is arch_weights for all layers, beside the eager loop over layers?"""

import pytest
import torch

from asose_fast import ops
from benchmarks.baselines import eager_arch_weights
from benchmarks.measure import interleaved, ratio


@pytest.mark.parametrize("layers", [1, 6, 20])
def test_forward_and_backward(benchmark, report, with_compile, layers):
    logits = torch.randn(layers, 10, requires_grad=True)
    grad = torch.randn(layers, 10)

    def ours():
        ops.arch_weights(logits, 1.0, boost=ops.Boost()).weights.backward(grad)

    def eager():
        torch.stack(eager_arch_weights(logits.unbind(), 1.0)).backward(grad)

    variants = {"ours": ours, "eager": eager}
    if with_compile:
        compiled = torch.compile(lambda a: torch.stack(eager_arch_weights(a.unbind(), 1.0)))
        variants["compile"] = lambda: compiled(logits).backward(grad)
    times = interleaved(variants, rounds=50, warmup=10)
    report(f"arch_weights fwd+bwd L={layers} K=10 / eager loop", ratio(times["eager"], times["ours"]))
    if with_compile:
        report(f"arch_weights fwd+bwd L={layers} K=10 / torch.compile", ratio(times["compile"], times["ours"]))
    benchmark.pedantic(ours, rounds=50, warmup_rounds=5)
