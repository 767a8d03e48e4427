"""What is said when a run is resumed with other data or other code."""

import pytest
import sklearn.datasets

from asose_fast.data import load_data
from asose_fast.store import provenance
from tests.helpers import CPU, make_config

THEN = {
    "data": "d",
    "release": "1.0",
    "sources": "s",
    "torch": "2.13.0",
    "device": "cpu",
    "instruction set": "avx512",
    "threads": 2,
}


def check(**changes):
    told = []
    provenance.check(THEN, {**THEN, **changes}, told.append)
    return told


def digest(**changes):
    config = make_config(**changes)
    return load_data(config, config.batch_size, config.seed, CPU).digest


def test_the_same_is_not_remarked_upon():
    assert check() == []


def test_other_data_and_other_releases_are_refused():
    with pytest.raises(ValueError, match="the images, their labels or their division are not those"):
        check(data="e")
    with pytest.raises(ValueError, match=r"asose_fast 1\.0 and this is 1\.1.*install asose_fast==1\.0"):
        check(release="1.1")


def test_what_may_change_the_result_is_told():
    assert check(sources="t") == [
        "the source files of asose_fast have changed since the checkpoint: the rest of the run may differ"
    ]
    (told,) = check(torch="2.14.0", threads=1)
    assert told.startswith("changed since the checkpoint: torch 2.13.0 -> 2.14.0, threads 2 -> 1; the rest")


def test_collected_values_go_through_a_checkpoint():
    config = make_config()
    data = load_data(config, config.batch_size, config.seed, CPU)
    collected = provenance.collect(data, CPU)
    assert collected.keys() == THEN.keys()
    assert all(type(value) in (str, int, type(None)) for value in collected.values())
    assert provenance.check(collected, provenance.collect(data, CPU), pytest.fail) is None


def test_the_digest_of_the_data_follows_images_labels_and_division(monkeypatch):
    original = digest()
    assert digest() == original
    assert digest(memory_limit_gb=0.0) == original  # decoded as needed: the same images
    assert len({original, digest(seed=1), digest(limit_test=41), digest(valid_fraction=0.3)}) == 4
    load = sklearn.datasets.load_digits

    def changed(part):
        def loaded():
            bunch = load()
            bunch[part][:] = bunch[part][::-1].copy()
            return bunch

        return loaded

    for part in ("images", "target"):
        monkeypatch.setattr(sklearn.datasets, "load_digits", changed(part))
        assert digest() != original


def test_one_changed_pixel_is_noticed(monkeypatch):
    config = make_config(limit_train=None, limit_test=None)
    original = load_data(config, config.batch_size, config.seed, CPU).digest
    load = sklearn.datasets.load_digits

    def changed():
        bunch = load()
        bunch.images[1000, 4, 4] = (bunch.images[1000, 4, 4] + 1) % 17
        return bunch

    monkeypatch.setattr(sklearn.datasets, "load_digits", changed)
    assert load_data(config, config.batch_size, config.seed, CPU).digest != original
