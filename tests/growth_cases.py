"""Random networks, random growths, and how far a grown network's outputs are from what they were.

`python -m tests.growth_cases 2000 --first 1000` runs more cases than the suite does, and prints the largest difference.
"""

from __future__ import annotations

import argparse
import copy
import random
from typing import NamedTuple

import torch
from torch import Tensor

from asose_fast.config import SPACE_CANDIDATES, SpaceConfig
from asose_fast.space import BlockSpec, Network, NetworkSpec
from asose_fast.space.widen import widen

KINDS = ("deeper", "wider", "branch")


def random_spec(rng: random.Random, space: str = "chain") -> NetworkSpec:
    """1 to 4 blocks of 2 to 9 channels and random strides, with 1 to 5 candidates in random order; those of stages
    have the strides and the widths of that space."""
    names = tuple(rng.sample(SPACE_CANDIDATES[space], rng.randint(1, 5)))
    if space == "stages":
        config = SpaceConfig(space=space, channels=rng.randint(2, 4), depth=rng.randint(1, 5), candidates=names)
        return NetworkSpec.stages(config, rng.randint(1, 3), rng.randint(2, 5), rng.choice([4, 8, 16, 32]))
    blocks, stem = [], rng.randint(2, 7)
    channels = stem
    for _ in range(rng.randint(1, 4)):
        after = rng.choice([channels, channels, rng.randint(2, 9)])
        blocks.append(BlockSpec(names, channels, after, rng.choice([1, 1, 2])))
        channels = after
    return NetworkSpec(rng.randint(1, 3), rng.randint(2, 5), stem, tuple(blocks))


@torch.no_grad()
def randomize(network: Network) -> Network:
    """Gives every parameter and statistic a value that none has at the start."""
    for p in network.parameters():
        p += torch.randn_like(p) * (2 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.5 * torch.randn_like(p)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.5)
        elif name.endswith("running_var"):
            buffer.uniform_(0.2, 1)
    return network


class Case(NamedTuple):
    """A network as it was, as it is, and inputs for both."""

    before: Network
    grown: Network
    kinds: list[str]
    x: Tensor
    soft: tuple[Tensor, Tensor]
    """Architecture weights of both; those of new candidates are 0, of new blocks whatever they are."""
    paths: tuple[list[int], list[int]]


def random_case(seed: int, space: str = "chain") -> Case:
    """One to four growths; float32 in every fourth case, else float64."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    dtype = torch.float32 if seed % 4 == 0 else torch.float64
    before = randomize(Network(random_spec(rng, space)).to(dtype, memory_format=torch.channels_last))
    soft = torch.rand(len(before.blocks), len(before.spec.blocks[0].candidates), dtype=dtype).softmax(1)
    path = [rng.randrange(soft.shape[1]) for _ in soft]
    grown, rows, grown_path = copy.deepcopy(before), soft, list(path)
    kinds = [rng.choice(KINDS) for _ in range(rng.randint(1, 4))]
    for kind in kinds:
        spec = grown.spec
        if kind == "deeper":
            position = rng.randint(0, len(spec.blocks))
            randomize_new(grown.deepen(position))
            row = torch.rand(1, rows.shape[1], dtype=dtype).softmax(1)
            rows = torch.cat([rows[:position], row, rows[position:]])
            grown_path.insert(position, rng.randrange(rows.shape[1]))
        elif kind == "wider":
            stage = rng.randrange(len(spec.widths))
            factor = rng.choice([1.1, 1.5, 2, 2.3, 3])
            channels = max(spec.widths[stage] + 1, round(spec.widths[stage] * factor))
            widen(grown, stage, channels, noise=rng.choice([0, 0, 0.3]))
            assert grown.spec == spec.wider(stage, channels)
        elif left := [name for name in SPACE_CANDIDATES[space] if name not in spec.blocks[0].candidates]:
            name = rng.choice(left)
            grown.add_candidate(name)
            rows = torch.cat([rows, rows.new_zeros(len(rows), 1)], 1)
            assert grown.spec == spec.with_candidate(name)
    size = rng.randint(5, 9)
    x = 2 * torch.randn(rng.randint(3, 4), spec.in_channels, size, size, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    return Case(before, grown, kinds, x, (soft, rows), (path, grown_path))


@torch.no_grad()
def randomize_new(block: torch.nn.Module) -> None:
    """Anything may be in a new block but a gain."""
    for name, p in block.named_parameters():
        if name != "gain":
            p += torch.randn_like(p)


PLANS = ("soft", "soft, fused", "sampled", "sampled, fused", "derived")


@torch.no_grad()
def outputs(network: Network, case: Case, side: int, plan: str) -> Tensor:
    """What a network of a case gives for the architecture weights and path of its side."""
    for block in network.evolvable_blocks():
        block.mixed.fused = plan.endswith("fused")
    if plan == "derived":
        return network.derive(case.paths[side])(case.x)
    if plan.startswith("soft"):
        return network(case.x, case.soft[side])
    return network(case.x, path=case.paths[side])


def differences(case: Case) -> dict[str, float]:
    """Largest differences of outputs over the largest output, by plan and mode.

    What a network gives in evaluation mode, which comes first, depends on its running statistics; in training mode
    it does not.
    """
    found: dict[str, float] = {}
    for training in (False, True):
        case.before.train(training)
        case.grown.train(training)
        old: dict[str, Tensor] = {}
        for plan in PLANS:
            kind = plan.removesuffix(", fused")
            if kind not in old:
                old[kind] = outputs(case.before, case, 0, kind)
            error = (outputs(case.grown, case, 1, plan) - old[kind]).abs().max() / old[kind].abs().max()
            found[f"{plan}, {'train' if training else 'eval'}"] = float(error)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=int, help="how many")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--space", choices=("chain", "stages"), default="chain")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    worst: dict[tuple[str, torch.dtype], tuple[float, int]] = {}
    for seed in range(arguments.first, arguments.first + arguments.cases):
        case = random_case(seed, arguments.space)
        for name, error in differences(case).items():
            key = name, case.x.dtype
            worst[key] = max(worst.get(key, (0.0, seed)), (error, seed))
    for (name, dtype), (error, seed) in sorted(worst.items(), key=str):
        print(f"{name:22} {dtype!s:14} {error:.1e} in case {seed}")


if __name__ == "__main__":
    main()
