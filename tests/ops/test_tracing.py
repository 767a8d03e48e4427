"""The operators in a graph of PyTorch's own: torch.jit.trace and make_fx record the formulas."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from asose_fast import ops

DEPTHWISE, POINTWISE, LINE = torch.randn(4, 1, 3, 3), torch.randn(4, 4, 1, 1), torch.randn(4, 4, 1, 7)
NORM = nn.BatchNorm2d(4).eval().requires_grad_(False)
WEIGHTS = torch.tensor([0.0, 0.7])
CALLS = {
    "mixed_sum": lambda x: ops.mixed_sum([x, x.tanh()], WEIGHTS),
    "mixed_norm_sum": lambda x: ops.mixed_norm_sum([x], WEIGHTS[1:], [NORM], plain=[x.tanh()]),
    "norm_pool": lambda x: ops.norm_pool(x, NORM, 2),
    "multi_depthwise": lambda x: ops.multi_depthwise(x, [DEPTHWISE], dilations=[2], stride=2)[0],
    "separable": lambda x: ops.separable(x, [DEPTHWISE], [POINTWISE], dilations=[1])[0],
    "dense_conv": lambda x: ops.dense_conv(x, LINE, stride=2, relu=True),
    "line_conv": lambda x: ops.line_conv(x, LINE, relu=True),
    "pool_pair": lambda x: torch.cat(ops.pool_pair(x, stride=2)),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("trace", [torch.jit.trace, lambda call, x: make_fx(call)(x)], ids=["jit", "make_fx"])
@pytest.mark.parametrize("name", CALLS)
def test_a_traced_operator_gives_the_same_on_another_input(name, trace, grad):
    traced = trace(CALLS[name], torch.randn(2, 4, 6, 5, requires_grad=grad))
    x = torch.randn(2, 4, 6, 5)
    torch.testing.assert_close(traced(x), CALLS[name](x), rtol=1e-4, atol=1e-5)
    assert not any(n in str(traced.graph) for n in ("asose_fast::", "ops.asose_fast", "PythonOp"))
