"""How a user's folder is read: split folders in their usual spellings, hidden files, what is no image."""

import shutil

import pytest
import torch
from PIL import Image

from asose_fast.data import DataConfig, DataError, DataNotFoundError, load_data
from asose_fast.data.sources.layout import split_named

CPU = torch.device("cpu")


def load(root, batch_size=2, **settings):
    return load_data(DataConfig(f"imagefolder:{root}", **settings), batch_size, 0, CPU)


def sizes(data):
    return len(data.train), len(data.valid), len(data.test)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Train TRAIN training Training train_set training-set trainset train_data train_images"),
        ("test", "test Test TEST testing Testing test_set Test-Set testset test_images"),
        ("valid", "val valid Valid validation Validation val_set dev eval evaluation VAL"),
        (None, "trains trainer contest testament cat valley value trainA steam_train devil"),
    ],
)
def test_the_spellings_of_the_splits(split, names):
    assert {name: split_named(name) for name in names.split()} == dict.fromkeys(names.split(), split)


@pytest.mark.parametrize(
    ("train", "test"), [("Training", "Testing"), ("Train", "Test"), ("TRAIN", "TEST"), ("training_set", "test_set")]
)
def test_splits_are_known_in_any_spelling(write_classes, train, test):
    write_classes({"cat": 12, "dog": 8}, train)
    root = write_classes({"cat": 3, "dog": 5}, test)
    data = load(root)
    assert data.classes == ("cat", "dog")
    assert sizes(data) == (15, 5, 8)
    assert data.notes == ()


@pytest.mark.parametrize("name", ["valid", "val", "Validation", "dev"])
def test_a_validation_folder_is_the_validation_split(write_classes, name):
    write_classes({"cat": 12, "dog": 8}, "train")
    write_classes({"cat": 3, "dog": 5}, "test")
    root = write_classes({"cat": 4, "dog": 2}, name)
    for path in (root / name).rglob("*.png"):
        Image.new("RGB", (8, 8), (250, 0, 0) if "cat" in str(path) else (0, 250, 0)).save(path)
    data = load(root)
    assert sizes(data) == (20, 6, 8)
    x, y = (torch.cat(parts) for parts in zip(*data.valid.batches(0), strict=True))
    assert torch.equal(x[:, 0].mean((1, 2)) > x[:, 1].mean((1, 2)), y == 0)
    assert y.tolist() != sorted(y.tolist())  # classes are mixed
    assert sizes(load(root, limit_train=4)) == (4, 4, 8)
    assert sizes(load(root, limit_train=2)) == (2, 2, 8)
    with pytest.raises(DataError, match="limit_train must be at least 2, one image to train for each of the 2 classes"):
        load(root, limit_train=1)
    with pytest.raises(DataError, match=r"leaves 6 validation images, .* lower batch_size to 6 or less, or"):
        load(root, batch_size=7)


def test_a_validation_folder_must_have_the_classes_of_train(write_classes):
    write_classes({"cat": 4, "dog": 4}, "Train")
    write_classes({"cat": 2, "dog": 2}, "Test")
    root = write_classes({"cat": 2, "cow": 2}, "Val")
    with pytest.raises(DataError, match="same class folders: only Train has dog; only Val has cow"):
        load(root)


def test_folders_beside_the_splits_are_named(write_classes):
    write_classes({"cat": 4, "dog": 4}, "train")
    write_classes({"cat": 2, "dog": 2}, "test")
    root = write_classes({"cat": 2}, "extra")
    (root / "val").mkdir()  # holds no class folders
    assert load(root).notes == (f"{root}: beside train, test, these folders are not read: extra, val",)


def test_train_and_valid_alone_ask_for_test_images(write_classes):
    write_classes({"cat": 4, "dog": 4}, "train")
    root = write_classes({"cat": 2, "dog": 2}, "val")
    with pytest.raises(DataNotFoundError, match=f"{root / 'test'} is missing: add it, rename {root / 'val'} to it"):
        load(root)


def test_valid_alone_asks_for_both(write_classes):
    root = write_classes({"cat": 4, "dog": 4}, "val")
    with pytest.raises(DataNotFoundError, match=f"{root}/train and {root}/test are missing: add them"):
        load(root)


def test_two_folders_for_one_split_are_refused(write_classes):
    for name in ("train", "Training", "test"):
        root = write_classes({"cat": 4, "dog": 4}, name)
    with pytest.raises(DataError, match="several folders for one split, Training and train: keep one"):
        load(root)


@pytest.mark.parametrize("names", [("Training", "Testing"), ("train", "test"), ("train", "val"), ("TRAIN", "eval")])
def test_splits_without_class_folders_are_no_classes(write_classes, names):
    root = write_classes(dict.fromkeys(names, 6))
    with pytest.raises(DataError, match="hold no class folders: put the images of each split into one folder a class"):
        load(root)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("a/cat", "a/dog", "b/cat", "b/dog"), "each of them folders called cat, dog: if the latter are the classes, "
                                               "give imagefolder:{root}/a, for one; if the former are, put their"),
        (("seg_train/x/cat", "seg_train/x/dog", "seg_test/x/cat", "seg_test/x/dog"),
         "the folders seg_test, seg_train in {root} seem to be splits: name them train and test"),
        (("pets/cat", "pets/dog"), "if those are the classes, give imagefolder:{root}/pets$"),
        (("pets/train/cat", "pets/test/cat", "more"), "give imagefolder:{root}/pets, or, where pets is a class"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "write {root}/train/cat/ and {root}/test/cat/"),
    ],
)  # fmt: skip
def test_folders_of_folders_are_no_classes(write_classes, folders, message):
    root = write_classes(dict.fromkeys(folders, 4))
    with pytest.raises(DataError, match=message.format(root=root)):
        load(root)


@pytest.mark.parametrize(
    "folders", [("cat/one", "cat/two", "dog/three", "dog/four"), ("cat/images", "dog/images"), ("cat", "dog/one")]
)
def test_a_class_may_hold_folders(write_classes, folders):
    data = load(write_classes(dict.fromkeys(folders, 8)))
    assert data.classes == ("cat", "dog")
    assert sum(sizes(data)) == 8 * len(folders)


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".git", "lost+found", "#recycle", "$RECYCLE.BIN"]
)
def test_hidden_and_system_folders_are_skipped_and_said_once(write_classes, name):
    root = write_classes({"cat": 10, "dog": 10})
    for folder in (root, root / "cat", root / "dog"):
        shutil.copytree(root / "cat", folder / name, ignore=shutil.ignore_patterns(name))
    data = load(root)
    assert data.classes == ("cat", "dog")
    assert sizes(data) == (12, 4, 4)
    shown = ", ".join(sorted((name, f"cat/{name}", f"dog/{name}")))
    assert data.notes == (f"{root}: hidden and system files are skipped: {shown}",)


def test_hidden_files_are_skipped(write_classes):
    root = write_classes({"cat": 10, "dog": 10})
    for number in range(5):
        shutil.copy(root / "cat" / "000.png", root / "cat" / f"._{number}.png")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "dog" / name).write_bytes(b"\0")
        (root / name).write_bytes(b"\0")
    data = load(root)
    assert sizes(data) == (12, 4, 4)
    shown = "cat/._0.png, cat/._1.png, cat/._2.png and 2 more"
    assert data.notes == (f"{root}: hidden and system files are skipped: {shown}",)


def test_a_set_may_lie_in_a_hidden_folder(write_classes):
    root = write_classes({"cat": 10, "dog": 10}, ".cache/photos") / ".cache" / "photos"
    assert sizes(load(root)) == (12, 4, 4)
    assert load(root).notes == ()


def test_files_of_which_no_image_is_read_are_counted(write_classes):
    root = write_classes({"cat": 10, "dog": 10})
    for name in ("cat/a.txt", "cat/b.TXT", "dog/c.xml", "dog/README", "dog/d.heicx"):
        (root / name).write_text("no image")
    notes = load(root).notes
    assert notes[0].startswith(f"{root}: files of which no image is read are left out: 2 .txt, ")
    for told in ("1 .xml", "1 without an extension", "1 .heicx"):
        assert told in notes[0]
    assert len(notes) == 1


def test_a_class_of_files_that_are_not_read_says_which(write_classes):
    root = write_classes({"cat": 10, "dog": 0})
    (root / "dog" / "1.docx").write_text("no image")
    with pytest.raises(DataNotFoundError, match=r"There are files of which no image is read: 1 \.docx$"):
        load(root)


@pytest.mark.parametrize(
    ("name", "format"),
    [("x.jfif", "JPEG"), ("x.JPE", "JPEG"), ("x.gif", "GIF"), ("x.avif", "AVIF"), ("x", "PNG"), ("y", "JPEG")],
)
def test_what_pillow_reads_is_read(write_classes, name, format):
    if format == "AVIF" and ".avif" not in Image.registered_extensions():
        pytest.skip("Pillow is built without AVIF")
    root = write_classes({"cat": 9, "dog": 10})
    Image.new("RGB", (8, 8), (0, 200, 0)).save(root / "cat" / name, format=format)
    data = load(root)
    assert sum(sizes(data)) == 20
    assert data.notes == ()


def test_of_several_frames_the_first_is_read(write_classes):
    root = write_classes({"a": 0, "b": 0})
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    for number in range(12):
        path = root / "ab"[number % 2] / f"{number}.gif"
        first.save(path, save_all=True, append_images=[second])
    data = load(root)
    assert data.mean == (1.0, 0.0, 0.0)
