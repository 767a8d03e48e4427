import pickle
import struct

import numpy as np
import pytest
import torch

from asose_fast.data import DataConfig, DataNotFoundError, load_data
from asose_fast.data.torchvision_compat import import_torchvision

CPU = torch.device("cpu")


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def test_fashion_mnist_from_its_raw_files(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 80), ("t10k", 20)):
        raw = tmp_path / "FashionMNIST" / "raw"
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    data = load_data(DataConfig("fashion-mnist", data_root=str(tmp_path)), 10, 0, CPU)
    assert (len(data.train), len(data.valid), len(data.test)) == (60, 20, 20)
    assert (data.channels, data.image_size, data.classes[9]) == (1, 28, "Ankle boot")
    x, y = next(data.train.batches(0))
    assert x.shape == (10, 1, 28, 28)
    assert y.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "class_name", "key"), [("cifar10", "CIFAR10", "labels"), ("cifar100", "CIFAR100", "fine_labels")]
)
def test_cifar_from_its_pickles(tmp_path, monkeypatch, name, class_name, key):
    dataset = getattr(import_torchvision().datasets, class_name)
    folder = tmp_path / dataset.base_folder
    folder.mkdir()
    labels = [0, 1] * 20
    # Colour tells the class: CIFAR stores all red values, then green, then blue.
    rows = np.zeros((40, 3, 1024), np.uint8)
    rows[1::2, 2] = 255
    entry = {"data": rows.reshape(40, 3072), key: labels}
    for file in ("one", "two"):
        (folder / file).write_bytes(pickle.dumps(entry))
    (folder / "names").write_bytes(pickle.dumps({"names": ["red", "blue"]}))
    monkeypatch.setattr(dataset, "train_list", [["one", None]])
    monkeypatch.setattr(dataset, "test_list", [["two", None]])
    monkeypatch.setattr(dataset, "meta", {"filename": "names", "key": "names", "md5": None})
    data = load_data(DataConfig(name, data_root=str(tmp_path)), 4, 0, CPU)
    assert data.classes == ("red", "blue")
    assert (data.channels, data.image_size) == (3, 32)
    assert data.mean == (0, 0, 0.5)
    for x, y in data.test.batches(0):
        assert torch.equal(x[:, 2].amax((1, 2)) > 0, y == 1)


def test_a_failed_download_says_where_the_set_belongs(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(import_torchvision().datasets, "CIFAR10", unreachable)
    with pytest.raises(DataNotFoundError, match=f"cifar10 is not in {tmp_path} and cannot be downloaded .*no network"):
        load_data(DataConfig("cifar10", data_root=str(tmp_path)), 4, 0, CPU)
