"""Every test runs with fresh memory filled with NaN, so that an element which a kernel forgets to write shows."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from asose_fast.data.torchvision_compat import import_torchvision
from tests.helpers import options


def pytest_configure(config):
    """`pytest -n` shows the warnings of its processes, for which it imports the modules that they came from."""
    if getattr(config.option, "numprocesses", None):
        import_torchvision()


# With it alone cuBLAS repeats itself to the bit, which the tests below ask of everything.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def graphs():
    """Graphs that one test compiles do not count towards the limit that another meets."""
    yield
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.reset()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of a second, finished; not to be changed."""
    from asose_fast.train import main as train

    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train([*options(), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A finished run of the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="session", autouse=True)
def cores():
    """How many threads there may be. Fixtures of modules are made with one, as the tests outside tests/ops run:
    PyTorch's batch norms depend on it."""
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    return found


@pytest.fixture(autouse=True)
def threads(request, cores):
    """Threads lose tenfold where cores are shared: processes of `pytest -n` divide them. Outside tests/ops networks are
    too small to gain from more than one."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, cores // processes) if request.path.parent.name == "ops" else 1)
    yield
    torch.set_num_threads(1)
