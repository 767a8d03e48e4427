"""norm_tables: as the modules normalise and count, those of every kind and one that is there twice."""

import copy

import pytest
import torch

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.norm_tables import norm_tables, norm_tables_fwd
from asose_fast.ops.norms import uses_batch
from tests.ops.test_mixed_layer import KINDS, new_norm

BACKENDS = [b for b in ("reference", "cpu", "triton") if not registry.why_not("norm_tables", b, "cpu")]


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_what_the_modules_do(dtype, backend, twice):
    norms = [new_norm(5, eps=10.0 ** -(3 + k), **kind).to(dtype) for k, kind in enumerate(KINDS.values())]
    norms += [norms[1]] * twice  # its running statistics move twice
    zs = [torch.randn(4, 5, 3, 3).double() + k for k in range(len(norms))]
    twins = copy.deepcopy(norms)
    mean = torch.stack([z.mean((0, 2, 3)) for z in zs])
    var = torch.stack([z.var((0, 2, 3), correction=0) for z in zs])
    with ops.backend(backend):
        of_batch = [uses_batch(norm) for norm in norms]
        got_mean, rstd = norm_tables(
            norms, of_batch, [mean[:1], mean[1:2]], [var[:1], var[1:2]], 36, torch.float64, zs=zs[2:]
        )
    for k, (norm, twin, z) in enumerate(zip(norms, twins, zs, strict=True)):
        used = (mean[k], var[k]) if of_batch[k] else (twin.running_mean.double(), twin.running_var.double())
        torch.testing.assert_close((got_mean[k], rstd[k]), (used[0], (used[1] + norm.eps).rsqrt()))
        twin(z.to(dtype))
    for norm, twin in zip(norms, twins, strict=True):
        for name, buffer in twin.named_buffers():
            tolerance = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
            torch.testing.assert_close(norm.get_buffer(name), buffer, **tolerance)


def test_a_count_of_another_dtype_is_left_to_pytorch():
    norm = new_norm(3)
    norm.num_batches_tracked = torch.tensor(4, dtype=torch.int32)
    operator = norm_tables_fwd.body
    zeros, ones = torch.zeros(2, 3).double(), torch.ones(2, 3).double()
    norm_tables([norm], [True], [zeros], [ones], 8, torch.float32, [1], operator)
    assert norm.num_batches_tracked.item() == 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_value_a_channel_has_no_unbiased_variance(backend):
    norm, zero = new_norm(3, momentum=1.0), torch.zeros(1, 3).double()
    with ops.backend(backend):
        norm_tables([norm], [True], [zero], [zero], 1, torch.float32)
    assert not norm.running_var.any()
