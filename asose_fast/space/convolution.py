"""The convolutions of the candidates have `same` padding and no bias."""

from __future__ import annotations

from torch import Tensor, nn

from asose_fast.ops.torch_faults import conv2d


class Conv2d(nn.Conv2d):
    """This is an nn.Conv2d of an odd kernel that is right where PyTorch's is not (`asose_fast.ops.torch_faults`). It
    puts as many zeros around its input as keep the size at stride 1."""

    stride: tuple[int, int]
    dilation: tuple[int, int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.zeros = dilation * (height - 1) // 2, dilation * (width - 1) // 2
        super().__init__(in_channels, out_channels, kernel, stride, self.zeros, dilation, groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return conv2d(x, self.weight, self.stride, self.zeros, self.dilation, self.groups)
