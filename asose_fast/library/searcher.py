"""A search in a training loop of the user's own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from asose_fast.config import Config
from asose_fast.engine.alpha.estimators import make_estimator
from asose_fast.engine.alpha.regularizers import beta_decay
from asose_fast.engine.step.optimizers import alpha_learning_rate, alpha_optimizer
from asose_fast.engine.step.steps import frozen
from asose_fast.library.run import named_alpha
from asose_fast.library.selector import MaskedSelector
from asose_fast.space.custom import CustomNetwork


class Searcher:
    """Chooses what the MixedOps of a network run, and trains alpha; everything else is the loop's business.

        searcher = Searcher(network, alpha_steps=1000)
        for (x, y), (x_valid, y_valid) in zip(train, valid):
            searcher.sample()
            loss(network(x), y).backward()
            optimizer.step(); optimizer.zero_grad()
            searcher.alpha_step(lambda: loss(network(x_valid), y_valid))
        network = searcher.derive()

    What was chosen last (`sample`, `best`) stays, also after an alpha step; at the beginning it is `best`.

    Alpha is no parameter of the network. The first step of an optimizer that holds it beside the searcher's own, whose
    momentum and weight decay would move it, raises ValueError.
    """

    def __init__(self, network: nn.Module, config: Config | None = None, *, alpha_steps: int = 1000) -> None:
        """Raises ValueError for a network without MixedOps.

        Args:
            network: on its device, its MixedOps anywhere in it.
            config: settings of sampling, estimator, alpha's optimizer and `beta_decay`.
            alpha_steps: about how many there will be: alpha's learning rate follows it, unless the config gives one.
        """
        self.config = config or Config()
        self._network = CustomNetwork(network)
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        self.selector = MaskedSelector(self.config, self._network, self.config.seed, device)
        self.estimator = make_estimator(self.config)
        self.optimizer = alpha_optimizer(self.selector.alpha, alpha_learning_rate(self.config, alpha_steps))
        handle = register_optimizer_step_pre_hook(_refusing_alpha(weakref.ref(self)))
        weakref.finalize(self, handle.remove)
        self.best()

    def sample(self, *, uniform: bool = False) -> None:
        """Has the network run a path sampled from alpha, or a uniformly random one, as in a warmup: one candidate of
        every MixedOp. An estimator that trains the weights in mixtures has it run a mixture."""
        mode = "warmup" if uniform else "search"
        mixture = self.estimator.mixture(self.selector, mode)  # type: ignore[arg-type]
        if mixture is not None:
            self._choose(weights=mixture)
        else:
            self._choose(path=self.selector.path(mode))  # type: ignore[arg-type]

    def best(self) -> None:
        """Has the network run the most probable candidates, as for validation."""
        self._choose(path=self.selector.best_path())

    def _choose(self, **plan: Any) -> None:
        self._chosen = plan
        self._network.plan(**plan)

    def alpha_step(
        self, loss: Callable[[], Tensor], backward: Callable[[Tensor], object] = lambda loss: loss.backward()
    ) -> Tensor:
        """Updates alpha by the gradient of `loss()`, which runs the network on a validation batch, and cools the
        temperature. Weights get no gradient. Returns the loss.

        dL/dw_k = <dL/dy, o_k(x)> for every candidate that the estimator runs, all of them by default.

        Args:
            loss: called once, after the architecture was drawn.
            backward: in place of loss.backward(), where a framework wants to do it: `accelerator.backward`.

        Raises ValueError where the loss does not depend on a MixedOp, or is not finite.
        """
        draw = self.estimator.draw(self.selector, "search")
        self._network.plan(draw.weights, draw.path, draw.kept)
        try:
            with frozen(self._network), torch.enable_grad():
                value = loss()
                if not value.requires_grad:
                    raise ValueError("the loss does not depend on any mixed operation: call the searched network in it")
                if not bool(value.isfinite()):
                    raise ValueError(f"the loss of the alpha step is {float(value.detach())}")
                self.optimizer.zero_grad(set_to_none=True)
                backward(value)
        finally:
            self._network.plan(**self._chosen)
        self.estimator.finish(draw)
        if self.config.beta_decay:
            beta_decay(self.selector.logits(), self.config.beta_decay).backward()
        self.optimizer.step()
        self.selector.cool()
        return value.detach()

    @property
    def genotype(self) -> dict[str, str]:
        """The most probable candidate, by the name of its MixedOp (`SearchResult.genotype`)."""
        return self._network.genotype(self.selector.best_path())

    @property
    def alpha(self) -> dict[str, dict[str, float]]:
        """The logits, by MixedOp and candidate."""
        return named_alpha(self._network, self.selector.alpha)

    def derive(self) -> nn.Module:
        """The network with the most probable candidate in place of every MixedOp: plain modules that have the searched
        network's parameters and buffers themselves, so that training goes on with them; `copy.deepcopy` parts them."""
        return self._network.derive(self.selector.best_path()).model

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the search depends on, but for the network."""
        return {
            "selector": self.selector.state_dict(),
            "estimator": self.estimator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, for a searcher of the same network and config."""
        self.selector.load_state_dict(state["selector"])
        self.estimator.load_state_dict(state["estimator"])
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer = alpha_optimizer(self.selector.alpha, rate)
        self.optimizer.load_state_dict(state["optimizer"])
        self.best()


def _refusing_alpha(searcher: weakref.ref[Searcher]) -> Callable[..., None]:
    """What torch is to call before every step of any optimizer; it looks at each once."""
    seen: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        mine = searcher()
        if mine is None or optimizer is mine.optimizer or optimizer in seen:
            return
        alpha = {id(row) for row in mine.selector.alpha}
        if any(id(p) in alpha for group in optimizer.param_groups for p in group["params"]):
            raise ValueError(
                f"alpha is in this {type(optimizer).__name__} too: the Searcher alone trains it. Give the optimizer of "
                "the weights network.parameters()"
            )
        seen.add(optimizer)

    return look
