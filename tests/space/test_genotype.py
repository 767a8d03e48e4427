"""The genotype: through JSON and back, and refused with a reason where its parts do not fit."""

import copy
import json

import pytest

from asose_fast.space import BlockSpec, NetworkSpec
from asose_fast.space.genotype import Genotype


def make_genotype(**changes):
    blocks = (BlockSpec(("sep_conv_3x3",), 4, 6, 2), BlockSpec(("none",), 6, 6))
    values = {"classes": ("cat", "dog"), "mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3), "image_size": 32, **changes}
    return Genotype(NetworkSpec(3, 2, 4, blocks), **values)


def test_survives_json():
    genotype = make_genotype(weights_sha256="12ab")
    assert genotype.operations == ("sep_conv_3x3", "none")
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype


def test_reads_those_of_before_they_had_image_sizes_and_digests():
    values = make_genotype().to_dict()
    del values["image_size"], values["weights_sha256"]
    assert Genotype.from_dict(values) == make_genotype(image_size=None)


def changed(path, value):
    values = copy.deepcopy(make_genotype().to_dict())
    *parents, last = path
    place = values
    for key in parents:
        place = place[key]
    place[last] = value
    return values


FIRST = ("network", "blocks", 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "is not a genotype of asose_fast, version 1"),
        (changed(["format"], "darts"), "is not a genotype of asose_fast, version 1"),
        (changed(["version"], 2), "is not a genotype of asose_fast, version 1"),
        ({"format": "asose_fast genotype", "version": 1}, "is damaged: 'network' is missing"),
        (changed(["network"], None), "is damaged: "),
        (changed(["network", "blocks"], []), "is damaged: there must be 1 to 1000 blocks, got 0"),
        (changed(["network", "width"], 3), "is damaged: .*unexpected keyword argument 'width'"),
        (changed(["network", "classes"], 3), "2 names of classes for 3 classes"),
        (
            changed(["network", "stem_channels"], "16"),
            "stem_channels must be at least 1, .* and whole, got '16'",
        ),
        (
            changed([*FIRST, "in_channels"], 0),
            "in_channels of block 0 must be at least 1, .*, got 0",
        ),
        (changed([*FIRST, "stride"], 3), "stride of block 0 must be at least 1, at most 2 and whole, got 3"),
        (changed(["network", "stem_channels"], 10**9), "at most 1048576 and whole, got 1000000000"),
        (changed(["image_size"], 10**5000), "image_size must be .*, got int too large to be shown"),
        (changed([*FIRST, "project"], "yes"), "project of block 0 must be true or false, got 'yes'"),
        (changed(["weights_sha256"], 7), "weights_sha256 must be text, or None, got 7"),
        (changed([*FIRST, "out_channels"], 5), "block 1 takes 6 channels, but is given 5"),
        (changed([*FIRST, "stride"], True), "stride of block 0 must be at least 1, at most 2 and whole, got True"),
        (changed([*FIRST, "candidates"], ["none", "skip_connect"]), r"block 0 must .*, has \(none, skip_connect\)"),
        (changed([*FIRST, "candidates"], []), "block 0 must have one known candidate"),
        (
            changed([*FIRST, "candidates"], ["conv_1x1"]),
            "^cannot be built here: block 0 has the candidate 'conv_1x1', which is unknown here",
        ),
        (changed([*FIRST, "candidates"], [5]), "^is damaged: the candidate of block 0 must be text, got 5"),
        (changed(["classes"], [1, 2]), "names of classes must be strings"),
        (changed(["normalization", "mean"], [0.5]), "1 means and 3 stds for 3 channels"),
        (changed(["normalization", "mean"], [0.5, 0.5, "x"]), "is damaged: "),
        (changed(["normalization", "mean"], [0.5, 0.5, 10**400]), "is damaged: "),
        (changed(["image_size"], "8"), "image_size must be at least 1, at most 10000 and whole, or None, got '8'"),
        (changed(["normalization", "std"], [0.5, 0.5, 0.0]), "must be finite and stds .* positive"),
        (changed(["normalization", "std"], [0.5, 0.5, float("nan")]), "must be finite and stds .* positive"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Genotype.from_dict(values)
