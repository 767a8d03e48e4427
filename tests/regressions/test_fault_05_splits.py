"""Fault 5: alpha learned on the training batches, and test accuracy steered growth and checkpoints."""

from asose_fast.data.split import Split
from asose_fast.engine.result import write_result
from asose_fast.engine.step import graphs
from asose_fast.engine.step.steps import alpha_step, weight_step
from tests.helpers import make_trainer


def test_each_split_is_read_for_its_purpose_and_test_once(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, growth_patience=1, growth_threshold=99.0, growth_epochs=3, augment=False)
    read = []
    batches = Split.batches

    def recorded(split, *arguments, **keywords):
        read.append(split.name)
        return batches(split, *arguments, **keywords)

    monkeypatch.setattr(Split, "batches", recorded)
    trainer.run()
    grown = [record["growth"]["kind"] for record in trainer.state.history if record.get("growth")]
    assert grown == ["deeper", "wider"]  # it grew, and kept its best network
    assert trainer.state.best is not None
    assert "test" not in read
    write_result(trainer.state, trainer.state.data, tmp_path)
    assert read.count("test") == 1


def test_weights_see_training_images_and_alpha_sees_validation_images(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, augment=False)
    images = {
        split.name: {x.numpy().tobytes() for batch, _ in split.batches(0) for x in batch}
        for split in (trainer.state.data.train, trainer.state.data.valid)
    }
    seen = {"train": set(), "valid": set()}

    def recorded(step, name):
        def run(network, optimizer, x, *arguments, **keywords):
            seen[name] |= {image.numpy().tobytes() for image in x}
            return step(network, optimizer, x, *arguments, **keywords)

        return run

    monkeypatch.setattr(graphs, "weight_step", recorded(weight_step, "train"))
    monkeypatch.setattr(graphs, "alpha_step", recorded(alpha_step, "valid"))
    trainer.run()
    assert seen == images
