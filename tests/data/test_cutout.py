"""Cutout blanks one square of every image, and nothing else."""

import torch

from asose_fast.data.cutout import cut_out


def test_a_square_is_blank_and_the_rest_is_as_it_was():
    x = torch.rand(200, 3, 9, 11) + 1
    found = cut_out(x, 4, torch.Generator().manual_seed(0))
    blank = found == 0
    assert (found[~blank] == x[~blank]).all()
    assert (blank == blank[:, :1]).all()
    sizes = blank[:, 0].sum((1, 2))
    assert sizes.max() == 16
    assert sizes.min() < 16  # squares at the border
    rows = blank[:, 0].any(2).sum(1)
    assert (rows * blank[:, 0].any(1).sum(1) == sizes).all()
    assert blank[:, 0].any(0).all()  # every pixel is hit at some time


def test_it_depends_on_the_generator_alone():
    x = torch.rand(5, 1, 8, 8) + 1
    first, again, other = (cut_out(x, 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (x > 0).all()
