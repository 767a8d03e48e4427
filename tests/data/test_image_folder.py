import dataclasses
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from asose_fast.data import DataConfig, DataError, DataNotFoundError, load_data, settled
from asose_fast.data.decode import header
from asose_fast.data.size import chosen_side

CPU = torch.device("cpu")


def load(root, batch_size=2, **settings):
    return load_data(DataConfig(f"imagefolder:{root}", **settings), batch_size, 0, CPU)


def pixels(split, data):
    x = torch.cat([x for x, _ in split.batches(0, shuffle=False, augment=False)])
    std, mean = (torch.tensor(values)[:, None, None] for values in (data.std, data.mean))
    return ((x * std + mean) * 255).round().byte()


def test_train_and_test_folders_are_the_splits(write_classes):
    write_classes({"cat": 12, "dog": 8}, "train")
    root = write_classes({"cat": 3, "dog": 5}, "test")
    data = load(root)
    assert data.classes == ("cat", "dog")
    assert (data.channels, data.image_size) == (3, 8)
    assert (len(data.train), len(data.valid), len(data.test)) == (15, 5, 8)
    expected = [np.asarray(Image.open(path)) for path in (root / "test").rglob("*.png")]
    got = pixels(data.test, data).permute(0, 2, 3, 1)
    assert sorted(map(bytes, expected)) == sorted(bytes(image.numpy()) for image in got)


def test_labels_belong_to_their_images(write_classes):
    root = write_classes({"black": 10, "white": 10})
    for path in root.rglob("*.png"):
        Image.new("L", (4, 4), 255 * (path.parent.name == "white")).save(path)
    data = load(root)
    for split in (data.train, data.valid, data.test):
        for x, y in split.batches(0, shuffle=True):
            assert torch.equal(x.amax((1, 2, 3)) > 0, y == 1)


def test_classes_alone_give_20_percent_of_each_to_the_test(write_classes):
    data = load(write_classes({"cat": 20, "dog": 10}))
    labels = torch.cat([y for _, y in data.test.batches(0)])
    assert torch.bincount(labels).tolist() == [4, 2]


def test_a_class_may_be_called_train(write_classes):
    assert load(write_classes({"bus": 10, "train": 10})).classes == ("bus", "train")


def test_images_are_grey_only_where_all_are(write_classes):
    root = write_classes({"a": 8, "b": 8}, mode="L")
    assert load(root).channels == 1
    Image.new("RGB", (8, 8)).save(root / "a" / "000.png")
    assert load(root).channels == 3


def test_image_size_resizes_and_crops_the_centre(write_classes):
    root = write_classes({"a": 8, "b": 8})
    for path in root.rglob("*.png"):  # columns 4-11 are the centre; the resize looks 2 further
        image = np.zeros((8, 16), np.uint8)
        image[:, 2:14], image[:, 14:] = 100, 255
        Image.fromarray(image).save(path)
    data = load(root, image_size=4)
    assert data.image_size == 4
    assert torch.equal(pixels(data.test, data).unique(), torch.tensor([100], dtype=torch.uint8))


def oriented(image, path, orientation):
    """Saves an image so that EXIF's orientation turns it back into what it is."""
    stored = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)  # the inverse of each turn
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = image if stored is None else image.transpose(Image.Transpose(stored))
    turned.save(path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(Image.open(path))), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("image_size", [None, 8])
def test_images_are_turned_upright(write_classes, orientation, extension, image_size):
    root = write_classes({"a": 6, "b": 6}, size=(8, 8) if image_size is None else (14, 8))
    images = {}
    for path in list(root.rglob("*.png")):
        image = Image.open(path)
        image.load()
        path.unlink()
        oriented(image, path.with_suffix(extension), orientation)
        wanted = image if image_size is None else ImageOps.fit(image, (8, 8), Image.Resampling.BILINEAR)
        images[np.asarray(wanted).tobytes()] = path.parent.name
    data = load(root, image_size=image_size)
    for split in (data.train, data.valid, data.test):
        labels = torch.cat([y for _, y in split.batches(0, shuffle=False, augment=False)])
        for image, label in zip(pixels(split, data).permute(0, 2, 3, 1), labels, strict=True):
            assert images[bytes(image.contiguous().numpy())] == data.classes[label]


def test_a_jpeg_that_is_decoded_at_a_fraction_is_turned_upright(write_classes):
    root = write_classes({"a": 0, "b": 0})
    image = np.zeros((400, 300, 3), np.uint8)
    image[:, :150, 0] = 255  # the left half is red
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(12):
        lying = Image.fromarray(image).transpose(Image.Transpose.ROTATE_90)
        lying.save(root / "ab"[number % 2] / f"{number}.jpg", exif=exif)
    data = load(root, image_size=8)
    red = pixels(data.test, data)[:, 0].float()
    assert (red[:, :, :3] > 200).all()
    assert (red[:, :, 5:] < 50).all()


@pytest.mark.parametrize("extension", [".jpg", ".png", ".tif"])
def test_sizes_are_those_of_the_upright_image(tmp_path, extension):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / f"tall{extension}", exif=exif)
    assert header(str(tmp_path / f"tall{extension}")).size == (10, 20)


def test_damaged_exif_leaves_the_image_as_it_is(write_classes):
    root = write_classes({"a": 8, "b": 8})
    Image.new("RGB", (8, 8)).save(root / "b" / "odd.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    Image.new("RGB", (8, 8)).save(root / "b" / "odder.png", exif=b"Exif\0\0nonsense")
    assert len(load(root).classes) == 2


def test_limit_train_reads_the_chosen_files_only(write_classes):
    root = write_classes({"a": 30, "b": 30}, "train")
    write_classes({"a": 2, "b": 2}, "test")
    chosen = load(root, limit_train=8)
    kept = {bytes(image.numpy()) for split in (chosen.train, chosen.valid) for image in pixels(split, chosen)}
    for path in (root / "train").rglob("*.png"):
        if np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes() not in kept:
            path.write_bytes(b"not an image")
    load(root, limit_train=8)
    with pytest.raises(DataError, match="cannot read the image"):
        load(root)


@pytest.mark.parametrize("memory_limit_gb", [4, 0])
def test_a_truncated_image_is_named_at_once(write_classes, memory_limit_gb):
    root = write_classes({"a": 8, "b": 8}, size=(32, 32))
    broken = root / "b" / "003.png"
    broken.write_bytes(broken.read_bytes()[:1000])
    with pytest.raises(DataError, match=f"cannot read the image {broken}: .*truncated.* Repair or remove it"):
        load(root, memory_limit_gb=memory_limit_gb)


@pytest.mark.parametrize("count", [3, 25])
def test_all_broken_images_are_named_in_one_error(write_classes, count):
    """Of whatever kind they are: no image, cut off, or of 16 bits; of more than 20 the number of the others."""
    root = write_classes({"a": 30, "b": 8}, size=(32, 32))
    broken = [root / "a" / f"{number:03}.png" for number in range(count)]
    for path in broken[1:-1]:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError) as cut:  # what headers do not show
        load(root)
    assert str(cut.value).startswith(
        "23 images cannot be used:" if count == 25 else f"cannot read the image {broken[1]}"
    )
    broken[0].write_text("hello")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(broken[-1])
    with pytest.raises(DataError) as caught:
        load(root)
    first, *rest = str(caught.value).splitlines()
    assert first == f"{count} images cannot be used:"
    assert len(set(rest)) == min(count, 21)
    named = [path for path in broken for line in rest if f"{path}" in line]
    assert len(named) == min(count, 20)
    assert ("  and 5 more" in rest) == (count == 25)


def test_a_file_that_is_no_image_is_named(write_classes):
    root = write_classes({"a": 8, "b": 8})
    (root / "a" / "005.png").write_text("hello")
    with pytest.raises(DataError, match=r"cannot read the image .*a/005\.png"):
        load(root)


def test_16_bit_images_are_not_clipped_silently(write_classes):
    root = write_classes({"a": 8, "b": 8})
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(root / "a" / "002.png")
    with pytest.raises(DataError, match=r"002\.png has more than 8 bits a channel"):
        load(root)


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(32, 32)], None),
        ([(256, 256)] * 3, None),
        ([(257, 257)] * 3, 128),
        ([(12, 8)], 8),
        ([(8, 8), (9, 8)], 8),
        ([(7, 9)], 7),
        ([(31, 40)], 24),
        ([(63, 99), (500, 400), (40, 40)], 32),
        ([(99, 100), (100, 400), (2000, 3000), (20, 20)], 96),
        ([(4000, 3000), (640, 480)], 128),
    ],
)
def test_the_side_is_chosen_from_the_sizes(sizes, side):
    assert chosen_side(sizes) == side


def test_images_of_several_sizes_are_resized_to_the_side_of_their_median(write_classes):
    root = write_classes({"a": 8, "b": 8}, size=(80, 40))
    Image.new("RGB", (9, 8)).save(root / "b" / "001.png")
    config = DataConfig(f"imagefolder:{root}")
    data = load_data(config, 2, 0, CPU)
    assert data.image_size == 32
    assert data.resizing == (
        "images of 8 to 40 pixels at the shorter side, with a median of 40, are resized to 32x32 (image_size takes "
        "another size)"
    )
    again = settled(config, data)
    assert again.image_size == 32
    assert (load_data(again, 2, 0, CPU).digest, load_data(again, 2, 0, CPU).resizing) == (data.digest, "")


def test_images_of_one_square_size_and_those_of_a_size_that_is_given_need_no_choice(write_classes):
    config = DataConfig(f"imagefolder:{write_classes({'a': 8, 'b': 8}, size=(80, 80))}")
    for image_size, side in ((None, 80), (20, 20)):
        given = dataclasses.replace(config, image_size=image_size)
        data = load_data(given, 2, 0, CPU)
        assert (data.image_size, data.resizing, settled(given, data)) == (side, "", given)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataNotFoundError, match=f"there is no folder {tmp_path / 'nowhere'}"):
        load(tmp_path / "nowhere")


def test_a_missing_folder_is_a_value_error_and_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no folder"):
        load(tmp_path / "nowhere")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataNotFoundError, match=f"{tmp_path} has no folders in it: it must hold one folder a class"):
        load(tmp_path)


def test_a_class_folder_without_images_is_named(write_classes):
    root = write_classes({"a": 8, "b": 8, "c": 0})
    (root / "c" / "notes.txt").write_text("none yet")
    with pytest.raises(DataNotFoundError, match=f"no images in the class folder\\(s\\) {root / 'c'}: add some"):
        load(root)


def test_a_single_class_is_refused(write_classes):
    with pytest.raises(DataError, match="has one class only, 'a'"):
        load(write_classes({"a": 8}))


@pytest.mark.parametrize(
    ("counts", "said"), [({"images": 8}, "one class only, 'images': .*"), ({}, "no folders in it.*")]
)
def test_a_table_of_labels_is_pointed_to(write_classes, counts, said):
    root = write_classes(counts)
    (root / "labels.csv").write_text("file,label\n000.png,cat\n")
    with pytest.raises(DataError, match=rf"{said}\. To read labels from a table, give csv:{root}/labels\.csv$"):
        load(root)


def test_train_and_test_must_have_the_same_classes(write_classes):
    write_classes({"a": 8, "b": 8, "c": 8}, "train")
    root = write_classes({"a": 2, "d": 2}, "test")
    with pytest.raises(DataError, match="only train has b, c; only test has d"):
        load(root)


@pytest.mark.parametrize(("there", "missing"), [("train", "test"), ("test", "train")])
def test_half_a_split_is_not_taken_for_a_class(write_classes, there, missing):
    root = write_classes({"a": 8, "b": 8}, there)
    (root / "val").mkdir()
    with pytest.raises(DataNotFoundError, match=f"{root / there} holds class folders, but {root / missing} is missing"):
        load(root)


def test_a_class_too_small_for_three_splits_is_named(write_classes):
    with pytest.raises(DataError, match=r"class 'b' has 1 image\(s\) to divide into training and validation"):
        load(write_classes({"a": 20, "b": 2}))


@pytest.mark.parametrize("where", ["beside", "above"])
def test_links_that_lead_back_are_refused(write_classes, where):
    root = write_classes({"cat": 5, "dog": 5})
    (root / "cat" / "more").symlink_to({"beside": root / "cat", "above": root}[where])
    with pytest.raises(DataError, match=r"the link .*cat.* leads back to .*cat, which it is in: remove it"):
        load(root)


def test_links_to_other_folders_are_followed(write_classes, tmp_path_factory):
    root = write_classes({"cat": 5, "dog": 5})
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for path in list((root / "cat").iterdir())[:2]:
        path.rename(elsewhere / path.name)
    (root / "cat" / "more").symlink_to(elsewhere)
    data = load(root)
    assert len(data.train) + len(data.valid) + len(data.test) == 10


@pytest.mark.parametrize("link", ["folder", "image", "split"])
def test_what_is_read_twice_by_links_is_said(write_classes, link):
    write_classes({"cat": 5, "dog": 5}, under="train")
    root = write_classes({"cat": 5, "dog": 5}, under="test")
    name, target = {"folder": ("test/cat", "train/cat"), "image": ("test/cat/000.png", "train/cat/000.png"),
                    "split": ("test", "train")}[link]  # fmt: skip
    os.rename(root / name, root.with_name(f"{root.name}-moved"))
    (root / name).symlink_to(root / target)
    names = {"folder": "train/cat and test/cat", "image": "train/cat/000.png and test/cat/000.png",
             "split": "train/cat and test/cat, train/dog and test/dog"}[link]  # fmt: skip
    (note,) = load(root).notes
    assert f"by links the same images are read twice, as {names}:" in note


def test_links_to_what_is_read_once_are_not_spoken_of(write_classes, tmp_path_factory):
    root = write_classes({"cat": 5, "dog": 5})
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "cat"
    (root / "cat").rename(elsewhere)
    (root / "cat").symlink_to(elsewhere)
    (root / "dog" / "000.png").rename(elsewhere.with_name("moved.png"))
    (root / "dog" / "000.png").symlink_to(elsewhere.with_name("moved.png"))
    assert load(root).notes == ()


def test_a_class_whose_link_leads_nowhere_is_said(write_classes):
    root = write_classes({"cat": 5, "dog": 5})
    (root / "owl").symlink_to(root / "unmounted")
    (note,) = load(root).notes
    assert note == f"{root}: links that lead nowhere are skipped: owl"


@pytest.mark.parametrize(("ours", "theirs"), [("Dog", "dog"), ("\u00e9", "e\u0301")])
def test_classes_that_look_alike_are_told_apart(write_classes, ours, theirs):
    write_classes({"cat": 5, ours: 5}, under="train")
    message = rf"{re.escape(ascii(ours))} and {re.escape(ascii(theirs))} differ in case or Unicode form alone"
    with pytest.raises(DataError, match=message):
        load(write_classes({"cat": 5, theirs: 5}, under="test"))


def test_a_pipe_that_is_named_like_an_image_is_refused(write_classes):
    root = write_classes({"cat": 5, "dog": 5})
    os.mkfifo(root / "cat" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png is no file, though its name is that of an image: remove it"):
        load(root)


@pytest.mark.parametrize("memory_limit_gb", [4, 0])
def test_test_images_have_names_and_are_read_by_place(write_classes, memory_limit_gb):
    root = write_classes({"a": 10, "b": 15})
    data = load(root, memory_limit_gb=memory_limit_gb)
    assert len(data.test_names) == len(data.test) == 5
    numbers = torch.tensor([4, 0])
    for name, image in zip([data.test_names[4], data.test_names[0]], data.test.pixels(numbers), strict=True):
        assert bytes(image.numpy()) == np.asarray(Image.open(root / name)).tobytes()
