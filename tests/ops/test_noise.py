"""Philox Gumbel noise: known answers, distribution, independence of the table's size."""

import math

import pytest
import torch

from asose_fast import ops
from asose_fast.ops.noise import _philox4x32


def test_philox_matches_the_published_known_answers():
    """Random123's kat_vectors for philox4x32-10."""
    ones = 0xFFFFFFFF
    cases = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones,) * 4, (ones,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, expected in cases:
        words = _philox4x32(tuple(torch.tensor(c) for c in counter), tuple(torch.tensor(k) for k in key))
        assert tuple(int(word) for word in words) == expected


def test_noise_is_standard_gumbel():
    noise = ops.gumbel_noise(torch.tensor([1, 2]), 2000, 100).flatten()
    euler = 0.5772156649
    assert noise.isfinite().all()
    assert abs(noise.mean() - euler) < 4 * math.pi / math.sqrt(6 * len(noise))
    assert abs(noise.var() - math.pi**2 / 6) < 0.05
    below = (noise[:, None] < torch.tensor([-1.0, 0.0, 1.0, 3.0])).double().mean(0)
    expected = torch.exp(-torch.exp(-torch.tensor([-1.0, 0.0, 1.0, 3.0]).double()))
    torch.testing.assert_close(below, expected, atol=5e-3, rtol=0)


def test_noise_of_an_element_does_not_depend_on_the_table():
    rng = torch.tensor([2**63 - 1, 2**40 + 3])
    large = ops.gumbel_noise(rng, 7, 9)
    assert torch.equal(ops.gumbel_noise(rng, 3, 4), large[:3, :4])
    assert not torch.equal(ops.gumbel_noise(rng + torch.tensor([0, 1]), 7, 9), large)


def test_the_kernel_draws_the_reference_noise():
    """Seed and offset beyond 32 bits too: soft weights of zero logits at T = 1 are softmax(G)."""
    for seed, offset in [(0, 0), (5, 1), (-3, 2**33 + 7), (2**62 + 11, 2**32)]:
        rng = torch.tensor([seed, offset])
        drawn = ops.arch_weights(torch.zeros(6, 10, dtype=torch.float64), 1.0, hard=False, rng=rng).weights
        torch.testing.assert_close(drawn, ops.gumbel_noise(rng, 6, 10).softmax(1), atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("number", [-1, 2**32, 10**30])
def test_a_table_beyond_the_counter_is_refused(number):
    with pytest.raises(ValueError, match=r"ops must be at least 0 and below 2\^32"):
        ops.gumbel_noise(torch.tensor([0, 0]), 0, number)
