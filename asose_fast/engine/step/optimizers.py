"""Optimizers, their learning rates as a function of time, and their state by parameter name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asose_fast.config import Config
from asose_fast.engine.phases import Phase
from asose_fast.engine.step.sgd import SGD
from asose_fast.ops.dtypes import WIDE
from asose_fast.ops.library import PLAIN
from asose_fast.training_config import OptimizerConfig, RecipeConfig


def weight_optimizer(
    config: OptimizerConfig, network: nn.Module, recipe: RecipeConfig | None = None
) -> torch.optim.Optimizer:
    """SGD over all parameters of `network`, in one call for those that have a gradient: of our kernel for plain ones on
    the CPU.

    `recipe`: of a derived network; its `optimizer`, `nesterov` and `decay_norms` hold.
    """
    parameters = list(network.parameters())
    groups = parameters if recipe is None or recipe.decay_norms else _by_decay(parameters)
    if recipe is not None and recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            groups,
            config.learning_rate,
            betas=(config.momentum, 0.999),
            weight_decay=config.weight_decay,
            fused=_fused(parameters),
            capturable=all(p.is_cuda for p in parameters),
        )
    nesterov = recipe is not None and recipe.nesterov
    if all([type(p) in PLAIN and p.is_cpu and p.dtype in WIDE for p in parameters]):
        return SGD(groups, config.learning_rate, config.momentum, config.weight_decay, nesterov)
    optimizer = torch.optim.SGD(
        groups,
        config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=nesterov,
        fused=_fused(parameters),
    )
    optimizer.register_step_pre_hook(_start_momentum)
    return optimizer


def _by_decay(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """The groups of kernels and matrices, and of vectors and scalars, which do not decay."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1]},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def graphed_weight_optimizer(
    config: OptimizerConfig, network: nn.Module, device: torch.device, recipe: RecipeConfig | None = None
) -> torch.optim.Optimizer:
    """`weight_optimizer`, for steps that may become CUDA graphs: on a GPU its learning rate is kept there."""
    optimizer = weight_optimizer(config, network, recipe)
    if device.type == "cuda":
        on_device(optimizer)
    return optimizer


def _start_momentum(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Momentum 0 for a parameter's first gradient, the same as none: the fused step wants all of them or no one."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if group["momentum"] and p.grad is not None and p not in optimizer.state:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def alpha_optimizer(alpha: list[Tensor], learning_rate: float) -> torch.optim.Adam:
    """Adam(0.5, 0.999) over the alpha of all layers, so that a layer grown later has a step count of its own."""
    on_gpu = alpha[0].is_cuda  # in one launch; on the CPU the fused step would round otherwise, and gains nothing
    return torch.optim.Adam(alpha, learning_rate, betas=(0.5, 0.999), fused=on_gpu or None)


def _fused(parameters: Sequence[Tensor]) -> bool:
    return all(p.device.type in ("cpu", "cuda") for p in parameters)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Of all parameters, without waiting for the device where it is kept there (`on_device`)."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def on_device(optimizer: torch.optim.Optimizer) -> None:
    """Keeps the learning rate where the parameters are: a CUDA graph reads it there at every replay."""
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device)


def alpha_learning_rate(config: OptimizerConfig, alpha_steps: int) -> float:
    """The configured rate, or the automatic one for a search phase of `alpha_steps` alpha steps."""
    if config.alpha_learning_rate is not None:
        return config.alpha_learning_rate
    return min(0.1, max(3e-4, 12 / max(1, alpha_steps)))


def of_derived(config: Config) -> Config:
    """The settings of a run with the learning rate and the weight decay that its derived network has."""
    rate, decay = config.optimize_learning_rate, config.optimize_weight_decay
    return dataclasses.replace(
        config,
        learning_rate=config.learning_rate if rate is None else rate,
        weight_decay=config.weight_decay if decay is None else decay,
    )


def learning_rate(
    config: OptimizerConfig,
    phases: tuple[Phase, ...],
    phase: Phase,
    epochs_done: float,
    warmup_share: float = 0.0,
) -> float:
    """Cosine over warmup, search and growth together, all that trains the supernet, and one of its own over optimize,
    where a linear rise from 0 may come first:

        f < w: rate f / w,    else: rate (1 + cos(pi (f - w) / (1 - w))) / 2

    In the finals the rate is the one with which this begins to fall, so that every finalist has the same.

    Args:
        config: of the network that the phase trains (`of_derived`); its `learning_rate` is the highest.
        phases: all of them.
        phase: the present one.
        epochs_done: since the start of the run, fractions included; f is the share of optimize.
        warmup_share: w, the share of optimize in which the rate rises.
    """
    if phase.finals:
        return config.learning_rate
    derived = next((p.first for p in phases if p.derives), phases[-1].end)
    if phase.derives:
        lowest, fraction = 0.0, (epochs_done - derived) / (phases[-1].end - derived)
        if warmup_share and fraction < warmup_share:
            return config.learning_rate * fraction / warmup_share
        fraction = (fraction - warmup_share) / (1 - warmup_share)
    else:
        searched = next((p.first for p in phases if p.finals), derived)
        lowest, fraction = config.learning_rate_min, epochs_done / searched
    return lowest + (config.learning_rate - lowest) * (1 + math.cos(math.pi * fraction)) / 2


def named_state(optimizer: torch.optim.Optimizer, named: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The optimizer's state by parameter name, so that it survives a change of the network's layout."""
    return {name: dict(optimizer.state[p]) for name, p in named.items() if p in optimizer.state}


def load_named_state(
    optimizer: torch.optim.Optimizer, named: dict[str, Tensor], state: dict[str, dict[str, Any]]
) -> None:
    """The inverse of `named_state`."""
    for name, values in state.items():
        p = named[name]
        fused = optimizer.defaults.get("fused")  # Adam counts on the host, unless it is fused
        optimizer.state[p] = {
            key: value.to("cpu" if key == "step" and not fused else p.device, copy=True)
            for key, value in values.items()
        }
