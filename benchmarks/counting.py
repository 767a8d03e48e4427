"""What a step costs besides its time, the same at every call: operators, launches, waits of the host, graph breaks.

(Memory: `benchmarks.memory`.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READING = ("_local_scalar_dense", "nonzero", "equal.default")
"""Operators that bring a value to the host, or a number of elements that depends on values."""
LISTING = ("tolist", "cpu", "numpy", "__array__")
"""Methods that do, of Python's."""


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.found[str(function)] += 1
        return function(*arguments, **(keywords or {}))


def operators(step: Callable[[], object]) -> Counter[str]:
    """How often a step calls which operator of torch: on a GPU most of them launch one kernel, views none."""
    with _Operators() as counted:
        step()
    return counted.found


def launches(step: Callable[[], object]) -> Counter[str]:
    """How often a step runs which kernel on a GPU, copies and fills included, those in a CUDA graph too."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        torch.cuda.synchronize()
    on_gpu = torch.autograd.DeviceType.CUDA
    return Counter(event.name for event in profiler.events() if event.device_type == on_gpu)


class HostWaits(TorchDispatchMode):
    """Lists in `found` what would make the host wait for a GPU, as far as it can be told without one: values that are
    read back, and copies to the device that are not asynchronous.

    The GPU's part is played by `device`: the CPU, whose copies between itself and itself are not seen; or "meta", whose
    tensors have no values, so that reading one fails besides. Values that lie on the host in any case are free to read:
    those on the CPU where the device is another, and with a CPU the step counts of the optimizers in `free`.
    """

    def __init__(self, device: str = "cpu", free: Iterable[torch.optim.Optimizer] = ()) -> None:
        super().__init__()
        self.found: list[str] = []
        self._device, self._free = device, list(free)
        waits = self

        class Listing(TorchFunctionMode):
            def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
                name, keywords = getattr(function, "__name__", ""), keywords or {}
                if name in LISTING and arguments[0].device.type == device:
                    waits.found.append(name)
                if name in ("tensor", "as_tensor") and str(keywords.get("device", "cpu")).split(":")[0] != "cpu":
                    waits.found.append(name)
                return function(*arguments, **keywords)

        self._listing = Listing()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        if self._reads(str(function), arguments) or _copies_and_waits(str(function), arguments, keywords):
            self.found.append(str(function))
        return function(*arguments, **keywords)

    def _reads(self, name: str, arguments: Any) -> bool:
        if not isinstance(arguments[0] if arguments else None, Tensor) or arguments[0].device.type != self._device:
            return False
        if "index.Tensor" in name:
            return any(i is not None and i.dtype == torch.bool for i in arguments[1])
        if "_local_scalar_dense" in name and self._device == "cpu":
            counts = {s["step"].data_ptr() for o in self._free for s in o.state.values() if "step" in s}
            return arguments[0].data_ptr() not in counts
        return any(reading in name for reading in READING)

    def __enter__(self) -> HostWaits:
        self._listing.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._listing.__exit__(*error)


def _copies_and_waits(name: str, arguments: Any, keywords: Any) -> bool:
    if "_to_copy" in name:
        target, waits = keywords.get("device"), not keywords.get("non_blocking", False)
        return waits and target is not None and torch.device(target).type != arguments[0].device.type
    if "copy_.default" in name:
        waits = not (arguments[2] if len(arguments) > 2 else keywords.get("non_blocking", False))
        return waits and arguments[0].device.type != arguments[1].device.type
    return False


def graph_breaks(function: Callable[..., object], *arguments: object) -> int:
    """In how many places torch.compile would leave a function."""
    torch._dynamo.reset()
    return int(torch._dynamo.explain(function)(*arguments).graph_break_count)
