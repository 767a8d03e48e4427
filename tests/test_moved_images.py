"""A run goes on, and is derived from and retrained, wherever it is called from and wherever its images lie now."""

import random
import shutil

import pytest
import yaml
from PIL import Image

from asose_fast.derive import derive
from asose_fast.derive import main as derive_main
from asose_fast.retrain import main as retrain
from asose_fast.store import checkpoint, checkpoint_folder
from asose_fast.train import main as train
from tests.helpers import contents, options, refused

OWN = options(batch_size=8, limit_train=64, limit_test=16, candidates=("skip_connect", "max_pool_3x3"))
SMALL = ["--epochs=1", "--batch_size=8", "--threads=1"]


def draw(folder, seed=0):
    drawn = random.Random(seed)
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True)
        for number in range(40):
            Image.frombytes("L", (8, 8), drawn.randbytes(64)).save(folder / kind / f"{number}.png")
    return folder


def places(folder):
    """Of the images, as the settings and the newest checkpoint of a run have it."""
    _, saved = checkpoint_folder.load_newest(folder / "checkpoints", print)
    return yaml.safe_load((folder / "config.yaml").read_text())["dataset"], saved["config"]["dataset"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with images, and a run that was told of them by a relative path."""
    root = tmp_path_factory.mktemp("begun")
    draw(root / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert train([*OWN, "--dataset=imagefolder:photos", "--out=run"]) == 0
    return root


@pytest.fixture
def here(begun, tmp_path, monkeypatch):
    """The run alone, called from a folder of its own; its images are still where they were."""
    shutil.copytree(begun / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_goes_on_from_any_folder(begun, here):
    assert places(here / "run") == (f"imagefolder:{begun / 'photos'}",) * 2
    model = (here / "run" / "model.safetensors").read_bytes()
    assert train(["--resume", "run"]) == 0
    assert (here / "run" / "model.safetensors").read_bytes() == model
    assert derive(here / "run").data.digest
    assert retrain(["run", *SMALL, "--out=again"]) == 0
    assert place_of(here / "again") == f"imagefolder:{begun / 'photos'}"


def place_of(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())["dataset"]


def test_a_run_whose_images_have_moved_is_told_where_to_and_keeps_it(begun, here, capsys):
    root = here / "elsewhere"
    shutil.copytree(begun / "photos", root / "photos")
    shutil.move(begun / "photos", begun / "gone")
    try:
        model = (here / "run" / "model.safetensors").read_bytes()
        advice = "If the images have moved, give --dataset imagefolder:PATH, where they lie now"
        for main, words in ((train, ["--resume", "run"]), (derive_main, ["run"]), (retrain, ["run", *SMALL])):
            error = refused(capsys, main, *words)
            assert f"there is no folder {begun / 'photos'}" in error
            assert advice in error
        new = "--dataset=imagefolder:elsewhere/photos"
        assert derive_main(["run", new, "--out=derived"]) == 0
        assert retrain(["run", new, *SMALL, "--out=again"]) == 0
        assert train(["--resume", "run", new]) == 0
        assert (here / "run" / "model.safetensors").read_bytes() == model
        assert places(here / "run")[0] == f"imagefolder:{root / 'photos'}"
        assert place_of(here / "derived") == f"imagefolder:{root / 'photos'}"
        assert train(["--resume", "run"]) == 0
        assert derive_main(["run"]) == 0  # the supernet's own settings have the first place
        assert train([*OWN, new, "--out=run", "--resume_if_there"]) == 0
        assert retrain(["run", *SMALL, "--out=again"]) == 0
    finally:
        shutil.move(begun / "gone", begun / "photos")


def test_other_images_are_refused_as_others(here, capsys):
    draw(here / "others", seed=1)
    before = contents(here / "run")
    new = "--dataset=imagefolder:others"
    for main, words in (
        (train, ["--resume", "run", new]),
        (derive_main, ["run", new]),
        (train, [*OWN, new, "--out=run", "--resume_if_there"]),
    ):
        error = refused(capsys, main, *words)
        assert "the images, their labels or their division are not those that the run was started with" in error
    assert "and digits are other images" in refused(capsys, train, "--resume", "run", "--dataset=digits")
    assert "data_root is where downloaded sets are kept" in refused(capsys, derive_main, "run", "--data_root=x")
    assert contents(here / "run") == before
    assert retrain(["run", *SMALL, "--out=again"]) == 0
    assert "begun with other images" in refused(capsys, retrain, "run", *SMALL, new, "--out=again")


def test_a_relative_path_of_an_older_release_is_found_from_where_it_was(begun, here, monkeypatch, capsys):
    for path in (here / "run" / "checkpoints").glob("*.pt"):
        saved = checkpoint.load(path)
        saved["config"]["dataset"] = "imagefolder:photos"
        checkpoint.save(path, saved)
    settings = yaml.safe_load((here / "run" / "config.yaml").read_text())
    (here / "run" / "config.yaml").write_text(yaml.safe_dump({**settings, "dataset": "imagefolder:photos"}))
    assert f"there is no folder {here / 'photos'}" in refused(capsys, train, "--resume", "run")
    monkeypatch.chdir(begun)
    assert derive_main([str(here / "run")]) == 0
    assert train(["--resume", str(here / "run")]) == 0
    assert places(here / "run")[0] == f"imagefolder:{begun / 'photos'}"
    monkeypatch.chdir(here)
    assert train(["--resume", "run"]) == 0


def test_nothing_is_written_among_the_images(here, monkeypatch, capsys):
    photos = draw(here / "photos")
    before = contents(here)
    said = "the folder of the images, where the next run would take it for a class or a split: give an --out outside"
    new = f"--dataset=imagefolder:{photos}"
    for main, words in (
        (train, [*OWN, new, f"--out={photos}"]),
        (train, [*OWN, new, "--out=photos/runs/a"]),
        (retrain, ["run", *SMALL, new, "--out=photos/a"]),
        (derive_main, ["run", new, "--out=photos/a"]),
    ):
        assert said in refused(capsys, main, *words)
    monkeypatch.chdir(photos)
    assert said in refused(capsys, train, *OWN, "--dataset=imagefolder:.")
    assert contents(here) == before
    assert not (photos / "runs").exists()
