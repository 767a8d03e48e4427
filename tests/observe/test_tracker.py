"""Services for experiments: what they are told, under one identity over interruptions, and what they must not end."""

import importlib.util
import json
import sys
import types

import pytest

from asose_fast.observe import tracking
from asose_fast.observe.scalars import scalars
from asose_fast.observe.tracker import RESULT, Tracker
from asose_fast.retrain import main as retrain
from asose_fast.train import main
from tests.helpers import options, refused

EPOCHS = 5


class Service:
    """What a service has been told, by the name of the run in it."""

    def __init__(self):
        self.epochs, self.settings, self.results, self.ends = {}, {}, {}, []

    def began(self, identity, settings):
        self.epochs.setdefault(identity, [])
        self.settings.setdefault(identity, {}).update(settings)


def recorded_wandb(service):
    """The part of wandb's interface that is used, recorded from wandb 0.31."""

    class Run:
        def __init__(self, identity):
            self.id, self.url, self.dir = identity, None, f"wandb/offline-{identity}"
            self.config = types.SimpleNamespace(update=self.configure)
            self.summary = types.SimpleNamespace(update=lambda result: service.results.update({identity: result}))

        def configure(self, settings, *, allow_val_change):
            assert allow_val_change
            service.began(self.id, settings)

        def define_metric(self, name, *, step_metric):
            assert (name, step_metric) == ("*", "epoch")

        def log(self, data):
            service.epochs[self.id].append((data["epoch"], {name: data[name] for name in data if name != "epoch"}))

        def finish(self, *, exit_code):
            service.ends.append(exit_code == 0)

    def init(*, project, name, dir, id, resume, settings):
        assert (project, name, resume) == ("asose_fast", "run", "allow" if id else None)
        return Run(id or f"w{len(service.epochs)}")

    module = types.ModuleType("wandb")
    module.init, module.Settings = init, lambda *, console, silent: (console, silent)
    return {"wandb": module}


def recorded_mlflow(service):
    """The part of MLflow's interface that is used, recorded from mlflow-skinny 3.17."""

    class Client:
        def get_experiment_by_name(self, name):
            assert name == "asose_fast"

        def create_experiment(self, name):
            return "7"

        def create_run(self, experiment, *, run_name):
            assert (experiment, run_name) == ("7", "run")
            identity = f"m{len(service.epochs)}"
            service.began(identity, {})
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=identity))

        def update_run(self, identity, *, status):
            assert (identity in service.epochs, status) == (True, "RUNNING")

        def log_batch(self, identity, metrics=(), params=()):
            assert len(params) <= 100
            service.settings[identity].update({param.key: param.value for param in params})
            numbers = {metric.key: metric.value for metric in metrics}
            if "test_accuracy" in numbers:
                service.results[identity] = numbers
            elif metrics:
                service.epochs[identity].append((metrics[0].step, numbers))

        def set_terminated(self, identity, *, status):
            service.ends.append(status == "FINISHED")

    def entity(*names):
        return lambda *values: types.SimpleNamespace(**dict(zip(names, values, strict=True)))

    module, entities = types.ModuleType("mlflow"), types.ModuleType("mlflow.entities")
    module.MlflowClient, module.get_tracking_uri = Client, lambda: "file:mlruns"
    entities.Metric, entities.Param = entity("key", "value", "timestamp", "step"), entity("key", "value")
    return {"mlflow": module, "mlflow.entities": entities}


def refuse(**given):
    raise RuntimeError("no key is configured")


@pytest.fixture(params=["wandb", "mlflow"])
def name(request):
    return request.param


@pytest.fixture
def service(name, monkeypatch):
    """A recorded stand-in, in the place of the package."""
    service = Service()
    for module, stand_in in {"wandb": recorded_wandb, "mlflow": recorded_mlflow}[name](service).items():
        stand_in.__spec__ = importlib.util.spec_from_loader(module, None, origin="recorded")
        monkeypatch.setitem(sys.modules, module, stand_in)
    return service


def history(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_service_is_told_settings_epochs_and_result(tmp_path, service, name, capsys):
    run = tmp_path / "run"
    assert main([*options(), f"--track={name}", f"--out={run}"]) == 0
    assert f"{name}: " in capsys.readouterr().out
    ((identity, epochs),) = service.epochs.items()
    assert epochs == [(record["epoch"], scalars(record)) for record in history(run)]
    assert len(epochs) == EPOCHS
    assert {"train_loss", "valid_accuracy", "max_weight_by_layer/02", "temperature"} <= epochs[0][1].keys()
    assert str(service.settings[identity]["batch_size"]) == "20"
    summary = json.loads((run / "summary.json").read_text())
    assert service.results == {identity: {key: summary[key] for key in RESULT}}
    assert service.ends == [True]


def test_a_run_that_goes_on_is_the_same_one(tmp_path, service, name, capsys):
    run = tmp_path / "run"
    assert main([*options(), f"--track={name}", f"--out={run}"]) == 0
    assert main(["--resume", str(run), "--optimize_epochs=2"]) == 0
    ((_, epochs),) = service.epochs.items()
    assert [number for number, _ in epochs] == [1, 2, 3, 4, 5, 6]
    other = {"wandb": "mlflow", "mlflow": "wandb"}[name]
    said = refused(capsys, main, "--resume", run, f"--track={other}")
    assert f"{run} is tracked by {name}: leave --track {other} out" in said
    assert main([*options(), f"--out={run}", "--overwrite"]) == 0  # another run, which nobody follows
    assert len(service.epochs) == 1


def test_a_training_from_scratch_is_told_too(tmp_path, service, name):
    assert main([*options(), f"--out={tmp_path / 'found'}"]) == 0
    assert not service.epochs
    words = [str(tmp_path / "found"), "--epochs=2", f"--out={tmp_path / 'run'}"]
    assert retrain([*words, f"--track={name}"]) == 0
    assert retrain(words) == 0
    ((identity, epochs),) = service.epochs.items()
    assert [number for number, _ in epochs] == [1, 2]
    assert 0 <= service.results[identity]["test_accuracy"] <= 1
    assert service.ends == [True, True]


def test_a_service_that_fails_ends_no_run(tmp_path, service, name, monkeypatch, capsys):
    def fail(self, numbers, epoch):
        raise ConnectionError("nobody answers")

    whole = tracking.begin(name, tmp_path / "run", {}, goes_on=False)
    monkeypatch.setattr(type(whole), "tell", fail)
    assert main([*options(), f"--track={name}", f"--out={tmp_path / 'run'}"]) == 0
    assert capsys.readouterr().err.count(f"{name} is told no more of this run: nobody answers") == 1


def test_a_missing_package_or_a_refusal_ends_the_command_before_it_begins(tmp_path, name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    words = [*options(), f"--track={name}", f"--out={tmp_path / 'run'}"]
    assert f"pip install 'asose_fast[{name}]'" in refused(capsys, main, *words)
    monkeypatch.setattr(tracking, "find_spec", lambda name: types.SimpleNamespace(origin=None))  # a folder
    assert f"--track {name} needs a package" in refused(capsys, main, *words)
    assert not list(tmp_path.rglob("*.pt"))

    module = types.ModuleType(name)
    module.Settings, module.init, module.MlflowClient = dict, refuse, refuse
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, f"{name}.entities", module)
    monkeypatch.setattr(tracking, "find_spec", lambda name: types.SimpleNamespace(origin="here"))
    assert f"--track {name}: no key is configured" in refused(capsys, main, *words)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_damaged_memory_is_named(tmp_path):
    (tmp_path / "tracked.json").write_text('{"service": "else"}')
    with pytest.raises(ValueError, match=r"tracked.json is damaged: remove it"):
        tracking.begin(None, tmp_path, {}, goes_on=True)
    assert tracking.begin(None, tmp_path, {}, goes_on=False) is None


def test_an_interrupted_run_does_not_count_as_finished():
    ends = []

    class Own(Tracker):
        service = "wandb"

        def tell_result(self, numbers):
            ends.append(numbers)

        def end(self, done):
            ends.append(done)

    interrupted, whole = Own(), Own()
    interrupted.close()
    whole.result({"test_accuracy": 0.5, "parameters": 3, "flops": None, "more": 1})
    whole.close()
    assert ends == [False, {"test_accuracy": 0.5, "parameters": 3}, True]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_the_packages_themselves_take_what_they_are_told(tmp_path, package, monkeypatch):
    """Offline and in files, where they are installed: the stand-ins above are theirs."""
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs.db'}")
    run = tmp_path / "run"
    assert main([*options(), f"--track={package}", f"--out={run}"]) == 0
    assert main(["--resume", str(run), "--optimize_epochs=2"]) == 0
    if package == "wandb":
        assert len(list(run.glob("wandb/offline-run-*/*.wandb"))) == 2
        return
    import mlflow

    (found,) = mlflow.MlflowClient().search_runs([mlflow.get_experiment_by_name("asose_fast").experiment_id])
    assert found.info.status == "FINISHED"
    losses = mlflow.MlflowClient().get_metric_history(found.info.run_id, "train_loss")
    assert [metric.step for metric in losses] == [1, 2, 3, 4, 5, 6]
    assert found.data.params["batch_size"] == "20"
