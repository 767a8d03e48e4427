"""What a report calls the defaults is what the run was begun with where nothing was given."""

import dataclasses

from asose_fast.config import Config
from asose_fast.engine.retrainer import RetrainConfig
from asose_fast.presets import IMAGES
from asose_fast.report.run import Run
from asose_fast.report.settings import settings


def begun(config):
    return Run("a run", "finished", config=config)


def test_a_command_has_defaults_of_its_own():
    assert settings(begun(Config(**IMAGES).to_dict())) == []
    changed = Config(**{**IMAGES, "channels": 16, "seed": 3})
    assert settings(begun(changed.to_dict())) == [("channels", "16", "24"), ("seed", "3", "0")]
    chain = dict((name, (value, default)) for name, value, default in settings(begun(Config().to_dict())))
    assert chain["space"] == ("chain", "stages")
    assert chain["warmup_epochs"] == ("10", "8")
    assert "candidates" not in chain  # those of the space that was given


def test_a_library_search_and_a_training_from_scratch_have_others():
    library = {name: value for name, value in Config(alpha_every=3).to_dict().items() if name != "dataset"}
    assert settings(begun(library)) == [("alpha_every", "3", "5")]
    assert settings(begun(dataclasses.asdict(RetrainConfig(epochs=7)))) == [
        ("epochs", "7", str(RetrainConfig().epochs))
    ]
