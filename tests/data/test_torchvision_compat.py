import subprocess
import sys

import pytest


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_torchvision_loads_with_its_data_sets():
    run(
        "from asose_fast.data.torchvision_compat import import_torchvision\n"
        "torchvision = import_torchvision()\n"
        "assert torchvision.datasets.CIFAR10 and torchvision.datasets.folder.make_dataset\n"
        "assert import_torchvision() is torchvision\n"
        "import torchvision as again\n"
        "assert again is torchvision"
    )


def test_torchvision_loads_after_an_import_that_failed():
    run(
        "try:\n"
        "    import torchvision\n"
        "except RuntimeError:\n"
        "    pass\n"
        "from asose_fast.data.torchvision_compat import import_torchvision\n"
        "assert import_torchvision().datasets.FashionMNIST"
    )


def test_nothing_is_declared_where_torchvision_loads_by_itself(tmp_path):
    """A torchvision whose operators work must keep them: a second declaration would be an error."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import torch\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
    )
    run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from asose_fast.data import torchvision_compat\n"
        "assert torchvision_compat.import_torchvision().library\n"
        "assert torchvision_compat._declare_operators.cache_info().currsize == 0"
    )


@pytest.mark.parametrize("error", ["RuntimeError('broken in another way')", "ImportError('libjpeg')"])
def test_another_failure_is_not_hidden(tmp_path, error):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise {error}")
    run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from asose_fast.data.torchvision_compat import import_torchvision\n"
        "try:\n"
        "    import_torchvision()\n"
        f"except {error.partition('(')[0]} as error:\n"
        f"    assert str(error) == {error.partition('(')[2][:-1]}\n"
        "else:\n"
        "    raise AssertionError"
    )


def test_the_data_package_and_digits_do_without_torchvision():
    run(
        "import sys, torch\n"
        "from asose_fast.data import DataConfig, load_data\n"
        "load_data(DataConfig(), 8, 0, torch.device('cpu'))\n"
        "assert 'torchvision' not in sys.modules"
    )
