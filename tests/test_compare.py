"""`asose-fast compare`: what a run found beside random networks of its size."""

import json

import pytest

from asose_fast.compare import interval, main


def test_interval_of_one_against_three():
    # mean 2, s 1, t_2(0.975) = 4.302653, sqrt(4 / 3): by hand
    assert interval(5.0, [1.0, 2.0, 3.0]) == pytest.approx((3.0, 3 - 4.968276, 3 + 4.968276), abs=1e-5)


def test_networks_of_the_size_are_trained_once(run, capsys):
    words = [str(run), "--random", "2", "--epochs", "1"]
    assert main(words) == 0
    first = (run / "compare" / "compare.json").read_text()
    result = json.loads(first)
    found, *others = result["networks"]
    assert [other["network"] for other in others] == ["random-1", "random-2"]
    for other in others:
        assert other["operations"] != found["operations"]
        assert abs(other["parameters"] / found["parameters"] - 1) <= result["band"][0]
        assert abs(other["flops"] / found["flops"] - 1) <= result["band"][1]
    assert main(words) == 0
    assert (run / "compare" / "compare.json").read_text() == first  # seconds too: nothing was trained again


def test_too_many_networks_are_refused_before_training(run, capsys):
    assert main([str(run), "--random", "1000"]) == 2
    assert "give a smaller --random" in capsys.readouterr().err
    assert not (run / "compare").exists()
