"""Checkpoints, finished runs, YAML files and command lines."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from hypothesis import strategies as st

from asose_fast import train
from asose_fast.config import Config
from asose_fast.engine import result
from asose_fast.engine.phases import plan
from asose_fast.engine.resume import read
from asose_fast.space import NetworkSpec
from asose_fast.store import checkpoint
from asose_fast.store.checkpoint import CheckpointError
from tests.campaigns.forked import Run
from tests.campaigns.fuzz.target import Finding, Target, refused
from tests.helpers import make_trainer, options


@functools.cache
def finished_run() -> dict[str, bytes]:
    """The files of a small finished run, by name.

    In a process of its own: one that has used torch's threads must not be forked.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        run = Run([*options(epochs=4), "--out", str(folder)], Path(temporary) / "log")
        if run.wait():
            raise AssertionError(f"a run that is only to give files failed:\n{run.said()}")
        names = ("checkpoints/last.pt", "genotype.json", "model.safetensors", "config.yaml")
        return {name: (folder / name).read_bytes() for name in names}


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """Cut, lengthened, with bytes changed, moved or repeated; or something else altogether."""
    places = st.integers(0, max(0, len(content) - 1))

    @st.composite
    def changed(draw: Callable[[Any], Any]) -> bytes:
        result = bytearray(content)
        for _ in range(draw(st.integers(1, 4))):
            place = draw(places)
            kind = draw(st.sampled_from(("set", "cut", "drop", "insert", "repeat")))
            if kind == "set":
                result[place : place + 1] = draw(st.binary(min_size=1, max_size=8))
            elif kind == "cut":
                del result[place:]
            elif kind == "drop":
                del result[place : place + draw(st.integers(1, 64))]
            elif kind == "insert":
                result[place:place] = draw(st.binary(min_size=1, max_size=16))
            else:
                result[place:place] = result[place : place + 64]
        return bytes(result)

    return st.one_of(changed(), changed(), changed(), st.binary(max_size=200), st.just(content))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([0, 1, -1, 3, "none", "sep_conv_3x3"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def altered(values: Any, others: st.SearchStrategy[Any] = PLAIN) -> st.SearchStrategy[Any]:
    """A nested value, of which one to three parts are removed, renamed or replaced by `others`."""

    @st.composite
    def changed(draw: Callable[[Any], Any]) -> Any:
        root = [copy.deepcopy(values)]
        for _ in range(draw(st.integers(1, 3))):
            holder: Any = root
            key: Any = 0
            while isinstance(holder[key], (dict, list)) and len(holder[key]) and draw(st.integers(0, 3)):
                holder = holder[key]
                key = draw(st.sampled_from(sorted(holder, key=str) if isinstance(holder, dict) else range(len(holder))))
            kind = draw(st.sampled_from(("replace", "replace", "remove", "rename")))
            if holder is root or kind == "replace":
                holder[key] = draw(others)
            elif kind == "remove":
                del holder[key]
            elif isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = holder.pop(key)
        return root[0]

    return changed()


def load_checkpoint(content: bytes) -> bool:
    """`checkpoint.load` of a file with this content."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "last.pt"
        path.write_bytes(content)
        return not refused(lambda: checkpoint.load(path), CheckpointError)


def resume(state: Any) -> bool:
    """Going on from a checkpoint with a right checksum, but a state that no search wrote."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "checkpoints").mkdir()
        checkpoint.save(folder / "checkpoints" / "last.pt", state)

        def restored() -> None:
            resumable = read(folder, lambda _: None)
            resumable.restore(make_trainer(folder, epochs=4).state, lambda _: None)

        return not refused(restored, CheckpointError)


def load_result(files: tuple[bytes, bytes]) -> bool:
    """`result.load` of a folder with this genotype and these weights."""
    with tempfile.TemporaryDirectory() as temporary:
        for name, content in zip(("genotype.json", "model.safetensors"), files, strict=True):
            (Path(temporary) / name).write_bytes(content)
        return not refused(lambda: result.load(temporary), ValueError)


def command_line(words: list[str]) -> bool:
    """The command, up to where it would look for data: a status and at most one line of error."""
    taken: list[Config] = []

    def stand_in(config: Config, *_: object) -> int:
        plan(config)
        if config.depth <= 64 and len(config.candidates) <= 64:
            NetworkSpec.chain(config, 3, 10)
        taken.append(config)
        return 0

    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(train, "_run", stand_in),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = train.main(words)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
    said = err.getvalue()
    if status == 0:
        return True
    if status != 2 or not said.startswith("error: ") or said.count("error: ") != 1 or "Traceback" in said:
        raise Finding(f"status {status}, {said!r}")
    return False


def yaml_file(content: bytes) -> bool:
    """The command with a YAML file of this content."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "run.yaml"
        path.write_bytes(content)
        return command_line(["--config", str(path), "--out", str(Path(temporary) / "run")])


def _pickled(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _checkpoints() -> st.SearchStrategy[bytes]:
    content = finished_run()["checkpoints/last.pt"]
    pickled = _pickled({"a": torch.arange(5), "b": [1, {"c": "d"}, None]})
    return st.one_of(mutated(content), mutated(pickled).map(checkpoint.sealed), st.binary(max_size=99))


def _states() -> st.SearchStrategy[Any]:
    state = torch.load(io.BytesIO(finished_run()["checkpoints/last.pt"].split(b"\n", 3)[3]), weights_only=True)
    tensors = st.sampled_from([torch.zeros(0), torch.zeros(3, dtype=torch.int64), torch.tensor(float("nan"))])
    return altered(state, PLAIN | tensors)


def _results() -> st.SearchStrategy[tuple[bytes, bytes]]:
    files = finished_run()
    genotype, weights = files["genotype.json"], files["model.safetensors"]
    genotypes = st.one_of(
        st.just(genotype), mutated(genotype), altered(json.loads(genotype)).map(lambda v: json.dumps(v).encode())
    )
    return st.tuples(genotypes, st.one_of(st.just(weights), mutated(weights)))


_FIELDS = sorted(Config().to_dict())


def _yaml_files() -> st.SearchStrategy[bytes]:
    config = finished_run()["config.yaml"]
    values = yaml.safe_load(config)
    settings = st.dictionaries(st.sampled_from(_FIELDS) | st.text(max_size=12), PLAIN, max_size=4)
    return st.one_of(
        mutated(config),
        altered(values).map(lambda v: yaml.safe_dump(v).encode()),
        settings.map(lambda v: yaml.safe_dump(v).encode()),
        st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
        st.sampled_from([b"[" * 3000, b"a: &a [*a]", b"- " * 500, b"? " * 500, b"!!python/object:os.system {}"]),
    )


def _command_lines() -> st.SearchStrategy[list[str]]:
    values = st.one_of(
        st.sampled_from(
            ("0", "1", "-1", "3", "2.5", "1e400", "nan", "inf", "null", "true", "[]", "{}", "[none,none]", "digits")
        ),
        st.integers().map(str),
        st.floats().map(str),
        st.text(max_size=12),
        PLAIN.map(lambda v: json.dumps(v)),
    )
    names = st.one_of(
        st.sampled_from([*_FIELDS, "out", "strict", "print_config", "help"]), st.text("abcdefghij_-", max_size=10)
    )
    option = st.one_of(
        st.tuples(names, values).map(lambda nv: [f"--{nv[0]}={nv[1]}"]),
        st.tuples(names, values).map(lambda nv: [f"--{nv[0]}", nv[1]]),
        names.map(lambda name: [f"--{name.replace('_', '-')}"]),
        values.map(lambda value: [value]),
    )
    words = st.lists(option, max_size=4).map(lambda groups: [word for group in groups for word in group])
    return words.map(lambda ws: [*ws, "--out=/nonexistent/fuzz"])


def targets() -> list[Target]:
    """All of them."""
    return [
        Target("checkpoint.load", _checkpoints(), load_checkpoint),
        Target("resume from a state", _states(), resume),
        Target("result.load", _results(), load_result),
        Target("YAML file", _yaml_files(), yaml_file),
        Target("command line", _command_lines(), command_line),
    ]
