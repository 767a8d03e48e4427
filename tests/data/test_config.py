import math

import pytest

from asose_fast.data import DataConfig, DataError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar-10", "unknown dataset 'cifar-10': did you mean 'cifar10'"),
        ("CIFAR100", "did you mean 'cifar100'"),
        ("fashion_mnist", "did you mean 'fashion-mnist'"),
        ("imagefoldr:/some/where", "did you mean 'imagefolder:/some/where'"),
        ("image-folder", "did you mean 'imagefolder:PATH'"),
        ("digits:x", "unknown dataset 'digits:x'"),
        ("", "Known are digits, cifar10, cifar100, fashion-mnist, imagefolder:PATH and csv:PATH"),
        ("imagefolder", "lacks the folder: write imagefolder:PATH"),
        ("imagefolder:", "lacks the folder"),
        ("csv", "lacks the file: write csv:PATH"),
        ("CSV:labels.csv", "did you mean 'csv:labels.csv'"),
        ("labels.csv", "unknown dataset 'labels.csv': did you mean 'csv:labels.csv'"),
        ("../photos/labels.csv", "did you mean 'csv:../photos/labels.csv'"),
        ("../photos", "unknown dataset '../photos': did you mean 'imagefolder:../photos'"),
        ("./digits", "did you mean 'imagefolder:./digits'"),
        ("~/cifar10", "did you mean 'imagefolder:~/cifar10'"),
        ("data/shapes", "did you mean 'imagefolder:data/shapes'"),
    ],
)
def test_a_wrong_dataset_name_is_met_with_the_right_one(name, message):
    with pytest.raises(DataError, match=message):
        DataConfig(name)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, math.nan])
def test_valid_fraction_lies_between_0_and_1(fraction):
    with pytest.raises(DataError, match="valid_fraction must be above 0 and below 1, got"):
        DataConfig(valid_fraction=fraction)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"limit_train": 0}, "limit_train must be at least 1, at most 1000000000 and whole, or None, got 0"),
        ({"limit_test": -3}, "limit_test must be at least 1, at most 1000000000 and whole, or None, got -3"),
        ({"dataset": "imagefolder:x", "image_size": 0}, "image_size must be at least 1"),
        ({"dataset": "cifar10", "image_size": 64}, "image_size resizes images of an imagefolder or a csv only: leave"),
        ({"memory_limit_gb": math.nan}, "memory_limit_gb must be at least 0"),
        ({"workers": -1}, "workers must be at least 0, at most 1024 and whole, got -1"),
    ],
)
def test_a_setting_out_of_range_is_named(setting, message):
    with pytest.raises(DataError, match=message):
        DataConfig(**setting)


def test_folder_is_the_path_of_an_imagefolder_only():
    assert str(DataConfig("imagefolder:C:/images").folder) == "C:/images"
    assert DataConfig("cifar10").folder is None


def test_a_folder_that_is_there_is_met_with_imagefolder(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="did you mean 'imagefolder:photos'"):
        DataConfig("photos")


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert str(DataConfig("imagefolder:~/photos").folder) == "/home/me/photos"
    assert str(DataConfig("imagefolder:~no-such-user/photos").folder) == "~no-such-user/photos"
