"""The gradient of the whole batch, of which every process computes a part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast.engine.processes import Processes


def sum_gradients(
    processes: Processes, parameters: Sequence[Tensor], images: int, size_error: bool, *others: Tensor
) -> tuple[int, bool, list[Tensor]]:
    """Replaces the gradients of the processes' summed losses by that of the mean loss over all images:
    g = sum_r g_r / sum_r n_r, exact however unevenly the n_r images are divided.

    A parameter that has no gradient in any process keeps none, and its optimizer leaves it as it is; where some
    processes have one, it counts as 0 in the others. So the same code serves processes that share a sampled path, that
    have one each (g is then the mean over their samples), and that have no image at all.

    By hand, in one flat reduction: DistributedDataParallel would look for the parameters off the path in the graph of
    every step, average over processes and not images, and have to be built anew whenever the network changes.

    Args:
        processes: all of them call this with the same parameters.
        parameters: in one dtype, on the device of the run.
        images: n_r.
        size_error: of this process.
        others: scalars on the same device.

    Returns:
        The number of images of all processes, whether one had a size error, and the sums of `others`.
    """
    total, size_errors, *present = processes.total(images, size_error, *(p.grad is not None for p in parameters))
    gradients = []
    for p, there in zip(parameters, present, strict=True):
        if there and p.grad is None:
            p.grad = torch.zeros_like(p)
        if p.grad is not None:
            gradients.append(p.grad)
    dtype = gradients[0].dtype
    flat = torch.cat([*(g.reshape(-1) for g in gradients), *(other.detach().to(dtype).reshape(1) for other in others)])
    *sums, more = processes.sum(flat).split([*(g.numel() for g in gradients), len(others)])
    torch._foreach_copy_(gradients, [s.view_as(g) for s, g in zip(sums, gradients, strict=True)])
    torch._foreach_div_(gradients, max(1, total))
    return total, size_errors > 0, list(more.unbind())
