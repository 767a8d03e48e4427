"""A search in a sequence model: which layers tell every position the token before it?

Attention without positions cannot, nor can a layer that looks at one position alone; a convolution can. So the search
has to find one.
"""

import torch
from torch import Tensor, nn

import asose_fast
from asose_fast import MixedOp

TOKENS, LENGTH, WIDTH = 8, 12, 24


class Convolution(nn.Module):
    """Over the positions of (N, T, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return y


class Attention(nn.Module):
    """Of (N, T, C) to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return y


class Model(nn.Module):
    """(N, T) tokens to class scores (N, classes, T)."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.layers = nn.ModuleList(
            MixedOp({"attention": Attention(), "convolution": Convolution(), "identity": nn.Identity()})
            for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(layers))
        self.head = nn.Linear(WIDTH, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(norm(x))
        y: Tensor = self.head(x).transpose(1, 2)
        return y


def batches(count: int, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    """Random tokens, and at every position the one before; at the first, 0."""
    tokens = torch.randint(TOKENS, (count, size, LENGTH))
    before = torch.cat([torch.zeros_like(tokens[..., :1]), tokens[..., :-1]], -1)
    return list(zip(tokens, before, strict=True))


def main(epochs: int = 18) -> asose_fast.SearchResult:
    """Searches, and says what was found. Cross-entropy and accuracy are taken at every position."""
    torch.manual_seed(0)
    result = asose_fast.search(
        Model(),
        (batches(32), batches(16), batches(16)),
        asose_fast.Config(epochs=epochs),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, 3e-3),
    )
    print(result.genotype)
    print(f"accuracy {result.test_score:.1%}")
    return result


if __name__ == "__main__":
    main()
