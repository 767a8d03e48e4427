"""Images and their labels from a table: which rows are read, how they are divided, and what a table must not have."""

import os

import pytest
import torch

from asose_fast.data import DataConfig, DataError, DataNotFoundError, load_data

CPU = torch.device("cpu")


@pytest.fixture
def photos(write_classes):
    """20 images of two colours and none, below `photos`."""
    return write_classes({"photos": 20})


def write(photos, rows, header="file,label", name="labels.csv"):
    (photos / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return photos / name


def rows_of(count=20, **more):
    """Of images that are cats and dogs in turn."""
    return [f"photos/{i:03}.png,{('cat', 'dog')[i % 2]}{more.get('end', '')}" for i in range(count)]


def load(path, **settings):
    return load_data(DataConfig(f"csv:{path}", **settings), 2, 0, CPU)


def labelled(split):
    """The images of a split with their labels."""
    numbers = torch.arange(len(split))
    labels = torch.cat([y for _, y in split.batches(0, shuffle=False)])
    return {bytes(image.numpy()): int(y) for image, y in zip(split.pixels(numbers), labels, strict=True)}


def test_a_table_gives_what_the_same_images_in_folders_give(photos, tmp_path_factory):
    data = load(write(photos, rows_of()))
    root = tmp_path_factory.mktemp("folders")
    for i in range(20):
        folder = root / ("cat", "dog")[i % 2]
        folder.mkdir(exist_ok=True)
        os.link(photos / "photos" / f"{i:03}.png", folder / f"{i:03}.png")
    same = load_data(DataConfig(f"imagefolder:{root}"), 2, 0, CPU)
    assert data.classes == same.classes == ("cat", "dog")
    assert (len(data.train), len(data.valid), len(data.test)) == (12, 4, 4)
    every = {}
    for one in (data, same):
        every[one.digest] = {
            image: y for split in (one.train, one.valid, one.test) for image, y in labelled(split).items()
        }
    first, second = every.values()
    assert first == second
    assert len(first) == 20


def test_the_order_of_rows_and_the_place_of_the_table_do_not_matter(photos):
    data = load(write(photos, rows_of()))
    assert load(write(photos, rows_of()[::-1])).digest == data.digest
    (photos / "tables").mkdir()
    moved = write(photos / "tables", [f"{photos}/{row}" for row in rows_of()])
    assert load(moved).digest == data.digest
    above = write(photos / "tables", [f"../{row}" for row in rows_of()])
    assert load(above).digest == data.digest
    changed = [*rows_of()[:-1], "photos/019.png,cat"]
    assert load(write(photos, changed)).digest != data.digest


def test_splits_of_a_table_are_kept(photos):
    names = ["train", "Training", "test", "val"]
    rows = [f"{row},{names[i // 2 % 4]}" for i, row in enumerate(rows_of())]
    data = load(write(photos, rows, "file,label,split"))
    assert (len(data.train), len(data.valid), len(data.test)) == (12, 4, 4)
    assert sorted(data.test_names) == [f"photos/{i:03}.png" for i in range(20) if names[i // 2 % 4] == "test"]
    without = [row for row in rows if not row.endswith("val")]
    data = load(write(photos, without, "file,label,split"), valid_fraction=0.5)
    assert (len(data.train), len(data.valid), len(data.test)) == (6, 6, 4)


def test_columns_may_stand_in_any_order_and_values_be_quoted(photos):
    (photos / "photos" / "000.png").rename(photos / "photos" / "a, b.png")
    swapped = [",".join(row.split(",")[::-1]) for row in rows_of()[1:]]
    rows = ['"cat, small","photos/a, b.png"', *swapped]
    table = write(photos, [*rows, '"cat, small",photos/001b.png'], "\ufefflabel,file")
    os.link(photos / "photos" / "001.png", photos / "photos" / "001b.png")
    os.link(photos / "photos" / "001.png", photos / "photos" / "001c.png")
    with table.open("a") as file:
        file.write('"cat, small",photos/001c.png\n')
    assert load(table).classes == ("cat", "cat, small", "dog")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("filename,label", "has no column file; rename 'filename' if you mean that: the first line must be file,label"),
        ("a,b", r"has no column file and label: the first line .*, got 'a,b'"),
        ("file;label", "has no column file and label.*got 'file;label'"),
        ("file,label,size", "has unknown columns, 'size': remove them"),
        ("file,label,label", "has a column twice"),
        ("photos/000.png,cat", "has no column file and label"),
    ],
)
def test_columns_that_are_wrong_are_named(photos, header, message):
    with pytest.raises(DataError, match=message):
        load(write(photos, rows_of(), header))


def test_all_rows_that_cannot_be_used_are_named_in_one_error(photos):
    rows = rows_of()
    rows[1], rows[2], rows[3], rows[4] = "photos/001.png,", ",cat", "photos/../photos/000.png,cat", "photos/004.png,a,b"
    with pytest.raises(DataError) as caught:
        load(write(photos, rows))
    first, *rest = str(caught.value).splitlines()
    assert first == f"4 rows of {photos / 'labels.csv'} cannot be used:"
    assert rest == [
        "  line 3: the label of photos/001.png is empty",
        "  line 4: the file is empty",
        "  line 5: photos/../photos/000.png is in line 2 already",
        "  line 6 has more values than there are columns: put those with a comma into double quotes",
    ]
    rows = [f"{row},{'tset' if i == 3 else 'train'}" for i, row in enumerate(rows_of())]
    with pytest.raises(DataError, match=r"line 5: the split of photos/003.png is 'tset', and must be train, valid or"):
        load(write(photos, rows, "file,label,split"))


def test_images_that_are_not_there_are_named(photos):
    with pytest.raises(DataNotFoundError, match=r"there is no file .*nowhere\.csv: csv:PATH wants a table"):
        load(photos / "nowhere.csv")
    rows = [*rows_of(), *(f"gone/{i}.png,cat" for i in range(25))]
    with pytest.raises(DataNotFoundError) as caught:
        load(write(photos, rows))
    lines = str(caught.value).splitlines()
    assert lines[:2] == [
        f"25 images of {photos / 'labels.csv'} are not there:", f"  line 22: {photos / 'gone' / '0.png'}"
    ]  # fmt: skip
    assert (len(lines), lines[-1]) == (22, "  and 5 more")


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([], "file,label", "has no rows"),
        ([row.replace("dog", "cat") for row in rows_of()], "file,label", "has one label only, 'cat'"),
        (rows_of(end=",train"), "file,label,split", "has no row of the split test: add some, or leave the column"),
        (
            [*rows_of(16, end=",train"), "photos/016.png,cat,test"],
            "file,label,split",
            "the split test of .* has no image of dog: every split needs some",
        ),
        (['"photos/000.png,cat'], "file,label", "cannot be read as a table of comma-separated values"),
    ],
)
def test_what_is_no_table_of_images_is_refused(photos, rows, header, message):
    with pytest.raises(DataError, match=message):
        load(write(photos, rows, header))


def test_a_table_that_is_not_utf_8_is_refused(photos):
    (photos / "labels.csv").write_bytes(b"file,label\nphotos/000.png,ca\xff\n")
    with pytest.raises(DataError, match="in UTF-8"):
        load(photos / "labels.csv")


def test_image_size_and_the_choice_of_it_hold_for_tables(photos):
    table = write(photos, rows_of())
    assert load(table, image_size=5).image_size == 5
    assert load(table).image_size == 8
