"""asose_fast.search: a whole search in a user's network."""

import copy
import inspect
import json
import math
import pydoc
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import asose_fast
from asose_fast import Config, MixedOp, Observer, PhaseSpec
from asose_fast.config import GuardConfig
from asose_fast.engine.health import collapse
from asose_fast.engine.health.diverged import SearchDivergedError
from asose_fast.engine.metric import Metric
from asose_fast.library.objective import LibraryObjective, doubt
from asose_fast.report.run import read
from asose_fast.store.checkpoint import CheckpointError
from asose_fast.store.run_folder import claimed
from tests.helpers import make_trainer
from tests.library.networks import NAMES, Choices, batches, small
from tests.report.runs import Page

TIMINGS = ("seconds", "images_per_second", "health")


def find(model=None, loaders=None, config=None, **keywords):
    torch.manual_seed(1)
    model = Choices() if model is None else model
    return asose_fast.search(model, loaders or (batches(), batches(seed=1)), config or small(), **keywords)


def untimed(result):
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in result.history]


def test_result():
    loaders = batches(), batches(seed=1), batches(seed=2)
    result = find(loaders=loaders, config=small(search_epochs=6, optimize_epochs=4))
    assert [r["phase"] for r in result.history] == ["warmup"] + 6 * ["search"] + 4 * ["optimize"]
    assert list(result.alpha) == NAMES
    assert list(result.alpha["layers.1"]) == ["linear", "tanh"]
    for name, chosen in result.genotype.items():
        assert chosen == max(result.alpha[name], key=result.alpha[name].get)
    assert not any(isinstance(module, MixedOp) for module in result.network.modules())
    right = sum((result.network(x).argmax(1) == y).sum().item() for x, y in loaders[2])
    assert result.test_score == right / 40
    best = max(r["valid_accuracy"] for r in result.history if r["phase"] == "optimize")
    found = sum((result.network(x).argmax(1) == y).sum().item() for x, y in loaders[1]) / 40
    assert found == pytest.approx(best)
    assert best > 0.8
    assert {item["name"] for item in result.health} >= {"batch-size errors", "search accuracy"}
    assert all(p.requires_grad for p in result.network.parameters())
    copy.deepcopy(result.network)


def test_same_seed_same_result():
    first, second = find(), find()
    assert untimed(first) == untimed(second)
    assert first.alpha == second.alpha
    assert find(config=small(seed=1)).alpha != first.alpha


class StopAt(Observer):
    def __init__(self, epoch, step):
        self.at = epoch, step

    def on_step(self, state):
        if (state.progress.epoch, state.progress.step) == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [(1, 3), (3, 2)])
def test_an_interrupted_search_goes_on_to_the_same_end(tmp_path, at):
    data = torch.utils.data.TensorDataset(*(torch.cat(parts) for parts in zip(*batches(), strict=True)))

    def loaders():
        own = torch.Generator().manual_seed(3)
        train = torch.utils.data.DataLoader(data, 10, shuffle=True, generator=own)
        return train, torch.utils.data.DataLoader(data, 10, shuffle=True)

    config = small(checkpoint_steps=1, search_epochs=2, optimize_epochs=2)
    whole = find(loaders=loaders(), config=config)
    with pytest.raises(KeyboardInterrupt):
        find(loaders=loaders(), config=config, folder=tmp_path, observers=[StopAt(*at)])
    torch.manual_seed(99)
    resumed = find(loaders=loaders(), config=config, folder=tmp_path)
    assert untimed(resumed) == untimed(whole)
    assert resumed.alpha == whole.alpha
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], tensor)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5
    again = find(loaders=loaders(), config=config, folder=tmp_path)  # a finished one gives its result
    assert again.alpha == whole.alpha


def test_the_average_of_the_derived_model_is_the_result_and_goes_on_to_the_same_end(tmp_path):
    recipe = {"ema_decay": 0.9, "nesterov": True, "warmup_share": 0.3, "optimize_learning_rate": 0.05}
    config = small(checkpoint_steps=1, optimize_epochs=2, **recipe)
    states = []

    class Keep(Observer):
        def on_run_end(self, state):
            states.append(state)

    whole = find(config=config, observers=[Keep()])
    with pytest.raises(KeyboardInterrupt):
        find(config=config, folder=tmp_path, observers=[StopAt(len(whole.history) - 1, 2)])
    torch.manual_seed(99)
    resumed = find(config=config, folder=tmp_path)
    assert untimed(resumed) == untimed(whole)
    assert states[0].average.steps == 2 * states[0].data.train.num_batches()
    found, average = whole.network.state_dict(), states[0].best["network"]
    for name, tensor in found.items():
        assert torch.equal(tensor, average[f"model.{name}"])
        assert torch.equal(tensor, resumed.network.state_dict()[name])
    trained = dict(states[0].network.model.named_parameters())
    assert any(not torch.equal(p, trained[name]) for name, p in whole.network.named_parameters())


def test_the_report_of_a_finished_search(tmp_path):
    found = find(folder=tmp_path / "mine")
    run = read(tmp_path / "mine")
    assert (run.state, run.problems, run.choices) == ("finished", [], found.genotype)
    assert not {"dataset", "channels", "batch_size"} & run.config.keys()  # settings that have no effect here
    page = (tmp_path / "mine" / "report.html").read_text()
    assert "<h1>mine</h1>" in page
    assert "Finished" in page
    assert all(f'<tr><th scope="row">{name}</th><td>{op}</td></tr>' in page for name, op in found.genotype.items())
    assert len(repr(found)) < 1000


def test_the_report_of_a_regression_speaks_of_its_loss(tmp_path):
    data = [(x, x.sum(1, keepdim=True)) for x, _ in batches()]
    result = find(Choices(classes=1), (data, data, data), loss=nn.MSELoss(), folder=tmp_path)
    told = json.loads((tmp_path / "summary.json").read_text())["test"]
    assert told == {"name": "MSELoss", "value": -result.test_score, "better": "the lower the better"}
    text = Page((tmp_path / "report.html").read_text()).text
    assert f"{-result.test_score:.4g} test MSELoss of the derived network, the lower the better" in text
    assert f"search MSELoss {-result.history[2]['train_accuracy']:.4g} none ✓ holds" in text
    assert f"asose_fast.load('{tmp_path}', model)" in text
    for wrong in ("accuracy", "ross entropy", "mages/s", "mages per second"):
        assert wrong not in text


def test_the_function_shows_what_it_takes():
    assert list(inspect.signature(asose_fast.search).parameters)[:3] == ["model", "loaders", "config"]
    assert "folder" in inspect.signature(asose_fast.search).parameters
    shown = pydoc.render_doc(asose_fast.search, renderer=pydoc.plaintext)
    assert shown.startswith("Python Library Documentation: function search")


def test_operations_of_one_candidate_each_are_no_early_decision():
    """Their names differ, and nowhere is there a choice."""
    model = nn.Sequential(nn.Flatten(), MixedOp({"a": nn.Linear(3, 3)}), MixedOp({"b": nn.Linear(3, 2)}))
    records = find(model, folder=None).history
    assert {record["candidates"] for record in records} == {1}
    for record in records:
        assert collapse.signs(GuardConfig(), record, [], 0.1) == []


def test_a_folder_of_another_search_is_refused(tmp_path):
    find(folder=tmp_path)
    with pytest.raises(CheckpointError, match="other settings: seed 0 there, 1 here"):
        find(folder=tmp_path, config=small(seed=1))
    with pytest.raises(CheckpointError, match="the model's mixed operations"):
        find(nn.Sequential(MixedOp({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})), folder=tmp_path)
    with pytest.raises(CheckpointError, match="the phases"):
        find(folder=tmp_path, phases=[PhaseSpec("search", 2)])


def test_a_folder_of_another_loss_metric_or_optimizer_is_refused(tmp_path):
    data = [(x, x.sum(1, keepdim=True)) for x, _ in batches()]
    one = {"model": Choices(classes=1), "loaders": (data, data), "folder": tmp_path}
    found = find(**one, loss=nn.MSELoss())
    assert find(**{**one, "model": Choices(classes=1)}, loss=nn.MSELoss()).genotype == found.genotype
    with pytest.raises(CheckpointError, match="the metric MSELoss there, L1Loss here; the loss MSELoss there, L1Loss"):
        find(**one, loss=nn.L1Loss())
    with pytest.raises(CheckpointError, match="the kind of the metric loss there, score here; the metric MSELoss"):
        find(**one, loss=nn.MSELoss(), metric=lambda outputs, y: -(outputs - y).abs().mean())
    with pytest.raises(CheckpointError, match="the optimizer SGD there, AdamW here"):
        find(**one, loss=nn.MSELoss(), optimizer=lambda p: torch.optim.AdamW(p, 0.01))


def test_a_folder_of_a_command_is_refused(tmp_path):
    make_trainer(tmp_path).save("last")
    with pytest.raises(CheckpointError, match=r"\.pt: it was not written by asose_fast\.search.*another folder"):
        find(folder=tmp_path)


def test_a_folder_that_cannot_be_made_is_named_without_the_option_of_a_command(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match=r"cannot make .*Give another folder$"):
        find(folder=tmp_path / "file" / "inside")


def test_a_folder_belongs_to_one_search_at_a_time(tmp_path):
    told = f"another command is writing {tmp_path / 'mine'}: wait"
    with claimed(tmp_path / "mine"), pytest.raises(BlockingIOError, match=told):
        find(folder=tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_folder_of_something_else_is_kept(tmp_path):
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(FileExistsError, match=r"is not empty, it holds config\.yaml: give another folder"):
        find(folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_a_search_that_was_stopped_at_once_goes_on(tmp_path):
    class Stop(Observer):
        def on_epoch_start(self, state, phase):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(folder=tmp_path, observers=[Stop()])
    assert find(folder=tmp_path).alpha == find().alpha


class Notes(Observer):
    def __init__(self):
        self.seen = []

    def on_phase_start(self, state, phase):
        self.seen.append(phase.name)

    def on_epoch_start(self, state, phase):
        self.seen.append("epoch")

    def on_alpha_step(self, state):
        self.seen.append("alpha")

    def on_step(self, state):
        self.seen.append("step")

    def on_epoch_end(self, state, record):
        assert record is state.history[-1]
        self.seen.append("end")

    def on_run_end(self, state):
        self.seen.append("over")


def test_observers_are_told_in_order():
    notes = Notes()
    find(config=small(search_epochs=1, alpha_every=3), observers=[notes, Observer()])
    steps = ["epoch", *4 * ["step"], "end"]
    search = ["epoch", "step", "alpha", "step", "step", "alpha", "step", "end"]
    assert notes.seen == ["warmup", *steps, "search", *search, "optimize", *steps, "over"]


def test_an_observer_may_change_the_search():
    class Hot(Observer):
        def on_epoch_start(self, state, phase):
            state.selector.temperature = 5.0

    result = find(observers=[Hot()], config=small(temperature_decay=1.0))
    assert [r["temperature"] for r in result.history[:3]] == [5.0] * 3


def test_schedule():
    moved, before = {}, []

    def parameters(state):
        return [torch.cat([p.flatten() for p in g]) for g in (state.selector.alpha, state.network.parameters())]

    class Alpha(Observer):
        def on_epoch_start(self, state, phase):
            before[:] = parameters(state)

        def on_epoch_end(self, state, record):
            pairs = zip(before, parameters(state), strict=True)
            moved[record["phase"]] = tuple(name for name, (p, q) in zip("aw", pairs, strict=True) if not p.equal(q))

    phases = [
        PhaseSpec("random", 1, updates="weights", architecture="uniform"),
        PhaseSpec("both", 1, temperature=3.0, boost=True),
        PhaseSpec("weights", 1, updates="weights"),
        PhaseSpec("architecture", 1, updates="alpha", temperature=0.7),
    ]
    result = find(phases=phases, observers=[Alpha()], config=Config(device="cpu", alpha_every=2))
    assert moved == {"random": ("w",), "both": ("a", "w"), "weights": ("w",), "architecture": ("a",)}
    temperatures = [r["temperature"] for r in result.history]
    assert temperatures == pytest.approx([1.5, 3.0 * 0.995**4, 3.0 * 0.995**4, 0.7 * 0.995**4])
    assert result.history[3]["alpha_steps"] == 8
    assert math.isfinite(result.history[3]["train_loss"])
    for name, chosen in result.genotype.items():
        assert chosen == max(result.alpha[name], key=result.alpha[name].get)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [], "at least one phase"),
        (lambda: [PhaseSpec("a", 1), PhaseSpec("a", 1)], "names of their own, got a, a"),
        (lambda: [PhaseSpec("a", 1, updates="weights", architecture="derived"), PhaseSpec("b", 1)], "put 'a' last"),
        (lambda: [PhaseSpec("a", 0)], "'a': epochs must be at least 1, at most 1000000 and whole, got 0"),
        (lambda: [PhaseSpec("a", 1, architecture="uniform")], "'a' updates alpha, which needs architecture='sampled'"),
        (lambda: [PhaseSpec("a", 1, updates="all")], "updates must be one of weights, alpha, both, got 'all'"),
        (
            lambda: [PhaseSpec("a", 1, temperature=0.0)],
            "temperature must be above 0 and at most 1000000.0, or None, got 0.0",
        ),
    ],
)
def test_schedules_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        find(phases=make())


@pytest.mark.parametrize(
    "estimator", ["straight_through", "soft", "reinmax", "gumbel_rao", "gdas", "local_score", "two_path"]
)
def test_every_estimator_searches_rows_of_different_length(estimator):
    before, after = [], []

    class Alpha(Observer):
        def on_run_end(self, state):
            after.extend(row.detach().clone() for row in state.selector.alpha)
            before.append(state.task.network.available)

    start = find(config=small(search_epochs=1, alpha_learning_rate=0.0, alpha_noise=0.0)).alpha
    result = find(config=small(search_epochs=1, alpha_noise=0.0, estimator=estimator), observers=[Alpha()])
    assert any(start[name] != result.alpha[name] for name in NAMES)
    for row, available in zip(after, before[0], strict=True):
        assert row.isfinite().all()
        assert len(row) == 6
        assert available.sum() in (2, 3)


def test_second_order_and_other_guards():
    config = small(alpha_order="second", beta_decay=0.1, guard="rollback", curvature_every=1)
    assert any(isinstance(r["curvature"], float) for r in find(config=config).history)


def test_regression_with_a_loss_and_an_optimizer_of_ones_own():
    data = [(x, x.sum(1, keepdim=True)) for x, _ in batches(6)]
    model = Choices(classes=1)
    rates = []

    class Rates(Observer):
        def on_step(self, state):
            assert isinstance(state.weight_optimizer, torch.optim.AdamW)
            rates.append(state.weight_optimizer.param_groups[0]["lr"])

    keywords = {"loss": F.mse_loss, "optimizer": lambda p: torch.optim.AdamW(p, 0.02), "observers": [Rates()]}
    result = find(model, (data, data), small(optimize_epochs=8), **keywords)
    last = sum(F.mse_loss(result.network(x), y).item() for x, y in data) / 6
    best = max(r["valid_accuracy"] for r in result.history if r["phase"] == "optimize")
    assert best == pytest.approx(-last, rel=1e-5)
    assert last < 0.7
    assert max(rates) == pytest.approx(0.02)
    (judged,) = (item for item in result.health if item["name"] == "search mse_loss")
    searched = next(r for r in reversed(result.history) if r["phase"] == "search")
    assert (judged["value"], judged["bound"], judged["ok"]) == (-searched["train_accuracy"], "none", True)


def test_an_optimizer_with_groups_trains_all_of_them():
    """The parameters may be gone through more than once."""
    groups = []

    def grouped(parameters):
        matrices = {"params": [p for p in parameters if p.ndim > 1]}
        rest = {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0}
        groups.append((len(matrices["params"]), len(rest["params"])))
        return torch.optim.SGD([matrices, rest], 0.05, weight_decay=0.01)

    model = Choices()
    bias = model.head.bias.detach().clone()
    find(model, optimizer=grouped)
    assert min(groups[0]) > 0
    assert sum(groups[0]) == len(list(Choices().parameters()))
    assert not torch.equal(bias, model.head.bias)


def test_an_optimizer_that_misses_a_parameter_is_refused():
    def matrices(parameters):
        return torch.optim.SGD([p for p in parameters if p.ndim > 1], 0.05)

    with pytest.raises(
        ValueError, match=r"optimizer must hold every parameter.*: stem\.bias and \d+ more of the model"
    ):
        find(optimizer=matrices)
    with pytest.raises(TypeError, match=r"optimizer must return a torch.optim.Optimizer, got list"):
        find(optimizer=lambda parameters: parameters)
    model = Choices()
    for p in model.parameters():
        p.requires_grad_(p.ndim > 1)
    find(model, optimizer=matrices)  # what is frozen needs no optimizer


def test_a_metric_of_ones_own():
    result = find(metric=lambda outputs, y: 0.25)
    assert {r["valid_accuracy"] for r in result.history} == {0.25}
    assert {r["metric"] for r in result.history} == {"score"}


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda outputs, y: (outputs.argmax(1) == y).float(), "float32 of shape (10,)"),
        (lambda outputs, y: {"accuracy": 0.5}, "dict"),
        (lambda outputs, y: None, "NoneType"),
        (lambda outputs, y: "0.5", "str"),
        (lambda outputs, y: [0.5, 0.25], "list"),
    ],
)
def test_a_metric_that_is_not_one_number_is_refused_before_the_search(returned, told, tmp_path):
    with pytest.raises(ValueError, match=rf"the metric must return one number, .* got {re.escape(told)}$"):
        find(metric=returned, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [0.25, [0.25], torch.tensor([[0.25]]), np.float32(0.25)])
def test_a_metric_may_return_one_number_of_any_kind(value):
    assert find(metric=lambda outputs, y: value).history[-1]["valid_accuracy"] == 0.25


def named(name):
    def function(outputs, y):
        return 0.5

    function.__name__ = name
    return function


@pytest.mark.parametrize(
    "name", ["mae", "val_rmse", "mean_absolute_error", "MeanSquaredError", "my_loss", "MSELoss", "MAE"]
)
def test_the_direction_of_a_metric_that_is_named_like_an_error_is_said_once(name):
    with pytest.warns(RuntimeWarning) as caught:
        find(metric=named(name))
    (said,) = [str(warning.message) for warning in caught if "metric" in str(warning.message)]
    assert said == (
        f"the metric {name} is taken as the higher the better, and is named like an error. If less is better, give its "
        "negative"
    )


@pytest.mark.parametrize("name", ["accuracy", "neg_mae", "negative_loss", "f1", "cosmae", "NegativeLoss", "<lambda>"])
def test_other_metrics_leave_no_doubt(name):
    assert doubt(LibraryObjective(None, named(name)).measures) is None
    assert doubt(LibraryObjective(named("mse_loss"), None).measures) is None  # whose direction is known


class Weighted(nn.Module):
    def forward(self, outputs, y):
        return F.cross_entropy(outputs, y)


@pytest.mark.parametrize(
    ("loss", "metric", "said"),
    [
        (None, None, ("accuracy", "accuracy", "cross entropy")),
        (F.mse_loss, None, ("loss", "mse_loss", "mse_loss")),
        (nn.MSELoss(), None, ("loss", "MSELoss", "MSELoss")),
        (partial(F.huber_loss, delta=2.0), None, ("loss", "huber_loss", "huber_loss")),
        (lambda outputs, y: outputs.sum(), None, ("loss", "loss", "loss")),
        (None, Weighted(), ("score", "Weighted", "cross entropy")),
        (nn.MSELoss(), lambda outputs, y: 0.5, ("score", "score", "MSELoss")),
    ],
)
def test_what_is_measured_has_the_name_of_its_function(loss, metric, said):
    measured = LibraryObjective(loss, metric).measures
    assert (measured.kind, measured.name, measured.loss) == said
    assert Metric.of(measured.said) == measured


def of_class_one(outputs, y):
    return F.binary_cross_entropy_with_logits(outputs[:, 1] - outputs[:, 0], y.float())


@pytest.mark.parametrize(
    "loss",
    [of_class_one, nn.CrossEntropyLoss(torch.tensor([1.0, 3.0])), nn.CrossEntropyLoss(label_smoothing=0.1)],
    ids=["binary", "class weights", "label smoothing"],
)
def test_a_healthy_search_by_a_loss_raises_no_alarm(loss):
    """A loss is its score with the sign changed: it may fall."""
    config = small(warmup_epochs=3, search_epochs=6, guard="rollback")
    result = find(loss=loss, config=config)
    assert {r["metric"] for r in result.history} == {"loss"}
    assert result.history[-2]["train_loss"] < result.history[2]["train_loss"]
    assert not any("guard" in record for record in result.history)


def test_a_search_whose_loss_rises_is_rolled_back():
    class Spoil(Observer):
        def on_step(self, state):
            if state.progress.epoch == 4:
                with torch.no_grad():
                    state.network.model.head.weight.neg_()

    result = find(
        loss=of_class_one, config=small(warmup_epochs=3, search_epochs=6, guard="rollback"), observers=[Spoil()]
    )
    assert [r["epoch"] for r in result.history if "guard" in r] == [5]
    guard = result.history[4]["guard"]
    assert re.match(r"of_class_one of sampled paths [\d.]+, after 0\.\d+ at the warmup's end", guard["signs"][0])
    assert guard["action"].startswith("back to the last healthy epoch")


class Tagger(nn.Module):
    """(N, T) tokens to class scores (N, classes, T)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 8)
        attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.mixed = MixedOp({"attention": attention, "skip": nn.Identity(), "linear": nn.Linear(8, 8)})
        self.head = nn.Linear(8, 5)

    def forward(self, tokens):
        return self.head(self.mixed(self.embed(tokens))).transpose(1, 2)


def test_sequences():
    tokens = [torch.randint(5, (8, 7), generator=torch.Generator().manual_seed(i)) for i in range(4)]
    data = [(t, t) for t in tokens]
    result = find(Tagger(), (data, data), small(optimize_epochs=10))
    found = sum((result.network(t).argmax(1) == t).float().mean().item() for t in tokens) / 4
    assert found == pytest.approx(max(r["valid_accuracy"] for r in result.history if r["phase"] == "optimize"))
    assert found > 0.5


def test_structured_batches():
    class Structured(Choices):
        def forward(self, x):
            return super().forward(x["features"][0])

    data = [({"features": [x]}, y) for x, y in batches()]
    assert find(Structured(), (data, data)).history[-1]["batch_size_errors"] == 0


def test_no_alpha_is_learned_from_training_batches_and_the_test_batches_are_read_once():
    read = []

    class Counted(list):
        def __iter__(self):
            read.append(1)
            return super().__iter__()

    find(loaders=(batches(), batches(seed=1), Counted(batches())))
    assert len(read) == 1


class Apart(nn.Module):
    def __init__(self, **ops):
        super().__init__()
        self.used, self.other = MixedOp({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)}), MixedOp(ops)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": nn.Linear(3, 2)}, ValueError, "no mixed operation"),
        ({"model": Apart(c=nn.Tanh())}, ValueError, "does not run its mixed operation 'other'"),
        ({"model": nn.Sequential(MixedOp({"a": nn.Linear(3, 2), "b": nn.Linear(3, 4)}))}, ValueError,
         r"candidate b returned the shape \(10, 4\), candidate a \(10, 2\)"),
        ({"loaders": batches()[:1]}, TypeError, r"must be \(train, valid\)"),
        ({"loaders": (iter(batches()), batches())}, ValueError, "training loader can be iterated only once"),
        ({"loaders": (batches(), [])}, ValueError, "validation loader gives no batch"),
        ({"loaders": (3, batches())}, TypeError, "training loader must be an iterable of batches"),
        ({"loaders": ([x for x, _ in batches()], batches())}, ValueError, r"a pair \(x, y\), got a Tensor"),
        ({"config": small(max_depth=4)}, ValueError, "max_depth has no effect on a search in a network"),
        ({"config": small(batch_size=4)}, ValueError, "batch_size has no effect"),
        ({"config": small(cutmix=1.0)}, ValueError, "cutmix has no effect"),
        ({"config": small(optimize_on="all")}, ValueError, "optimize_on has no effect"),
        ({"config": small(optimizer="adamw"), "optimizer": lambda p: torch.optim.SGD(p, 0.1)}, ValueError,
         "both say what trains the weights"),
        ({"config": small(nesterov=True), "optimizer": lambda p: torch.optim.SGD(p, 0.1)}, ValueError,
         "nesterov is of the SGD that optimizer takes the place of"),
        ({"config": small(warmup="skip")}, ValueError, "skip_connect everywhere, 'layers.0.ops.deep.1' has none"),
        ({"loss": lambda outputs, y: outputs}, ValueError, r"one value, got one of shape \(10, 2\)"),
        ({"optimizer": torch.optim.Adam, "config": small(alpha_order="second")}, ValueError, "leave out optimizer"),
        ({"config": {"epochs": 4}}, TypeError,
         r"config must be an asose_fast\.Config, got a value of the type dict: give Config\(epochs=4\), say"),
        ({"optimizer": torch.optim.SGD(nn.Linear(3, 2).parameters(), 0.1)}, TypeError,
         r"optimizer must be a function of a list of parameters, as lambda .*; got a value of the type SGD"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be a function .* got a value of the type str"),
        ({"optimizer": lambda p: p}, TypeError, r"optimizer must return a torch\.optim\.Optimizer, got list"),
        ({"loss": nn.CrossEntropyLoss}, TypeError,
         r"loss must be a function .*, as torch\.nn\.CrossEntropyLoss\(\); got the class CrossEntropyLoss"),
        ({"metric": "accuracy"}, TypeError, "metric must be a function .* got a value of the type str"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_told(arguments, error, message):
    with pytest.raises(error, match=message):
        find(**arguments)


def test_class_scores_are_asked_for():
    model = nn.Sequential(MixedOp({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)}), nn.LSTM(2, 2))
    with pytest.raises(ValueError, match="returned tuple, which is no table of class scores"):
        find(model)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda y: y + 1, "labels must be 0 to 1, as the model returned 2 scores, got 1 to 2"),
        (lambda y: y - 1, "labels must be 0 to 1, as the model returned 2 scores, got -1 to 0"),
        (lambda y: y.int(), r"int64 of shape \(N,\), for scores of shape \(10, 2\); got int32 of shape \(10,\)"),
        (lambda y: y[:, None], r"int64 of shape \(N,\).*; got int64 of shape \(10, 1\)"),
        (lambda y: F.one_hot(y).float(), r"int64 of shape \(N,\).*; got float32 of shape \(10, 2\)"),
        (lambda y: y.tolist(), r"int64 of shape \(N,\).*; got list"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("split", [0, 1])
def test_labels_that_fit_no_scores_are_told_before_the_search(split, label, message):
    class Untouched(Observer):
        def on_phase_start(self, state, phase):
            raise AssertionError("the search has begun")

    loaders = [batches(), batches(seed=1)]
    loaders[split] = [(x, label(y)) for x, y in loaders[split]]
    with pytest.raises(ValueError, match=message):
        find(loaders=loaders, observers=[Untouched()])


def test_divergence_names_the_module():
    class Break(Observer):
        def on_epoch_start(self, state, phase):
            if phase.name == "search":
                state.network.model.layers[1].ops["linear"].weight.data.fill_(float("nan"))

    with pytest.raises(SearchDivergedError, match=r"first not finite is module layers\.1\.ops\.linear"):
        find(observers=[Break()])


def test_a_gradient_that_is_not_finite_is_named():
    model = Choices()
    model.stem.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(
        SearchDivergedError, match=r"the gradient of stem\.weight is not finite in phase warmup, epoch 1"
    ):
        find(model)


def test_the_search_is_a_plain_function():
    assert inspect.isfunction(asose_fast.search)
    assert asose_fast.search.__module__ == "asose_fast.library.run"


@pytest.mark.parametrize("loss", [None, lambda outputs, y: F.mse_loss(outputs[:, 0], y.float())])
def test_a_terminal_shows_the_progress_unless_observers_are_given(monkeypatch, capsys, loss):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    find(loss=loss, observers=())
    assert capsys.readouterr().out == ""
    result = find(loss=loss)
    said = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().out)
    last = result.history[-1]["valid_accuracy"]
    assert re.search(rf"4/4 +optimize .* {f'{last:.1%}' if loss is None else f'{-last:.3f}'} ", said)
    assert ("%" in said) == (loss is None)
    assert ("accuracy" in said) == (loss is None)
    assert ("valid is loss, the lower the better" in said) == (loss is not None)
    monkeypatch.delenv("FORCE_COLOR")
    find(loss=loss)
    assert capsys.readouterr().out == ""


def test_processes_of_torchrun_are_told_that_they_search_apart(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.warns(RuntimeWarning, match="torchrun has started 2 processes, and asose_fast.search shares no work"):
        find()


class Images(nn.Module):
    """With a mixed operation whose candidates are fused."""

    def __init__(self, *widths):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        ops = {f"sep_{k}": MixedOp.named(("sep_conv_3x3",), w, 1).ops["sep_conv_3x3"] for k, w in enumerate(widths)}
        self.block = nn.Sequential(MixedOp(ops))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))

    def forward(self, x):
        return self.head(self.block(self.stem(x)))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((16, 16), r"^candidate 'sep_0' of mixed operation 'block\.0' cannot run on the first training batch: "
                   r".*to have 16 channels, but got 8 channels instead$"),
        ((8, 16), r"^candidate 'sep_1' of mixed operation 'block\.0' cannot run"),
    ],
)  # fmt: skip
def test_the_trial_names_the_mixed_operation_and_the_candidate_that_cannot_run(widths, message):
    data = [(torch.randn(4, 3, 6, 6), torch.tensor([0, 1, 0, 1]))] * 2
    model = Images(*widths)
    with pytest.raises(ValueError, match=message):
        find(model, (data, data))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_trial_leaves_errors_of_the_rest_of_a_model_as_they_are():
    model = nn.Sequential(nn.Linear(5, 2), MixedOp({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        find(model)
