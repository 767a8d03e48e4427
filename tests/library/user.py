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
