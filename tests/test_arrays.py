"""Files of arrays: read to the pixel, split the same way every time, refused in one line."""

import csv
import gzip
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import load_split
from settings import Settings
from support.arrays import find_arrays, is_array
from support.checkpoint import Run
from support.errors import DataError
from support.folders import find_files
from support.images import read_images

SPLITS = ("train", "test", "validation")


def load(path, split="train", **settings):
    images, labels, classes, source, files, notes = load_split(
        Run(Settings(dataset=str(path), **settings)), "data", split
    )
    assert images.dtype == torch.uint8 and images.shape[1:] == (1, 28, 28) and len(images) == len(labels)
    assert labels.dtype == torch.int64 and source == "file" and files is None
    assert all(type(note) is str for note in notes)
    return images[:, 0].numpy(), [classes[label] for label in labels] if classes else None, classes, notes


def read(path, size=28, invert=False):
    """The images (N, size, size), the labels and the notes, in one string."""
    halves, _, notes = find_arrays(path)
    samples = [sample for own in halves.values() for sample in own]
    images, _, more = read_images([sample.picture for sample in samples], size, invert)
    labels = [sample.name for sample in samples if sample.name]
    assert images.shape[1:] == (1, size, size) and images.dtype == torch.uint8
    assert len(labels) in (0, len(images))
    return images[:, 0].numpy(), labels or None, "; ".join(notes + more)


def refused(path, read=read):
    """The one line that says why."""
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message and ": " in message
    return message


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def write(path, rows, header=None, mark=","):
    lines = [mark.join(map(str, row)) for row in ([header] if header else []) + [list(row) for row in rows]]
    path.write_text("\n".join(lines) + "\n")
    return path


def names_of(labels):
    return [str(label) for label in labels.tolist()]


@pytest.fixture
def images(digits):
    return digits.train[0]


@pytest.fixture
def labels(digits):
    return digits.train[1]


# .npz and .npy


def test_names():
    for name in ("a.npz", "A.NPY", "b/train.csv", "train.csv.gz", "x.Parquet"):
        assert is_array(name)
    for name in ("mnist", "a.csv.zip", "photos.npz/folder", "a.gz", "npz"):
        assert not is_array(name)


@pytest.mark.parametrize(
    "names",
    [
        "x_train y_train x_test y_test",
        "X_train Y_train X_test Y_test",
        "train_images train_labels test_images test_labels",
        "training_images training_labels testing_images testing_labels",
        "trainX trainy testX testy",
    ],
)
def test_npz_of_two_halves(names, digits, tmp_path):
    """Keras' names, MedMNIST's, whose labels are (N, 1), and their like: the halves as they are, in order."""
    test, names = (digits.test[0], digits.test[1][:, None]), names.split()
    path = save(tmp_path / "d.npz", **dict(zip(names, (*digits.train, *test), strict=True)))
    for split in ("train", "test"):
        found, own, classes, notes = load(path, split)
        images, labels = getattr(digits, split)
        assert np.array_equal(found, images) and own == names_of(labels) and classes == list("0123456789")
    assert notes[0].startswith("10 classes: 0 10, 1 10") and f"{names[2]}: 100 of 28 x 28, uint8" in notes
    assert (
        "pictures of 28 x 28 pixels, read as 28 x 28" in notes
        and "ground 0 of 255, darkest level 0, brightest 255" in notes
    )
    everything, own, _ = read(path)
    assert np.array_equal(everything, np.concatenate([digits.train[0], digits.test[0]])) and len(own) == 400


@pytest.mark.parametrize(
    "names", ["images labels", "x y", "X y", "data target", "image label", "arr_0 arr_1", "x_test y_test"]
)
def test_npz_of_one_half(names, images, labels, tmp_path):
    path = save(tmp_path / "d.npz", **dict(zip(names.split(), (images, labels), strict=True)))
    found, own, _ = read(path)
    assert np.array_equal(found, images) and own == names_of(labels)
    assert sum(len(load(path, split)[0]) for split in ("train", "test")) == 300


def test_npz_with_a_half_to_validate_on(digits, tmp_path, capsys):
    (images, labels), (val, val_labels) = digits.train, digits.test
    path = tmp_path / "d.npz"
    save(path, train_images=images, train_labels=labels, val_images=val, val_labels=val_labels)
    kept = load(path)[0]
    assert "left out the validation images" in capsys.readouterr().err
    assert np.array_equal(load(path, "validation")[0], val)
    assert np.array_equal(load(path, validate=True)[0], kept) and len(kept) < 300
    assert "left out" not in capsys.readouterr().err


def test_npz_with_more_in_it(images, labels, tmp_path):
    """As scikit-learn's digits have: what is called images before what is called data; objects unread."""
    more = {"data": images.reshape(300, -1), "target": labels, "names": np.array([None], object)}
    found, own, notes = read(save(tmp_path / "d.npz", **more, images=images))
    assert np.array_equal(found, images) and own == names_of(labels)
    assert "left out data, names" in notes


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[..., None],
        lambda x: x[:, None],
        lambda x: x.reshape(300, -1),
        lambda x: np.stack([x] * 3, 3),
        lambda x: np.stack([x] * 3, 1),
        lambda x: x.reshape(300, 784, 1),
        lambda x: np.asfortranarray(x),
    ],
)
def test_layouts(change, images, tmp_path):
    np.save(tmp_path / "d.npy", change(images))
    found, labels, notes = read(tmp_path / "d.npy")
    assert np.array_equal(found, images) and labels is None and "300 of 28 x 28" in notes
    found, labels, classes, _ = load(tmp_path / "d.npy")
    assert labels is None and classes == [] and 200 < len(found) < 280


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_is_gray_by_its_weights(channels, tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 3), np.uint8)
    np.save(tmp_path / "d.npy", colours if channels == 3 else np.moveaxis(colours, 3, 1))
    expected = (colours @ [0.299, 0.587, 0.114]).round()
    assert np.array_equal(read(tmp_path / "d.npy")[0], expected)
    pillow = np.stack([Image.fromarray(image).convert("L") for image in colours])
    assert abs(pillow.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x.astype(np.int64), None),
        (lambda x: x.astype(">i4"), None),
        (lambda x: x.astype(np.float64), None),
        (lambda x: x / 255, "float64 pictures 0 is taken for black and 1 for white"),
        (lambda x: (x / 255).astype(np.float16), "float16 pictures 0 is taken for black and 1 for white"),
        (lambda x: (x / 255).astype(np.longdouble), "1 for white"),
        (lambda x: x.astype(np.uint16) * 257, "uint16 pictures 0 is taken for black and 65535"),
        (lambda x: x / 127.5 - 1, "-1 is taken for black and 1 for white"),
    ],
)
def test_levels(change, says, images, tmp_path):
    np.save(tmp_path / "d.npy", change(images))
    found, _, notes = read(tmp_path / "d.npy")
    assert np.array_equal(found, images)
    assert says in notes if says else "taken" not in notes


@pytest.mark.parametrize(("kind", "top"), [(bool, 1), (np.uint8, 1), (np.uint8, 16), (np.int8, 1)])
def test_few_levels(kind, top, images, tmp_path):
    levels = (images // 128 * top).astype(kind)
    np.save(tmp_path / "d.npy", levels)
    found, _, notes = read(tmp_path / "d.npy")
    assert np.array_equal(found, images // 128 * 255) and f"{top} for white" in notes


def test_levels_are_judged_over_all_halves(digits, tmp_path):
    """A half in which nothing is bright stays dark."""
    path = save(tmp_path / "d.npz", x_train=digits.train[0], x_test=digits.test[0][:2] // 100)
    assert np.array_equal(load(path, "test")[0], digits.test[0][:2] // 100)


def test_invert(images, tmp_path):
    np.save(tmp_path / "d.npy", 255 - images)
    assert np.array_equal(read(tmp_path / "d.npy", invert=True)[0], images)
    assert set(map(bytes, load(tmp_path / "d.npy", invert=True)[0])) <= set(map(bytes, images))


def test_other_sizes(images, tmp_path):
    """The longer side fits, and the rest is black, also where the paper was light."""
    np.save(tmp_path / "d.npy", 255 - images[:, :, 7:21])
    found = read(tmp_path / "d.npy", size=16, invert=True)[0]
    small = [
        np.asarray(Image.fromarray(image).resize((8, 16), Image.Resampling.LANCZOS))
        for image in np.ascontiguousarray(images[:, :, 7:21])
    ]
    assert not found[:, :, :4].any() and not found[:, :, 12:].any()
    assert abs(found[:, :, 4:12].astype(int) - np.stack(small)).max() <= 1
    run = Run(Settings(dataset=str(tmp_path / "d.npy"), image_size=32))
    assert load_split(run, "data", "train").images.shape[1:] == (1, 32, 32)


def test_blank_images_are_told(images, tmp_path, capsys):
    images = images.copy()
    images[[3, 7]] = 0
    np.save(tmp_path / "d.npy", images)
    assert "2 blank, image 3 among them" in read(tmp_path / "d.npy")[2]
    assert "2 of the images are blank" in capsys.readouterr().err


@pytest.mark.parametrize("level", [0, 7, -5.0])
def test_all_of_one_level(level, tmp_path):
    np.save(tmp_path / "d.npy", np.full((9, 28, 28), level))
    assert "9 blank" in read(tmp_path / "d.npy")[2]


# Labels


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (np.arange(1, 27), [str(i) for i in range(1, 27)]),
        (np.arange(12.0), [str(i) for i in range(12)]),
        (np.array([0, 2, 5]), ["0", "2", "5"]),
        (np.array([-1, 1]), ["-1", "1"]),
        (np.array([False, True]), ["0", "1"]),
        (np.array(["cat", "dog", "A", "a"]), ["A", "a", "cat", "dog"]),
        (np.array(["10", "9", "b"]), ["9", "10", "b"]),
        (np.array(["01", "1", "1e3", "inf", "nan"]), ["01", "1", "1e3", "inf", "nan"]),
        (np.array([b"caf\xc3\xa9", b"tea"]), ["café", "tea"]),
        (np.array(["cafe\u0301 ", "tea"]), ["café", "tea"]),
    ],
)
def test_labels(values, classes, images, tmp_path):
    values = np.resize(values, 300)
    path = save(tmp_path / "d.npz", images=images, labels=values)
    found, own, names, notes = load(path)
    assert names == classes
    label_of = {bytes(image): label for image, label in zip(images, read(path)[1], strict=True)}
    assert own == [label_of[bytes(image)] for image in found]
    assert any("gaps" in note for note in notes) == (classes in (["0", "2", "5"], ["-1", "1"]))


# Splits


def test_held_out_is_about_a_sixth_and_always_the_same(images, labels, tmp_path):
    order = np.argsort(labels, kind="stable")  # sorted by class, as such files often are
    path = save(tmp_path / "d.npz", images=images[order], labels=labels[order])
    own = {split: load(path, split)[0] for split in SPLITS}
    assert 35 <= len(own["test"]) <= 65 and len(own["train"]) + len(own["test"]) == 300
    assert len(set(load(path, "test")[1][:10])) > 3  # mixed
    kept = load(path, validate=True)[0]
    together = [set(map(bytes, half)) for half in (kept, own["validation"], own["test"])]
    assert not together[0] & together[1] and not together[0] & together[2] and not together[1] & together[2]
    assert len(set.union(*together)) == 300 and 25 <= len(own["validation"]) <= 60
    for split in SPLITS:
        assert np.array_equal(load(path, split)[0], own[split])


def test_images_that_come_and_go_move_no_other(images, tmp_path):
    """Nor another order or type, or a file of another kind."""

    def test_images(path):
        return set(map(bytes, load(path, "test")[0]))

    np.save(tmp_path / "a.npy", images)
    before = test_images(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", images[100:].astype(float)[::-1])
    assert test_images(tmp_path / "b.npy") == before & set(map(bytes, images[100:]))
    assert test_images(write(tmp_path / "c.csv", images.reshape(300, -1))) == before
    np.save(tmp_path / "d.npy", np.concatenate([images, images]))  # copies stay together
    assert test_images(tmp_path / "d.npy") == before
    assert len(load(tmp_path / "d.npy", "test")[0]) == 2 * len(before)


def test_class_in_one_half_alone(digits, tmp_path, capsys):
    (images, labels), (test, test_labels) = digits.train, digits.test
    some, path = labels != 7, tmp_path / "d.npz"
    save(path, x_train=images[some], y_train=labels[some], x_test=test, y_test=test_labels)
    assert "has 7 to test on alone" in refused(path, load)
    save(path, x_train=images, y_train=labels, x_test=test[:50], y_test=test_labels[:50])
    assert load(path, "test")[2] == list("0123456789")
    assert "no images of 5, 6, 7, 8, 9 to test on" in capsys.readouterr().err
    for number in range(10):  # one that would be held out stays, too
        save(path, images=images, labels=np.where(np.arange(300) == number, 11, labels))
        assert "11" in load(path)[1] and "11" not in load(path, "test")[1]
    save(path, x_train=images, y_train=labels, x_test=test)
    assert "labels for some of its images alone" in refused(path, load)


def test_too_few(images, tmp_path):
    np.save(tmp_path / "d.npy", images[:1])
    assert len(read(tmp_path / "d.npy")[0]) == 1
    assert "no image to" in refused(tmp_path / "d.npy", lambda path: [load(path), load(path, "test")])
    np.save(tmp_path / "d.npy", images[:3])
    assert [len(load(tmp_path / "d.npy", split)[0]) for split in ("train", "test")] == [2, 1]


# .csv


def table(images, labels, place):
    """Rows with the label first, last, in the middle or nowhere."""
    rows = images.reshape(len(images), -1).tolist()
    at = {"first": 0, "last": len(rows[0]), "sixth": 5}.get(place)
    if at is not None:
        rows = [[*row[:at], label, *row[at:]] for row, label in zip(rows, labels.tolist(), strict=True)]
    return rows


def header_of(place, name="label"):
    return table(np.array([[f"pixel{i}" for i in range(784)]]), np.array([name]), place)[0]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("place", ["first", "last", None])
def test_csv(place, header, images, labels, tmp_path):
    path = write(tmp_path / "d.csv", table(images, labels, place), header_of(place) if header else None)
    found, own, notes = read(path)
    assert np.array_equal(found, images) and own == (names_of(labels) if place else None)
    assert ({"first": "label in column 1;", "last": "label in column 785;"}.get(place, "no label")) in notes
    assert ("with a header" if header else "no header") in notes
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert np.array_equal(read(tmp_path / "d.csv.gz")[0], images)
    assert load(path)[2] == load(tmp_path / "d.csv.gz")[2] == (list("0123456789") if place else [])


@pytest.mark.parametrize("name", ["Label", "class", "TARGET", "y", '"label"', "\ufefflabel"])
def test_label_by_its_name(name, images, labels, tmp_path):
    for place, column in {"first": 1, "last": 785, "sixth": 6}.items():
        path = tmp_path / "d.csv"
        write(path, table(images, labels, place), header_of(place, name if place == "first" else "label"))
        found, own, notes = read(path)
        assert np.array_equal(found, images) and own == names_of(labels)
        assert f"label in column {column};" in notes


def test_label_without_a_name_that_is_known(images, labels, tmp_path):
    """Where the header does not tell, numbers do; of text there is but one column."""
    own = np.array(["zebra", "ant"])[labels % 2]
    for place in ("first", "last"):
        write(tmp_path / "d.csv", table(images, labels, place), header_of(place, "digit"))
        assert read(tmp_path / "d.csv")[1] == names_of(labels)
        write(tmp_path / "d.csv", table(images, own, place))
        found, names, _ = read(tmp_path / "d.csv")
        assert np.array_equal(found, images) and names == own.tolist()


def test_label_first_unless_only_the_last_may_be_one(images, labels, tmp_path):
    """Of a class alone both ends are constant, as a corner is: then the first it is."""
    write(tmp_path / "d.csv", table(images[:50], np.full(50, 4), "first"))
    assert read(tmp_path / "d.csv")[1] == ["4"] * 50
    for levels, last in ((2, False), (256, True)):
        noise = np.random.default_rng(0).integers(0, levels, images.shape)
        for place, expected in (("first", True), ("last", last)):
            write(tmp_path / "d.csv", table(noise, labels, place))
            assert (read(tmp_path / "d.csv")[1] == names_of(labels)) is expected
    order = np.argsort(labels, kind="stable")  # the first and the last class alone would tell nothing
    write(tmp_path / "d.csv", table(images[order], labels[order], "last"))
    assert read(tmp_path / "d.csv")[1] == names_of(labels[order])


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", " "),
        lambda text: text.replace(",", ", "),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", ",\n"),
        lambda text: re.sub("(?<=.)\n(?=.)(.*)", r"\n\1,", text),  # a comma too many, but in the first line
        lambda text: "\n" + text + "\n  \n,,,\n",
        lambda text: "\ufeff" + text,
        lambda text: re.sub("([^,\n]+)", r'"\1"', text),
        lambda text: text.replace("ant,", '"ant, red",'),
    ],
)
def test_csv_as_programs_write_it(change, header, images, labels, tmp_path):
    own = np.array(["zebra", "ant"])[labels % 2]
    path = write(tmp_path / "d.csv", table(images, own, "first"), header_of("first") if header else None)
    text = change(path.read_text())
    path.write_bytes(text.encode())
    found, names, _ = read(path)
    expected = own.tolist() if "red" not in text else [{"ant": "ant, red"}.get(name, name) for name in own]
    assert np.array_equal(found, images) and names == expected
    path.write_bytes(gzip.compress(text.encode()))  # whatever the file is called
    assert read(path)[1] == expected


def test_csv_as_numpy_and_pandas_write_it(images, labels, tmp_path):
    rows = np.array(table(images, labels, "first"))
    np.savetxt(tmp_path / "d.csv", rows, delimiter=",")  # 0.000000000000000000e+00 and the like
    assert np.array_equal(read(tmp_path / "d.csv")[0], images)
    assert read(tmp_path / "d.csv")[1] == names_of(labels)
    write(tmp_path / "d.csv", images.reshape(300, -1), range(784))  # DataFrame.to_csv(index=False)
    assert len(read(tmp_path / "d.csv")[0]) == 300
    letters = ["0", *(f"0.{i}" for i in range(1, 785))]  # an image that pandas took for names
    found, own, _ = read(write(tmp_path / "d.csv", rows, letters))
    assert np.array_equal(found, images) and own == names_of(labels)
    numbered = [[i, *row] for i, row in enumerate(images.reshape(300, -1).tolist())]
    write(tmp_path / "d.csv", numbered, ["", *range(784)])  # and with the index
    found, own, _ = read(tmp_path / "d.csv")
    assert np.array_equal(found, images) and own is None
    write(tmp_path / "d.csv", numbered, ["id", *(f"pixel{i}" for i in range(784))])
    assert np.array_equal(read(tmp_path / "d.csv")[0], images)


@pytest.mark.parametrize("number", [300, -1, 0.5, None])
def test_levels_that_are_no_bytes(number, images, tmp_path):
    """numpy 1 would read 300 as 44."""
    levels = images / 255 if number is None else images.astype(float)
    levels[:, 14, 14:20] = number or 1
    path = write(tmp_path / "d.csv", levels.reshape(300, -1))
    np.save(tmp_path / "d.npy", levels.astype(np.float32))
    assert np.array_equal(read(path)[0], read(tmp_path / "d.npy")[0])


@pytest.mark.parametrize("first", [1000, 123456789])
def test_more_classes_than_a_byte_has(first, images, tmp_path):
    """And numbers that float32 does not tell apart."""
    own = np.arange(300) + first
    for header in (None, header_of("first")):
        assert read(write(tmp_path / "d.csv", table(images, own, "first"), header))[1] == names_of(own)


# .parquet


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def write_parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["image", "img"])
def test_parquet(name, images, labels, tmp_path):
    """As the hub has MNIST, and with the bytes alone."""
    hub = [{"bytes": png(image), "path": f"{i}.png"} for i, image in enumerate(images)]
    for cells in (hub, [cell["bytes"] for cell in hub]):
        path = write_parquet(tmp_path / "d.parquet", **{name: cells, "label": labels})
        found, own, notes = read(path)
        assert np.array_equal(found, images) and own == names_of(labels)
        assert f"{name}: 300 files" in notes
    assert load(path)[2] == list("0123456789")


def test_parquet_of_colour_and_of_other_sizes(images, tmp_path):
    colour = np.stack([images[0]] * 3, 2)
    path = write_parquet(tmp_path / "d.parquet", image=[png(colour), png(np.repeat(images[1], 2, 0))])
    found, own, notes = read(path)
    assert np.array_equal(found[0], images[0]) and own is None and "pictures of 28 x 28 to 28 x 56" in notes
    assert not found[1][:, :7].any() and not found[1][:, 21:].any() and found[1].max() > 200


@pytest.mark.parametrize(("ink", "invert"), [(0, True), (255, False)])
def test_parquet_is_read_as_files_are(ink, invert, images, labels, tmp_path):
    """Ink on nothing, which only their transparency tells."""
    for name in "01":
        (tmp_path / "own" / name).mkdir(parents=True)
    for number, image in enumerate(images[:40]):
        picture = Image.new("L", (28, 28), ink).convert("LA")
        picture.putalpha(Image.fromarray(image))
        picture = picture.resize((100, 60)) if number % 3 == 0 else picture
        picture.save(tmp_path / "own" / str(number % 2) / f"{number}.png")
    halves, *_ = find_files(tmp_path / "own")
    files = [sample.picture for sample in halves["train"]]
    path = write_parquet(tmp_path / "d.parquet", image=[Path(file).read_bytes() for file in files])
    expected, *_ = read_images(files, 28, invert)
    found, *_ = read(path, invert=invert)
    assert np.array_equal(found, expected[:, 0]) and found.max() > 200
    assert len({sample.key for sample in find_arrays(path)[0]["train"]}) == 40


def test_parquet_that_is_bad(images, tmp_path):
    path = tmp_path / "d.parquet"
    cells = [{"bytes": png(images[0]), "path": None}, {"bytes": None, "path": "lost.png"}]
    assert "no picture in row 1: save" in refused(write_parquet(path, image=cells))
    line = refused(write_parquet(path, image=[b"GIF89a"]))
    assert "row 0 of image of" in line and "--skip-bad" in line
    assert "no picture in row 0: save" in refused(write_parquet(path, image=[[0, 255], [255, 0]]))
    assert "no array of images, but picture" in refused(write_parquet(path, picture=[b""]))
    assert "0 images" in refused(write_parquet(path, image=[]))
    write_parquet(path, image=[png(images[0])] * 2, label=[1, None])
    assert "labels are numbers or text" in refused(path)
    path.write_bytes(path.read_bytes()[:-9])
    assert "cannot be read (" in refused(path)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    assert "pip install pyarrow" in refused(tmp_path / "d.parquet")


# What is refused


X, Y = np.eye(28)[None].repeat(20, 0), np.arange(20) % 2


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"weights": X, "y": Y}, "no array of images, but weights, y: call it images"),
        ({}, "no array of images, but nothing"),
        ({"images": X.astype(object)}, "save numbers, as numpy.savez"),
        ({"images": X, "labels": Y.astype(object)}, "save numbers, as numpy.savez"),
        ({"images": X, "labels": Y[:-1]}, "20 images in images and 19 labels: save"),
        ({"images": X, "labels": np.eye(2)[Y]}, "labels of d.npz has float64 of shape (20, 2), and labels"),
        ({"images": X, "labels": np.array(3)}, "has int64 of shape ()"),
        ({"images": X, "labels": Y + 0.5}, "the label 0.5"),
        ({"images": X, "labels": np.where(Y, np.nan, 1)}, "the label nan"),
        ({"images": X, "labels": np.array(["a", ""])[Y]}, "the label ''"),
        ({"images": X, "labels": np.array(["a", "\x1b[2J"])[Y]}, r"the label '\x1b[2J'"),
        ({"images": X, "labels": Y.astype("M8[s]")}, "has datetime64[s] of shape (20,)"),
        ({"images": X[:, :27].reshape(20, -1)[:, :783]}, "shape (20, 756)"),
        ({"images": np.zeros((20, 783))}, "has shape (20, 783), and images have (N, H, W)"),
        ({"images": X[..., None].repeat(2, 3)}, "has shape (20, 28, 28, 2)"),
        ({"images": np.zeros(784)}, "has shape (784,)"),
        ({"images": np.array(3)}, "has shape ()"),
        ({"images": X[:, :0]}, "has shape (20, 0, 28)"),
        ({"images": X[:0], "labels": Y[:0]}, "0 images"),
        ({"x_train": X, "x_test": X[:0]}, "0 images in x_test"),
        ({"images": np.where(X, np.nan, 0)}, "NaN or infinity"),
        ({"images": np.where(X, np.inf, 0)}, "NaN or infinity"),
        ({"images": X.astype(complex)}, "complex128, and no levels"),
        ({"images": X.astype(str)}, "and no levels of gray"),
    ],
)
def test_arrays_that_are_refused(arrays, says, own_folder):
    path = own_folder / "d.npz"
    save(path, **arrays)
    message = refused(path).replace(f"{own_folder}/", "")
    assert says in message, message


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["5,0,0,0,0", "1,0,0,0"], "4 cells in line 2, and 5 in the first"),
        (["label,a,b,c,d", "5,0,0,0,0", "", "1,0,0,0,0,1"], "6 cells in line 4, and 5 in the first"),
        (["# of 2020", "label,a,b,c,d", "5,0,0,0,0"], "5 cells in line 2, and 1 in the first"),
        (["label,a,b,c,d", "5,0,0,0,0", "5,0,0,x,0"], "could not convert string 'x' to float32, in line 3"),
        (["label,a,b,c,d", "5,0,0,0,0", "5,0,,0,0"], "could not convert string '' to float32, in line 3"),
        (["label,a,b,c", "5,0,0,0,0"], "5 cells in line 2, and 4 in the first"),
        (["label;a;b;c;d", "5;0,5;0,1;0;1", "5;0;0;0;0"], "string '0,5' to float32, in line 2"),
        (["label,a,b,c,d", '5,0,"1', '2",0,0'], "string '1 2' to float32, in line 3"),
        (["label,a,b,c,d", "2.5,0,0,0,0"], "the label 2.5"),
        (["label,a,b,c,d", "nan,0,0,0,0"], "the label nan"),
        (["label,a,b,c,d"], "0 images"),
        ([""], "0 images"),
        (["1,0,nan,0,0"] * 3, "NaN"),
        (["0" + ",0" * 782] * 3, "has shape (3, 783)"),
        (["label" + ",pixel" * 783] + ["0" + ",0" * 783] * 3, "has shape (3, 783)"),
        (["id"] + ["1"] * 3, "0 images"),
        (["label,a,b,c,d", ",0,0,0,0"], "the label ''"),
    ],
)
def test_csv_that_is_refused(lines, says, tmp_path):
    (tmp_path / "d.csv").write_text("\n".join(lines))
    assert says in refused(tmp_path / "d.csv")


def test_files_that_are_damaged_or_something_else(images, tmp_path):
    save(tmp_path / "good.npz", images=images)
    np.save(tmp_path / "good.npy", images)
    write(tmp_path / "good.csv", images.reshape(300, -1))
    with gzip.open(tmp_path / "good.csv.gz", "wb") as file:
        file.write((tmp_path / "good.csv").read_bytes())
    for good in sorted(tmp_path.glob("good.*")):
        content, bad = good.read_bytes(), tmp_path / ("bad" + good.name[4:])
        cut = [] if bad.name == "bad.csv" else [content[:3], content[: len(content) // 2]]
        for broken in (b"", b"\x89PNG\r\n\x1a\n" + content[100:], *cut):
            bad.write_bytes(broken)
            assert re.search("cannot be read|0 images", refused(bad))
    assert "No such file or directory): say with --images" in refused(tmp_path / "none.npz")
    (tmp_path / "d.csv").write_text("größe,label\n", encoding="utf-16")
    assert "save it as UTF-8" in refused(tmp_path / "d.csv")
    Image.fromarray(images[0]).save(tmp_path / "d.png")
    assert "save numbers" in refused((tmp_path / "d.png").rename(tmp_path / "d.npy"))


@pytest.mark.parametrize(
    "place", ["support.arrays.np.loadtxt", "support.images.Image.open", "support.arrays.np.load"]
)
def test_memory_that_ends_is_no_broken_file(place, images, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    if "Image" in place:
        pytest.importorskip("pyarrow")
        path = write_parquet(tmp_path / "d.parquet", image=[png(images[0])])
        monkeypatch.setattr(place, fail)
        with pytest.raises(MemoryError):  # of one picture: user_errors says so
            read(path)
    else:
        path = write(tmp_path / ("d.npy" if place.endswith("load") else "d.csv"), images.reshape(300, -1))
        monkeypatch.setattr(place, fail)
        assert f"{path} does not fit into memory" in refused(path)


def test_encode_takes_a_file(call, refusal, trained, images, labels, own_folder):
    save(own_folder / "d.npz", images=images[:20], labels=labels[:20])
    result = call("encode", "--checkpoint", trained.checkpoint, "d.npz")
    assert result.code == 0 and "images: 20 of 28 x 28, uint8" in result.out
    with open("outputs/encoded.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"d.npz[{i}]" for i in range(20)]
    assert [row["label"] for row in rows] == names_of(labels[:20])
    for options in (("--center", "d.npz"), ("d.npz", "d.npz")):
        assert "name it alone" in refusal(call("encode", "--checkpoint", trained.checkpoint, *options))
