"""The drawing of a derived network says what its stem does."""

import pytest

from asose_fast.report import drawing, svg
from asose_fast.space import Network
from asose_fast.space.genotype import Genotype
from tests.export.networks import stages_of_all
from tests.space.test_stages import make_stages, path_of


def drawn(network, size):
    spec = network.spec
    values = [[str(k) for k in range(spec.classes)], [0.5] * spec.in_channels, [0.1] * spec.in_channels]
    return drawing.network(Genotype(spec, *map(tuple, values), size).to_dict())(600.0).replace(svg.TIMES, "x")


def test_a_stem_that_strides_is_drawn_with_its_stride():
    found = drawn(stages_of_all(), 67)
    assert ">stem, convolution 7 x 7, max pooling<" in found
    assert ">stride 4, 5 channels, 9 x 9<" in found


@pytest.mark.parametrize(("size", "shape"), [(32, "16 x 16"), (64, "32 x 32")])
def test_one_that_does_not_is_drawn_without(size, shape):
    found = drawn(path_of(Network(make_stages(size, depth=3, channels=4)), "skip_connect"), size)
    assert ">stem, convolution 3 x 3, max pooling<" in found
    assert f">4 channels, {shape}<" in found
    assert "stride" not in found
