"""The text of model.py has the parts of `plain.py` that a network uses, and the network made of them."""

from __future__ import annotations

import inspect

from asose_fast.export import plain
from asose_fast.export.errors import ExportError
from asose_fast.space.block import BlockSpec, EvolvableBlock
from asose_fast.space.candidates import FactorizedReduce
from asose_fast.space.genotype import Genotype
from asose_fast.space.network import Network

_OPERATIONS: dict[str, str] = {
    "none": "Zero(stride={stride})",
    "avg_pool_3x3": "AvgPool({channels}, stride={stride})",
    "max_pool_3x3": "MaxPool({channels}, stride={stride})",
    "skip_connect": "nn.Identity()",
    "sep_conv_3x3": "SepConv({channels}, 3, stride={stride})",
    "sep_conv_5x5": "SepConv({channels}, 5, stride={stride})",
    "sep_conv_7x7": "SepConv({channels}, 7, stride={stride})",
    "dil_conv_3x3": "DilConv({channels}, 3, stride={stride})",
    "dil_conv_5x5": "DilConv({channels}, 5, stride={stride})",
    "conv_7x1_1x7": "Conv7x1({channels}, stride={stride})",
    "nor_conv_1x1": "NorConv({channels}, 1, stride={stride})",
    "nor_conv_3x3": "NorConv({channels}, 3, stride={stride})",
    "res_conv_3x3": "ResConv({channels}, 3, stride={stride})",
    "mbconv_3x3_e3": "MBConv({channels}, 3, expansion=3, stride={stride})",
    "mbconv_3x3_e6": "MBConv({channels}, 3, expansion=6, stride={stride})",
    "mbconv_5x5_e3": "MBConv({channels}, 5, expansion=3, stride={stride})",
    "mbconv_5x5_e6": "MBConv({channels}, 5, expansion=6, stride={stride})",
    "mbconv_3x3_e3_se": "MBConv({channels}, 3, expansion=3, stride={stride}, squeeze=True)",
    "mbconv_5x5_e6_se": "MBConv({channels}, 5, expansion=6, stride={stride}, squeeze=True)",
}
_PARTS = (
    plain.Normalize,
    plain.Zero,
    plain.AvgPool,
    plain.MaxPool,
    plain.FactorizedReduce,
    plain.SepConv,
    plain.DilConv,
    plain.Conv7x1,
    plain.SqueezeExcite,
    plain.MBConv,
    plain.NorConv,
    plain.ResConv,
    plain.Block,
    plain.ConvBlock,
)

_INDENT = " " * 12

_TEMPLATE = '''\
"""A network for images of {classes} classes, derived by asose_fast.

It has {depth} blocks and {parameters:,} parameters, and needs torch alone. Its weights are in the
file beside this one whose name ends in .pt.

    network = load()
    scores = network({argument})  # score c is that of CLASSES[c], before the softmax

Images are (N, {channels}, H, W), float32, upright, with values from 0 to 1.{size}
"""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

CLASSES = {names}
MEAN = {mean}
STD = {std}
IMAGE_SIZE = {side}


{parts}


class Network(nn.Module):
    """Scores (N, {classes}) of images (N, {channels}, H, W){normalized}."""

    def __init__(self) -> None:
        super().__init__(){normalize}
        self.stem = nn.Sequential(
            nn.Conv2d({channels}, {stem}, {stem_window}, bias=False),
            nn.BatchNorm2d({stem}{unscaled}),{stem_pool}
        )
        self.blocks = nn.Sequential(
{blocks}
        )
        self.head = nn.Sequential(
{head_norm}            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear({features}, {classes}),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem({first})
        scores: Tensor = self.head(self.blocks(x))
        return scores


def load(weights: str | Path | None = None) -> Network:
    """The trained network, in evaluation mode, with the weights beside this file or others."""
    network = Network()
    path = weights or Path(__file__).with_suffix(".pt")
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()
'''


def model_source(genotype: Genotype, network: Network, with_normalization: bool) -> str:
    """Returns a Python module with a class `Network` of the same state_dict as `network`, and `load()`.

    With normalization, `Network` takes values from 0 to 1; without it, what the module's `Normalize` makes of them.
    Raises ExportError for a candidate that is unknown here.
    """
    spec, size = network.spec, genotype.image_size
    blocks = network.evolvable_blocks()
    stages = spec.skeleton == "stages"
    operations = [_operation(block) for block in blocks]
    used = {call.partition("(")[0] for call in operations} | {"Normalize", "Block"}
    used |= {_kind(block.spec) for block in blocks} | ({"SqueezeExcite"} if "MBConv" in used else set())
    return _TEMPLATE.format(
        classes=spec.classes,
        depth=len(blocks),
        parameters=sum(p.numel() for p in network.parameters()),
        argument="images" if with_normalization else "Normalize()(images)",
        channels=spec.in_channels,
        size=f" Those of the training were {size}x{size}." if size else "",
        names=_tuple([_literal(name) for name in genotype.classes]),
        mean=_tuple([repr(value) for value in genotype.mean]),
        std=_tuple([repr(value) for value in genotype.std]),
        side=size,
        parts="\n\n".join(inspect.getsource(part) for part in _PARTS if part.__name__ in used).rstrip(),
        normalized=" with values from 0 to 1" if with_normalization else " that went through Normalize",
        normalize="\n        self.normalize = Normalize()" if with_normalization else "",
        stem=spec.stem_channels,
        stem_window=_window(spec.stem_kernel, spec.stem_stride),
        unscaled="" if stages else ", affine=False",
        stem_pool=f"\n{_INDENT}nn.MaxPool2d(2, ceil_mode=True)," if spec.stem_pool else "",
        head_norm="" if stages else f"{_INDENT}nn.BatchNorm2d({spec.blocks[-1].out_channels}),\n",
        blocks="\n".join(map(_block, blocks, operations)),
        features=spec.blocks[-1].out_channels,
        first="self.normalize(images)" if with_normalization else "images",
    )


def _window(kernel: int, stride: int) -> str:
    """Returns the arguments of a convolution of this kernel that keeps the image's side, divided by the stride."""
    return f"{kernel}, {f'{stride}, ' if stride > 1 else ''}padding={kernel // 2}"


def _kind(spec: BlockSpec) -> str:
    """Returns the class of a block."""
    return "ConvBlock" if spec.project and spec.kernel == 3 else "Block"


def _operation(block: EvolvableBlock) -> str:
    """Returns the expression that builds the operation of a derived block."""
    (name,) = block.spec.candidates
    if name not in _OPERATIONS:
        raise ExportError(f"cannot export the operation {name!r}: known are {', '.join(_OPERATIONS)}")
    operation = block.mixed.ops[name]
    if isinstance(operation, FactorizedReduce):
        return f"FactorizedReduce({operation.even.out_channels}, {operation.odd.out_channels})"
    return _OPERATIONS[name].format(channels=block.spec.in_channels, stride=block.spec.stride)


def _block(block: EvolvableBlock, operation: str) -> str:
    """Returns the line that builds a derived block, or the lines where it projects."""
    spec = block.spec
    name, stride = f'"{spec.candidates[0]}"', f"stride={spec.stride}"
    if block.project is None:
        return f"{_INDENT}Block({name}, {operation}, {stride}),"
    arguments = [name, operation, stride, f"project=({spec.in_channels}, {spec.out_channels})"]
    if spec.pool:
        arguments.append("pool=True")
    lines = "".join(f"{_INDENT}    {argument},\n" for argument in arguments)
    return f"{_INDENT}{_kind(spec)}(\n{lines}{_INDENT}),"


def _literal(text: str) -> str:
    """Returns a Python string literal in double quotes, unless the text has some itself."""
    literal = repr(text)
    return literal if '"' in literal else f'"{literal[1:-1]}"'


def _tuple(items: list[str]) -> str:
    """Writes a tuple on one line, or on a line for each item where that would be long."""
    line = f"({', '.join(items)}{',' * (len(items) == 1)})"
    return line if len(line) <= 78 else "(\n" + "".join(f"    {item},\n" for item in items) + ")"
