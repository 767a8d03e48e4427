"""The architecture parameters: logits, temperature and noise, and how a phase draws paths from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from asose_fast.config import SelectorConfig
from asose_fast.data.upload import upload
from asose_fast.engine.host_copy import HostCopy
from asose_fast.engine.phases import PhaseName
from asose_fast.ops import ArchWeights, Boost, arch_weights
from asose_fast.ops.arch_sample import boosted

MOST_ROWS = 100_000
"""Of alpha: a damaged file may ask for any number."""
CLOSED = -1e4
"""Logarithm of 0 for logits: far below what noise can make up for, and finite, so that no operator meets inf - inf."""


class Path(Protocol):
    """The candidates of a weight step, known or still on their way."""

    def tolist(self) -> list[int]: ...


class FixedPath(list[int]):
    """One that needs no draw."""

    def tolist(self) -> list[int]:
        return list(self)


class Selector:
    """Holds alpha, one parameter (K,) for each of L layers, and draws architecture weights and paths.

    A draw depends on the seed and on how many came before it, not on the device.

    A candidate that growth adds (`add_candidate`) opens over n alpha steps, `opening_steps`. With b_k its openness,
    t / n after t of them, and 1 for all other candidates, every draw is made from the logits a_k + ln b_k:

        y = softmax((a + ln b + G) / T),   P(k is sampled) = b_k e^a_k / sum_j b_j e^a_j

    At first, at b = 0, the candidate has weight 0 in a soft mixture, is never sampled and never the argmax, and every
    other weight, probability and sample is what it was without it. Gradients are 0 at a weight of 0, so that b rises
    without them. The new logit is a = ln(mean_k e^a_k): once open, the candidate is as probable as the others are on
    average, and so does not lead; what is derived changes by learning alone.
    """

    def __init__(
        self, config: SelectorConfig, candidates: Sequence[str], layers: int, seed: int, device: torch.device
    ) -> None:
        """Raises ValueError for a floor above the temperature, or a fixed-skip warmup without skip_connect."""
        if config.temperature_floor > config.temperature:
            raise ValueError(
                f"temperature_floor must be at most temperature ({config.temperature}), got {config.temperature_floor}"
            )
        if config.warmup == "skip" and "skip_connect" not in candidates:
            raise ValueError(f"warmup: skip needs the candidate skip_connect; the space has {', '.join(candidates)}")
        self.config = config
        self.candidates = list(candidates)
        self.temperature = config.temperature
        self.generator = torch.Generator().manual_seed(seed)
        self.alpha = [self._initial_row().to(device).requires_grad_() for _ in range(layers)]
        self.rng = torch.tensor([seed, 0], device=device)
        self._open({})

    def _initial_row(self) -> Tensor:
        row = self.config.alpha_std * torch.randn(len(self.candidates), generator=self.generator)
        for name, value in (("none", self.config.alpha_none), ("skip_connect", self.config.alpha_skip)):
            if name in self.candidates:
                row[self.candidates.index(name)] = value
        return row

    def boost(self, phase: PhaseName) -> Boost | None:
        """The boost of a phase: that of the config in the search phase, else none."""
        if phase != "search" or not self.config.boost_top_k:
            return None
        skip, none = (
            self.candidates.index(name) if name in self.candidates else -1 for name in ("skip_connect", "none")
        )
        top_k = min(self.config.boost_top_k, len(self.candidates))
        return Boost(top_k, self.config.boost_amount, self.config.boost_below, skip, none)

    def effective_temperature(self, phase: PhaseName) -> float:
        """T_eff: clamped in the search phase, T elsewhere."""
        return max(self.config.search_temperature_floor, self.temperature) if phase == "search" else self.temperature

    def logits(self) -> Tensor:
        """Alpha, with ln b added, as one table (L, K), which hands its gradient on to the layers' parameters."""
        table = torch.stack(self.alpha)
        return table if self._log_openness is None else table + self._log_openness

    def open_counts(self) -> list[int]:
        """Returns how many candidates each layer has, without those that growth has not opened."""
        counts: list[int] = (self.logits().detach() > CLOSED / 2).sum(1).tolist()
        return counts

    def equal_logits(self) -> Tensor:
        """Those of uniformly random paths, (L, K)."""
        return torch.zeros_like(self.logits())

    def _open(self, opening: dict[int, int]) -> None:
        """Takes note of the alpha steps since candidates were added, by their index, for those not yet open."""
        self.opening = opening
        self._log_openness: Tensor | None = None
        if opening:
            row = torch.zeros(len(self.candidates))
            for k, steps in opening.items():
                row[k] = math.log(steps / self.config.opening_steps) if steps else CLOSED
            self._log_openness = upload(row, self.rng.device)

    def sample(self, phase: PhaseName, *, hard: bool = True) -> ArchWeights:
        """Draws the architecture weights of all layers; their gradient reaches `alpha`."""
        temperature = self.effective_temperature(phase)
        return arch_weights(self.logits(), temperature, hard=hard, boost=self.boost(phase), rng=self.next_draw())

    def next_draw(self) -> Tensor:
        """Seed and offset of the next draw of noise, which no other draw has."""
        rng = self.rng.clone()
        self.rng[1].add_(1)
        return rng

    def boosted_logits(self, phase: PhaseName) -> Tensor:
        """a' of a phase, float64 (L, K); what `sample` adds noise to."""
        return boosted(self.logits(), self.boost(phase))

    def begin_path(self, phase: PhaseName) -> Path:
        """Draws the candidate of every layer for a weight step, and begins the one copy of L indices to the host."""
        with torch.no_grad():
            if phase != "warmup":
                index = self.sample(phase).index
            elif self.config.warmup == "skip":
                return FixedPath([self.candidates.index("skip_connect")] * len(self.alpha))
            else:
                index = arch_weights(self.equal_logits(), 1.0, rng=self.next_draw()).index
        return HostCopy(index)

    def path(self, phase: PhaseName) -> list[int]:
        """Draws the candidate of every layer for a weight step, and waits for it."""
        return self.begin_path(phase).tolist()

    def draw_apart(self, process: int) -> None:
        """Gives a process draws of its own; those of process 0 stay as they are."""
        self.rng[0] ^= process << 32

    def best_path(self) -> list[int]:
        """The candidate of largest logit in every layer."""
        path: list[int] = self.logits().argmax(1).tolist()
        return path

    def monitor(self) -> tuple[Tensor, Tensor]:
        """Entropy (nats) and largest probability of softmax(alpha), each (L,)."""
        with torch.no_grad():
            logits = self.logits()
            current = arch_weights(logits, 1.0, noise=torch.zeros_like(logits))
        return current.entropy, current.max_prob

    def perturb(self) -> None:
        """Adds the noise with which the search begins."""
        with torch.no_grad():
            for row in self.alpha:
                row += self.config.alpha_noise * torch.randn(len(row), generator=self.generator).to(row.device)

    def cool(self) -> None:
        """Lowers the temperature after an alpha step, and opens what has been added further."""
        self.temperature = max(self.config.temperature_floor, self.temperature * self.config.temperature_decay)
        if self.opening:
            self._open({k: t + 1 for k, t in self.opening.items() if t + 1 < self.config.opening_steps})

    def insert_layer(self, position: int) -> Tensor:
        """Gives a new layer at `position` logits of its own, and returns them."""
        row = self._initial_row().to(self.rng.device).requires_grad_()
        self.alpha.insert(position, row)
        return row

    def add_candidate(self, name: str) -> list[tuple[Tensor, Tensor]]:
        """Gives every layer a logit for a further candidate, the last, which opens from weight 0 (see the class).

        Returns alpha before and after, layer by layer.
        """
        with torch.no_grad():
            average = self.logits().logsumexp(1, keepdim=True) - math.log(len(self.candidates))
            rows = [torch.cat(pair).requires_grad_() for pair in zip(self.alpha, average, strict=True)]
        replaced = list(zip(self.alpha, rows, strict=True))
        self.candidates.append(name)
        self.alpha = rows
        self._open({**self.opening, len(self.candidates) - 1: 0})
        return replaced

    def state_dict(self) -> dict[str, Any]:
        """Everything that a draw depends on."""
        return {
            "alpha": torch.stack(self.alpha).detach(),
            "candidates": list(self.candidates),
            "opening": dict(self.opening),
            "temperature": self.temperature,
            "rng": self.rng,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; the numbers of layers and candidates may differ from the present ones.

        Raises ValueError for a table of more rows than can be, or of other columns than there are candidates.
        """
        rows, columns = state["alpha"].shape
        if not 1 <= rows <= MOST_ROWS or columns != len(state["candidates"]):
            raise ValueError(f"alpha has {rows} rows of {columns}, for {len(state['candidates'])} candidates")
        self.alpha = [row.to(self.rng.device).clone().requires_grad_() for row in state["alpha"]]
        self.temperature = state["temperature"]
        self.rng = state["rng"].to(self.rng.device).clone()
        self.generator.set_state(state["generator"].cpu())
        self.candidates = list(state["candidates"])
        self._open(dict(state["opening"]))
