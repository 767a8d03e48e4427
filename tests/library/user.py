"""What a user may write, for `mypy`, which checks this file: the types of the package reach users."""

from torch import Tensor, nn

import asose_fast
import asose_fast.engine.state
from asose_fast.engine.state import SearchState


class Steps(asose_fast.Observer):
    """Notes where the search is."""

    def on_step(self, state: SearchState) -> None:
        step: int = state.progress.step
        print(step, isinstance(state, asose_fast.engine.state.SearchState))


def search(data: list[tuple[Tensor, Tensor]]) -> dict[str, str]:
    """Calls the package."""
    model = nn.Sequential(asose_fast.MixedOp({"a": nn.Tanh(), "b": nn.Identity()}))
    phases = [asose_fast.PhaseSpec("search", 1)]
    found = asose_fast.search(model, (data, data), asose_fast.Config(), observers=[Steps()], phases=phases)
    wrong: int = found.genotype  # type: ignore[assignment]
    unknown = asose_fast.search(model)  # type: ignore[call-arg]
    print(wrong, unknown)
    return found.genotype


def wider(conv: nn.Conv2d) -> nn.Module | None:
    """Makes a candidate."""
    return None if conv.groups > 1 else nn.Conv2d(conv.in_channels, conv.out_channels, 5, padding=2)


def wrapped(model: nn.Module) -> nn.Module:
    """Makes a space of a model."""
    flops: int = asose_fast.wrappable(model, (1, 3, 8, 8), only="*").flops
    print(flops)
    return asose_fast.wrap(model, (1, 3, 8, 8), candidates=["grouped", wider], skip=["stem.*"])
