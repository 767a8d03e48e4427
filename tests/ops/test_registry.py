"""The registry: backends by preference, rules by shape, and the reasons it gives."""

import re
import types

import pytest
import torch

from asose_fast import info, ops
from asose_fast.ops import registry
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.reference import norm_tables as reference_tables
from tests.helpers import ROOT


@pytest.fixture
def two_backends(monkeypatch):
    """An operator of a GPU with two backends, the first of which leaves large tensors to the second."""

    def unfit(shape, dtype, limit=100):
        """Large tensors are left to others."""
        return f"{shape.numel()} elements, more than {limit}" if shape.numel() > limit else None

    modules = {
        "cuda": types.SimpleNamespace(DTYPES={torch.float32}, unfit=unfit),
        "triton": types.SimpleNamespace(DTYPES={torch.float32, torch.float16}),
        "reference": types.SimpleNamespace(DTYPES={torch.float32, torch.float16, torch.float64}),
    }
    monkeypatch.setattr(registry, "PREFERENCE", {"cpu": ("cuda", "triton", "reference")})
    monkeypatch.setitem(registry._MODULES, "some", dict.fromkeys(modules, ""))
    monkeypatch.setattr(registry, "_implementation", lambda op, name: modules[name])

    def why_not(op, name, device_type, dtype=None):
        return None if dtype in modules[name].DTYPES else f"not {dtype}"

    monkeypatch.setattr(registry, "why_not", why_not)
    registry._usable.cache_clear()
    yield modules
    registry._usable.cache_clear()


@pytest.mark.parametrize(
    ("size", "dtype", "name", "why"),
    [
        (100, torch.float32, "cuda", "cuda: the first choice on cpu"),
        (101, torch.float32, "triton", "triton: cuda: 101 elements, more than 100"),
        (1, torch.float16, "triton", "triton: cuda: not torch.float16"),
    ],
)
def test_a_backend_is_picked_by_rule(two_backends, size, dtype, name, why):
    x = torch.zeros(size, dtype=dtype)
    assert registry.select("some", x) is two_backends[name]
    assert registry.why("some", x) == why


def test_a_rule_is_told_the_details_of_a_call(two_backends):
    x = torch.zeros(50)
    assert registry.select("some", x, 49) is two_backends["triton"]
    assert registry.why("some", x, 49) == "triton: cuda: 50 elements, more than 49"
    assert registry.rule("some", "cuda") == "Large tensors are left to others."
    assert registry.rule("some", "triton") is None


def test_plain_pytorch_warns_and_says_why(two_backends):
    x = torch.zeros(1, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="plain PyTorch on cpu; cuda: not torch.float64; triton: not"):
        assert registry.select("some", x) is two_backends["reference"]
    assert registry.why("some", x) == "reference: cuda: not torch.float64; triton: not torch.float64"
    assert not registry.has_kernels("some", "cpu", torch.float64)
    assert registry.has_kernels("some", "cpu", torch.float16)


def test_a_forced_backend_follows_no_rule(two_backends):
    x = torch.zeros(500)
    with ops.backend("cuda"):
        assert registry.select("some", x) is two_backends["cuda"]
        assert registry.why("some", x) == "cuda: forced by ops.backend"


def test_triton_leaves_plans_of_many_taps_to_others():
    triton = pytest.importorskip("asose_fast.ops.triton.multi_depthwise")
    few, many = (DepthwisePlan((k,), (1,), 1, 1, True, False) for k in (7, 31))
    assert triton.unfit((1, 2, 3, 4), torch.float32, few) is None
    assert (
        triton.unfit((1, 2, 3, 4), torch.float32, many)
        == "961 taps, more than 400, are too many to unroll a kernel over"
    )
    assert "400 taps" in info.collect()["rules"]["multi_depthwise"]["triton"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("op", registry.operators())
def test_what_an_operator_does_not_have_is_the_reason(op, device):
    """Not what the machine lacks: with a GPU there would be no such kernels either."""
    for name in registry.BACKENDS:
        reason = registry.why_not(op, name, device)
        assert (reason == f"{op} has no {name} implementation") == (name not in registry._MODULES[op])


def test_the_tables_of_the_docs_are_those_of_the_registry():
    for page, columns in (("docs/kernels.md", registry.BACKENDS[2:]), ("README.md", registry.BACKENDS)):
        table = re.search(r"\n\| operator \|[^\n]*\| Triton \|\n(.*?)\n\n", (ROOT / page).read_text(), re.S)
        told = {}
        for row in table[1].splitlines()[1:]:
            names, *cells = (cell.strip() for cell in row.strip("|").split("|"))
            for op in re.findall(r"`(\w+)`", names):
                told[op] = {name for name, cell in zip(columns, cells, strict=True) if cell != "-"}
        assert told == {op: set(registry._MODULES[op]) & set(columns) for op in registry.operators()}


def test_a_small_operator_runs_as_plain_pytorch_where_a_forced_backend_has_none_of_it():
    x = torch.zeros(2, dtype=torch.float64)
    with ops.backend("cuda"):
        assert registry.select("norm_tables", x) is reference_tables
        with pytest.raises(RuntimeError, match="line_conv: backend 'cuda' cannot run"):
            registry.select("line_conv", x)
