"""Every test runs with fresh memory filled with NaN, so that an element which a kernel forgets to write shows."""

import pytest
import torch


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
def one_thread(request):
    """Outside tests/ops networks are too small to gain from threads, and lose tenfold where cores are shared."""
    if request.path.parent.name == "ops":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
