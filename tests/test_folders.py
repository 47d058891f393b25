"""Folders of images: read as the tensors they are, split the same way every time, refused in one line."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from data import load_split
from data_sets import DATASETS
from model import ConvVAE
from settings import Settings
from support import flags, folders, paper
from support.checkpoint import Run, load_checkpoint, save_checkpoint
from support.errors import CheckpointError, DataError, UserError
from support.images import needs_inverting, read_image, read_images, to_page
from support.images import prepare as prepare_page
from support.pictures import palette


@pytest.fixture(scope="session")
def write_folder(digits):
    """A function that writes digits as PNGs in a folder for each name, or in one; returns the folder."""

    def write_folder(folder, names, change=lambda image: image, half="train", suffix="png"):
        images, labels = digits.train if half == "train" else digits.test
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            own = folder / names[i % len(names) if len(names) != 10 else label] if names else folder
            own.mkdir(parents=True, exist_ok=True)
            change(Image.fromarray(image)).save(own / f"{i:03d}.{suffix}")
        return folder

    return write_folder


TEN = [f"class {letter}" for letter in "abcdefghij"]


def settings(folder, **changes):
    return Settings(dataset=str(folder), **changes)


def load_folder(settings, split):
    return load_split(Run(settings), "data", split)


def prepare(image, size, invert=False, center=False):
    """A PIL image as a model wants it."""
    return prepare_page(to_page(image), size, invert, paper.center if center else None)[0]


def found(split):
    """The images and labels of a split in an order of their own."""
    pairs = zip(split.images, split.labels.tolist(), strict=True)
    return sorted((label, bytes(image.numpy())) for image, label in pairs)


# What is read


def test_pngs_of_the_digits_give_the_digits(write_folder, digits, tmp_path):
    """Two halves, and no resampling of what has the right size."""
    write_folder(tmp_path / "train", TEN)
    write_folder(tmp_path / "test", TEN, half="test")
    for half, (images, labels) in (("train", digits.train), ("test", digits.test)):
        split = load_folder(settings(tmp_path), half)
        assert split.images.shape == (len(images), 1, 28, 28) and split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64 and split.classes == TEN and split.source == "folder"
        expected = sorted((int(label), bytes(image)) for image, label in zip(images, labels, strict=True))
        assert found(split) == expected
        for file, image in zip(split.files, split.images, strict=True):
            assert np.array_equal(Image.open(file), image[0])


def test_about_a_sixth_is_held_out_and_always_the_same(write_folder, tmp_path):
    folder = write_folder(tmp_path, TEN)
    train, test = (load_folder(settings(folder), split) for split in ("train", "test"))
    assert len(train.files) + len(test.files) == 300 and 35 <= len(test.files) <= 65
    assert not set(train.files) & set(test.files) and len(set(train.files + test.files)) == 300
    assert load_folder(settings(folder), "test").files == test.files
    # mixed: the first images, which are those in pictures, are of several classes
    assert len(set(test.labels[:10].tolist())) > 3

    validating = settings(folder, validate=True)
    kept, validation = (load_folder(validating, split) for split in ("train", "validation"))
    assert not set(kept.files) & set(validation.files) and 25 <= len(validation.files) <= 60
    assert sorted(kept.files + validation.files) == sorted(train.files)  # nothing is held out twice
    assert load_folder(validating, "test").files == test.files
    assert load_folder(settings(folder), "validation").files == validation.files


def test_images_that_come_and_go_move_no_other(write_folder, tmp_path):
    """Nor does another place for the folder."""
    folder = write_folder(tmp_path / "own", ["cats", "dogs"])

    def splits(folder):
        files = {split: load_folder(settings(folder), split).files for split in ("train", "test")}
        return {Path(file).name: split for split, own in files.items() for file in own}

    before = splits(folder)
    for i in range(20):
        Image.new("L", (28, 28), 9 * i + 9).save(folder / "cats" / f"new{i}.png")
        (folder / "dogs" / f"{2 * i + 1:03d}.png").unlink()
    after = splits(folder.rename(tmp_path / "moved"))
    assert len(after) == 300 and {before[name] == after[name] for name in before.keys() & after} == {True}


def test_small_classes_keep_two_to_train_on(tmp_path):
    for i in range(600):
        path = tmp_path / f"class {i // 3}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.linear_gradient("L").rotate(i).resize((28, 28)).save(path)
    train, test = (load_folder(settings(tmp_path), split) for split in ("train", "test"))
    assert torch.bincount(train.labels).min() == 2 and 50 <= len(test.images) <= 120


HALVES = [
    ("train", "test"),
    ("Train", "TEST"),
    ("training", "testing"),
    ("trainingSet/trainingSet", "testSet/testSet"),
    ("train/train", "test/test"),
    ("archive/mnist_png/training", "archive/mnist_png/testing"),
    ("seg_train/seg_train", "seg_test/seg_test"),
    ("JPG/MNIST - JPG - training", "JPG/MNIST - JPG - testing"),
]


@pytest.mark.parametrize("train, test", HALVES)
def test_halves_by_other_names(write_folder, tmp_path, train, test):
    write_folder(tmp_path / train, TEN)
    write_folder(tmp_path / test, TEN, half="test")
    splits = [load_folder(settings(tmp_path), split) for split in ("train", "test")]
    assert [len(split.images) for split in splits] == [300, 100]
    assert [split.classes for split in splits] == [TEN, TEN]
    assert splits[0].notes[0].startswith("10 classes: class a 30, class b 30, ")


def test_halves_without_classes_and_a_class_that_is_called_train(write_folder, tmp_path):
    write_folder(tmp_path / "halves" / "Training", [])
    write_folder(tmp_path / "halves" / "Testing", [], half="test")
    assert [len(load_folder(settings(tmp_path / "halves"), split).images) for split in ("train", "test")] == [
        300,
        100,
    ]
    for names in (["car", "plane", "train"], ["bus stop", "train station"]):
        folder = write_folder(tmp_path / names[0], names)
        assert load_folder(settings(folder), "train").classes == names
    write_folder(tmp_path / "words" / "trainImages", [])
    write_folder(tmp_path / "words" / "testImages", [], half="test")
    assert load_folder(settings(tmp_path / "words"), "train").classes == []


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_validation_half_is_what_its_name_says(write_folder, tmp_path, capsys, name):
    write_folder(tmp_path / "train", ["a", "b"])
    write_folder(tmp_path / name, ["a", "b"], half="test")
    split = load_folder(settings(tmp_path), "train")
    assert (
        split.classes == ["a", "b"]
        and len(split.images) + len(load_folder(settings(tmp_path), "test").images) == 300
    )
    assert (
        f"left out the validation images of {tmp_path}, which are for --validate" in capsys.readouterr().err
    )
    validating = settings(tmp_path, validate=True)
    assert len(load_folder(validating, "validation").images) == 100
    assert load_folder(validating, "train").files == split.files


def test_folders_of_folders_are_no_classes(write_folder, tmp_path, capsys):
    write_folder(tmp_path / "letters" / "greek", ["alpha", "beta"])
    write_folder(tmp_path / "letters" / "latin", ["a", "b"])
    with pytest.raises(
        DataError,
        match=r"letters has no images, nor class folders with images right in them: use FOLDER/<class>",
    ):
        load_folder(settings(tmp_path / "letters"), "train")
    write_folder(tmp_path / "letters", ["cats", "dogs"])
    assert load_folder(settings(tmp_path / "letters"), "train").classes == ["cats", "dogs"]
    assert "left out greek, latin" in capsys.readouterr().err
    (tmp_path / "two" / "train" / "a").mkdir(parents=True)
    (tmp_path / "two" / "training" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="are one half by their names: keep one"):
        load_folder(settings(tmp_path / "two"), "train")


def test_hidden_folders_and_thumbnails_are_no_images(write_folder, tmp_path):
    """Jupyter's, a Mac's, a Synology's and Windows', inside the classes."""
    folder = write_folder(tmp_path, ["a", "b"])
    for name in (".ipynb_checkpoints", ".thumbnails", "@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN"):
        (folder / "a" / name).mkdir()
        for file in list((folder / "a").glob("*.png"))[:9]:
            (folder / "a" / name / file.name).write_bytes(file.read_bytes())
    (folder / "b" / "._000.png").write_bytes(b"a Mac's")
    splits = [load_folder(settings(folder), split) for split in ("train", "test")]
    assert sum(len(split.images) for split in splits) == 300
    assert len(folders.image_files(folder)) == 300


def test_every_file_is_read_once_whatever_links_there_are(write_folder, tmp_path):
    folder = write_folder(tmp_path / "own", ["a", "b"])
    (folder / "a" / "again").symlink_to("..")
    (folder / "a" / "another").symlink_to("../b")  # whose images stay there
    (folder / "b" / "twice.png").symlink_to("001.png")
    elsewhere = write_folder(tmp_path / "elsewhere", [])
    (folder / "c").symlink_to(elsewhere)  # a class that is a link is one
    splits = [load_folder(settings(folder), split) for split in ("train", "test")]
    assert splits[0].classes == ["a", "b", "c"] and sum(len(split.images) for split in splits) == 600
    assert sum(int((split.labels == 1).sum()) for split in splits) == 150
    assert len(folders.image_files(folder)) == 600


def samples_of(folder):
    """The names of the files of each class, by the class's name."""
    halves, classes, _ = folders.find_files(folder)
    samples = [sample for own in halves.values() for sample in own]
    return {name: sorted(Path(s.picture).name for s in samples if s.name == name) for name in classes}


def test_what_links_bring_in_from_outside_is_said(write_folder, tmp_path, capsys):
    """A class, a folder in one, and a file; a folder that is a link itself is as good as any."""
    folder = write_folder(tmp_path / "own", ["a", "b"])
    elsewhere = write_folder(tmp_path / "elsewhere", [])
    (folder / "a" / "more").symlink_to(elsewhere)
    assert {name: len(own) for name, own in samples_of(folder).items()} == {"a": 450, "b": 150}
    assert f"300 images lie outside {folder}, where links lead to, {elsewhere}" in capsys.readouterr().err
    (folder / "a" / "more").unlink()
    (folder / "c").symlink_to(elsewhere)
    found = samples_of(folder)
    assert list(found) == ["a", "b", "c"] and len(found["c"]) == 300
    (tmp_path / "link").symlink_to(folder)
    assert samples_of(tmp_path / "link") == found


@pytest.mark.parametrize("halves", [("", ""), ("train", "test")])
def test_links_move_no_file_to_another_class(write_folder, tmp_path, capsys, halves):
    """Nor to the other half, and the real folder is the class, not a link to it."""
    folder, (train, test) = tmp_path / "own", [tmp_path / "own" / half for half in halves]
    write_folder(train, ["3", "8"])
    write_folder(test, ["3", "8"], half="test")
    before = samples_of(folder)
    for number in range(1, 100, 2):
        (train / "3" / f"a{number}.png").symlink_to(test / "8" / f"{number:03d}.png")
    (train / "3" / "eights").symlink_to("../8")
    (train / "0alias").symlink_to("3")
    assert {name: sorted(own) for name, own in samples_of(folder).items()} == before
    assert capsys.readouterr().err == ""


def test_links_to_a_store_inside_the_folder(write_folder, tmp_path, capsys):
    """As git-annex has it: a file that lies in no class is of the class that has a link to it."""
    folder = write_folder(tmp_path / "own", ["a", "b"])
    (folder / ".store").mkdir()
    for number, file in enumerate(sorted(folder.glob("[ab]/*.png"))):
        file.symlink_to(file.rename(folder / ".store" / f"{number}"))
    assert {name: len(own) for name, own in samples_of(folder).items()} == {"a": 150, "b": 150}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("names", [[], ["a", "b"]])
def test_link_to_nowhere_is_named(write_folder, tmp_path, names):
    folder = write_folder(tmp_path, names)
    (folder / (names[0] if names else "") / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png is a link to nowhere"):
        load_folder(settings(folder), "train")


def test_names_in_both_forms_of_unicode(write_folder, tmp_path):
    """A Mac stores accents apart from their letters."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    write_folder(tmp_path / "own" / "train", [apart, "x"])
    write_folder(tmp_path / "own" / "test", [composed, "x"], half="test")
    assert load_folder(settings(tmp_path / "own"), "test").classes == [composed, "x"]
    folder = write_folder(tmp_path / "both", [apart, composed])
    if len(list(folder.iterdir())) < 2:
        pytest.skip("this file system does not tell them apart")
    with pytest.raises(DataError, match="Unicode form"):
        load_folder(settings(folder), "train")


def test_images_without_classes(write_folder, tmp_path):
    folder = write_folder(tmp_path, [])
    train, test = (load_folder(settings(folder), split) for split in ("train", "test"))
    assert len(train.images) + len(test.images) == 300 and 35 <= len(test.images) <= 65
    assert train.classes == [] and train.labels.unique().tolist() == [0]
    write_folder(tmp_path / "halves" / "train", [])
    write_folder(tmp_path / "halves" / "test", [], half="test")
    assert [len(load_folder(settings(tmp_path / "halves"), s).images) for s in ("train", "test")] == [
        300,
        100,
    ]


def test_what_is_no_image_by_its_name_is_left_out_and_counted(write_folder, tmp_path, capsys):
    folder = write_folder(tmp_path, ["a", "b"])
    for name in ("a/notes.txt", "b/.DS_Store", "b/._007.png", ".cache/x.png", "loose.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no image")
    assert load_folder(settings(folder), "train").classes == ["a", "b"]
    assert "left out 2 files" in capsys.readouterr().err  # what is hidden is not worth a word


MODES = {
    "1": (1, 255),
    "L": (200, 200),
    "P": (200, 200),
    "RGB": ((200, 200, 200), 200),
    "RGB weighted": ((255, 0, 0), 76),  # 0.299 of it, by ITU-R 601
    "CMYK": ((0, 0, 0, 55), 200),
    "YCbCr": ((200, 128, 128), 200),
    "LAB": ((200, 0, 0), 200),
    "HSV": ((0, 0, 200), 200),
    "LA": ((200, 128), 100),
    "RGBA": ((200, 200, 200, 128), 100),
    "I;16": (200 * 257, 200),
    "I": (200 * 257, 200),
    "F": (200 / 255, 200),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_gray(name):
    value, gray = MODES[name]
    image = Image.new(name.split()[0], (28, 28), value)
    if name == "P":
        image.putpalette([component for level in range(256) for component in (level, level, level)])
    assert (prepare(image, 28).int() - gray).abs().max() <= 1


def test_what_is_transparent_is_paper():
    """Black ink on nothing, and white ink on nothing: both come out light on black, inverted or not."""
    for ink, invert in ((0, True), (255, False)):
        image = Image.new("RGBA", (28, 28), (ink, ink, ink, 0))
        image.paste((ink, ink, ink, 255), (10, 10, 20, 20))
        expected = torch.zeros(1, 28, 28, dtype=torch.uint8)
        expected[:, 10:20, 10:20] = 255
        assert torch.equal(prepare(image, 28, invert), expected)


def test_any_size_is_padded_to_a_square():
    """100 x 50 white pixels: 28 x 14 of them in the middle, black above and below."""
    pixels = prepare(Image.new("L", (100, 50), 255), 28)
    assert (pixels[0, 7:21] == 255).all() and pixels[0, :7].max() == 0 and pixels[0, 21:].max() == 0
    assert torch.equal(prepare(Image.new("L", (50, 100), 255), 28)[0], pixels[0].T)
    for size in ((1, 10_000), (10_000, 1), (1, 1), (29, 28)):
        assert prepare(Image.new("L", size, 255), 28).shape == (1, 28, 28)
    assert prepare(Image.new("L", (100, 50), 255), 64).shape == (1, 64, 64)


def test_resizing_is_antialiased():
    """A chessboard too fine for the pixels is gray; taking every tenth pixel would leave black and white."""
    board = Image.fromarray((255 * (np.indices((280, 280)).sum(0) % 2)).astype(np.uint8))
    assert (prepare(board, 28).int() - 127).abs().max() <= 2


def test_inverted_is_paper_black_and_padding_too():
    page = Image.new("L", (56, 28), 255)
    page.paste(0, (20, 10, 36, 18))
    pixels = prepare(page, 28, invert=True)
    assert pixels[0, 14, 14] == 255 and pixels[0, 0, 0] == 0 and pixels[0, 14, 0] == 0


def test_photographs_stand_upright_and_large_jpegs_are_as_good_as_small_ones(tmp_path, digits):
    digit = Image.fromarray(digits.test[0][55])
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    digit.rotate(90).resize((1400, 1400), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", exif=exif)
    (pixels,), size, *_ = read_image(tmp_path / "a.jpg", 28)
    assert size == (1400, 1400)
    assert (pixels[0].int() - torch.from_numpy(np.array(digit)).int()).abs().float().mean() < 4


def test_centered_digit_is_where_mnist_has_it(digits):
    """Moved, enlarged, in ink on gray paper: what comes back is the digit, by mass in the middle."""
    alike = []
    for i in range(0, 100, 4):
        original = digits.test[0][i]
        page = np.full((700, 1000), 200.0)
        page[300:580, 600:880] -= 0.6 * np.asarray(Image.fromarray(original).resize((280, 280)))
        page += np.random.default_rng(0).normal(0, 3, page.shape)
        found = prepare(Image.fromarray(page.clip(0, 255).astype(np.uint8)), 28, invert=True, center=True)[0]
        rows, columns = found.nonzero(as_tuple=True)
        assert max(np.ptp(rows.numpy()), np.ptp(columns.numpy())) + 1 <= 20
        mass = found.double() / found.sum()
        assert (mass.sum(1) @ torch.arange(28.0).double()).item() == pytest.approx(14, abs=0.51)
        assert (mass.sum(0) @ torch.arange(28.0).double()).item() == pytest.approx(14, abs=0.51)
        alike.append(np.corrcoef(found.flatten(), original.flatten())[0, 1])
    assert np.mean(alike) > 0.9  # some are a pixel off: where the middle is depends on the faintest pixels


@pytest.mark.parametrize("noise", [10, 20])
def test_noise_of_a_photograph_does_not_make_the_digit_smaller(digits, noise):
    """The centered digit of a noisy, shaded photograph is that of a clean one."""
    original = digits.test[0][75]
    clean = np.full((1200, 1600), 220.0)
    clean[300:860, 500:1060] -= 0.7 * np.asarray(Image.fromarray(original).resize((560, 560)))
    noisy = clean + np.random.default_rng(0).normal(0, noise, clean.shape) - np.linspace(0, 40, 1600)
    one, two = (
        prepare(Image.fromarray(page.clip(0, 255).astype(np.uint8)), 28, invert=True, center=True)[0].float()
        for page in (clean, noisy)
    )
    assert max(np.ptp(two.nonzero().numpy(), axis=0)) + 1 >= 18  # of the box of 20
    assert np.corrcoef(one.flatten(), two.flatten())[0, 1] > 0.95


def test_centering_a_blank_page_is_blank():
    assert prepare(Image.new("L", (90, 60), 200), 28, center=True).max() == 0


LEVELS = {
    "0 and 1": (
        lambda a: (a > 127).astype(np.uint8),
        lambda a: 255 * (a > 127),
        "8-bit pictures 0 is taken for black and 1",
    ),
    "0 to 16": (
        lambda a: (a / 255 * 16).round().astype(np.uint8),
        None,
        "0 is taken for black and 16 for white",
    ),
    "8 bits in 16": (
        lambda a: a.astype(np.uint16),
        None,
        "integer pictures 0 is taken for black and 255 for white",
    ),
    "10 bits in 16": (lambda a: a.astype(np.uint16) * 4, None, "and 1023 for white"),
    "12 bits in 16": (lambda a: a.astype(np.uint16) * 16, None, "and 4095 for white"),
    "16 bits": (lambda a: a.astype(np.uint16) * 257, None, "and 65535 for white"),
    "14 bits in 16": (lambda a: a.astype(np.uint16) * 64, None, "and 16383 for white"),
    "15 bits and a sign": (lambda a: a.astype(np.int32) * 128, None, "and 32767 for white"),
    "0 to 7": (lambda a: a // 32, lambda a: a // 32 * 255 / 7, "0 is taken for black and 7 for white"),
    "0 to 100": (lambda a: (a / 2.55).round().astype(np.uint8), None, "0 is taken for black and 100 for"),
    "8 bits in 32": (lambda a: a.astype(np.int32), None, "and 255 for white"),
    "floats that overshoot": (lambda a: (a / 255 * 1.02).astype(np.float32), None, "and 1 for white"),
    "floats to 1": (lambda a: (a / 255).astype(np.float32), None, "and 1 for white"),
    "floats to 255": (lambda a: a.astype(np.float32), None, "and 255 for white"),
    "floats to 2": (lambda a: (a / 127.5).astype(np.float32), None, "and 2 for white"),
    "floats to 4,095": (lambda a: (a / 255 * 4095).astype(np.float32), None, "and 4095 for white"),
    "floats from -1": (
        lambda a: (a / 127.5 - 1).astype(np.float32),
        None,
        "-1 is taken for black and 1 for white",
    ),
    "standardised": (
        lambda a: ((a / 255 - 0.1307) / 0.3081).astype(np.float32),
        None,
        "-0.424213 is taken for black and 2.8",
    ),
}


@pytest.mark.parametrize("change, expected, words", LEVELS.values(), ids=LEVELS)
def test_levels_of_any_range_are_black_to_white(write_folder, digits, tmp_path, change, expected, words):
    folder = write_folder(
        tmp_path, TEN, lambda image: Image.fromarray(change(np.asarray(image))), suffix="tif"
    )
    split = load_folder(settings(folder), "train")
    originals = {f"{i:03d}.tif": image for i, image in enumerate(digits.train[0])}
    for image, file in zip(split.images, split.files, strict=True):
        right = originals[Path(file).name].astype(int)
        assert np.abs(image[0].int().numpy() - (right if expected is None else expected(right))).max() <= 9
    assert words in split.notes[-1]


def test_one_hot_pixel_does_not_decide_what_is_white(write_folder, tmp_path):
    """Of 12 bits in 16; the brightest pixel of one picture is a sensor's."""
    folder = write_folder(
        tmp_path, TEN, lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 16)
    )
    path = next(folder.rglob("*.png"))
    hot = np.asarray(Image.open(path)).astype(np.uint16).copy()
    hot[0, 0] = 65_535
    Image.fromarray(hot).save(path)
    assert "and 4095 for white" in load_folder(settings(folder), "train").notes[-1]


def test_few_dark_pictures_stay_dark_and_the_darkest_are_told(tmp_path, capsys):
    for level in (100, 20):
        picture = Image.new("L", (28, 28))
        picture.paste(level, (10, 10, 20, 20))
        picture.save(tmp_path / "a.png")
        assert read_images([tmp_path / "a.png"], 28)[0].max() == level
        told = "1 of the images are nearly black" in (err := capsys.readouterr().err)
        assert told == ("with no level above 20 of 255" in err) == (level == 20)


def test_dark_pictures_among_others_are_told(write_folder, tmp_path, capsys):
    folder = write_folder(tmp_path, ["cats", "dogs"])
    for path in sorted((folder / "dogs").iterdir())[:5]:  # saved as 0 and 1
        Image.open(path).point(lambda level: level > 127).save(path)
    read_images(folders.image_files(folder), 28)
    assert "5 of the images are nearly black" in capsys.readouterr().err


def test_infinite_levels(tmp_path):
    Image.fromarray(np.array([[0, 1], [np.inf, 0.5]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif cannot be read \(infinity among its levels\)"):
        read_images([tmp_path / "a.tif"], 28)


def write_tiff(path, pixels, photometric):
    """A TIFF with these pixels, unsigned integers, 0 for white (photometric 0) or black (1)."""
    height, width = pixels.shape
    data, bits = pixels.tobytes(), 8 * pixels.itemsize
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 3, height), (279, 4, len(data)), (339, 3, 1)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    path.write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4))


@pytest.mark.parametrize("kind", ["16 bits, 0 is white", "32 bits, unsigned"])
def test_tiffs_that_pillow_reads_otherwise(digits, tmp_path, kind):
    """Seen in Pillow 13.0: 0 is white is seen to up to 8 bits, and unsigned 32 bits are read as signed."""
    digit = digits.test[0][55]
    if kind.startswith("16"):
        write_tiff(tmp_path / "a.tif", (65_535 - digit.astype("<u2") * 257).astype("<u2"), 0)
    else:
        write_tiff(tmp_path / "a.tif", digit.astype("<u4") * 16_843_009, 1)
    (pixels,), *_ = read_image(tmp_path / "a.tif", 28)
    assert np.abs(pixels[0].int().numpy() - digit.astype(int)).max() <= 1


def test_tiff_that_pillow_does_not_read(tmp_path):
    """Of 64 bits, which are numpy's default; seen in Pillow 13.0."""
    write_tiff(tmp_path / "a.tif", np.ones((28, 28), "<u8"), 1)
    with pytest.raises(DataError, match=r"unknown kind of image\): save it with 8 or 16 bits, or as float32"):
        read_images([tmp_path / "a.tif"], 28)


def test_transparent_level_of_a_16_bit_png(tmp_path):
    page = np.full((28, 28), 1000, np.uint16)
    page[10:20, 10:20] = 65_535
    Image.fromarray(page).save(tmp_path / "a.png", transparency=1000)
    (pixels,), *_ = read_image(tmp_path / "a.png", 28)
    assert (pixels[0, 10:20, 10:20] == 255).all() and pixels.sum() == 100 * 255


def test_pages_of_a_tiff_and_the_first_frame_of_an_animation(digits, tmp_path, capsys):
    pages = [Image.fromarray(image) for image in digits.test[0][:5]]
    for name in ("a.tif", "b.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    images, numbers, _ = read_images([tmp_path / "a.tif", tmp_path / "b.gif"], 28)
    assert numbers == [0] * 5 + [1]
    assert np.array_equal(images[:5, 0], digits.test[0][:5])
    assert "frames after the first are left out in 1 of 2 pictures" in capsys.readouterr().err


def test_levels_are_those_of_all_pages_and_small_copies_are_none(digits, tmp_path):
    pages = [Image.fromarray(image.astype(np.uint16) * 16) for image in digits.test[0][:3]]
    small = pages[0].resize((14, 14))
    small.encoderinfo = {"tiffinfo": {254: 1}}  # as scanners mark it
    Image.new("I;16", (28, 28)).save(tmp_path / "a.tif", save_all=True, append_images=[*pages, small])
    images, *_ = read_images([tmp_path / "a.tif"], 28)
    assert np.abs(images[1:, 0].int().numpy() - digits.test[0][:3]).max() <= 1 and images[0].max() == 0


def test_phones_pictures_are_no_animations(tmp_path, capsys):
    picture = Image.new("RGB", (28, 28), 200)
    picture.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture.resize((14, 14))])
    assert len(read_images([tmp_path / "a.jpg"], 28)[0]) == 1
    assert "frames" not in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "pbm", "pnm", "jp2", "avif", "webp"])
def test_pictures_of_rarer_names_are_read(tmp_path, suffix):
    forms = {"jfif": "jpeg", "jpe": "jpeg", "pbm": "ppm", "pnm": "ppm", "jp2": "jpeg2000"}
    form = forms.get(suffix, suffix)
    picture = Image.new("1" if suffix == "pbm" else "L", (28, 28))
    picture.paste(255, (10, 10, 20, 20))
    for i in range(40):
        picture.save(tmp_path / f"{i}.{suffix}", form)
    assert sum(len(load_folder(settings(tmp_path), split).images) for split in ("train", "test")) == 40


@pytest.mark.parametrize("suffix", ["heic", "pdf", "svg"])
def test_what_has_to_be_converted(call, refusal, trained, own_folder, suffix):
    Path(f"photo.{suffix}").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    assert "convert it to PNG" in refusal(
        call("encode", f"photo.{suffix}", "--checkpoint", trained.checkpoint)
    )


@pytest.mark.parametrize("kind", ["pcx", "tga", "sgi"])
def test_a_picture_is_read_as_nothing_else(write_folder, tmp_path, kind):
    """By its content: Pillow knows many kinds, and has other programs read some of them."""
    folder = write_folder(tmp_path, ["a", "b"])
    Image.new("L", (28, 28), 255).save(folder / "a" / "x.png", kind)
    with pytest.raises(DataError, match=r"x\.png cannot be read \(unknown kind of image\): convert it"):
        load_folder(settings(folder), "train")
    Image.new("L", (28, 28), 255).save(folder / "a" / "x.png", "jpeg")  # which many a png is
    os.mkfifo(folder / "a" / "pipe.png")  # which would never end
    splits = [load_folder(settings(folder), split) for split in ("train", "test")]
    assert sum(len(split.images) for split in splits) == 301


def test_ink_on_paper_is_seen(write_folder, tmp_path):
    def on_wide_paper(image):
        page = Image.new("L", (56, 28), 230)
        page.paste(Image.fromarray(230 - (np.asarray(image) * 0.9).astype(np.uint8)), (14, 0))
        return page

    light, dark = write_folder(tmp_path / "light", [], on_wide_paper), write_folder(tmp_path / "dark", [])
    assert needs_inverting(folders.image_files(light)[:50])
    assert not needs_inverting(folders.image_files(dark)[:50])


@pytest.mark.parametrize("ink", [(0, 0, 0), (30, 30, 30), (26, 35, 126), (255, 255, 255)])
def test_ink_on_nothing_is_seen(write_folder, tmp_path, ink):
    """Dark ink of any kind, by itself: what is transparent tells nothing."""

    def drawing(image):
        return Image.merge("RGBA", [*(Image.new("L", (28, 28), level) for level in ink), image])

    folder = write_folder(tmp_path, [], drawing)
    assert needs_inverting(folders.image_files(folder)[:50]) == (sum(ink) < 384)


@pytest.mark.parametrize("corner", [255, 0])
def test_ink_on_paper_is_seen_though_a_picture_could_be_transparent(write_folder, tmp_path, corner):
    """As a browser's screenshot is, whose alpha is 255 throughout, and as a sticker, which has no corners."""

    def page(image):
        alpha = Image.new("L", (28, 28), corner)
        alpha.paste(255, (3, 3, 25, 25))
        return Image.merge("RGBA", [*[Image.fromarray(255 - np.asarray(image))] * 3, alpha])

    assert needs_inverting(folders.image_files(write_folder(tmp_path, [], page))[:50])


def test_class_on_another_ground_is_told(write_folder, call, tmp_path):
    folder = write_folder(tmp_path / "own", ["cats", "dogs", "owls"])
    for path in (folder / "dogs").iterdir():
        Image.open(path).point(lambda level: 255 - level).save(path)
    result = call("train", "--dataset", "own", "--epochs", 1)
    assert any("the images of dogs are on light ground, unlike others" in line for line in result.err)


def test_faint_ink_on_nothing_is_seen(write_folder, tmp_path):
    def drawing(image):
        return Image.merge("LA", [Image.new("L", (28, 28), 30), image.point(lambda level: level // 3)])

    assert needs_inverting(folders.image_files(write_folder(tmp_path, [], drawing))[:50])


def test_black_and_white_as_0_and_1_in_a_picture_that_could_be_transparent(digits, tmp_path):
    ink = Image.fromarray((digits.test[0][55] > 127).astype(np.uint8))
    Image.merge("RGBA", [ink, ink, ink, Image.new("L", (28, 28), 255)]).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 28)[0][0].max() == 255


def test_arrays_are_judged_as_pictures_are(digits, call, tmp_path):
    images, labels = digits.train
    np.savez("own.npz", x_train=255 - images, y_train=labels, x_test=255 - images[:7], y_test=labels[:7])
    for options, lines in (((), 1), (("--invert", "--overwrite"), 0)):
        result = call("train", "--dataset", "own.npz", "--epochs", 1, *options)
        assert result.code == 0 and sum("dark ink on light paper" in line for line in result.err) == lines
        assert any("7 of the test images are among the training images" in line for line in result.err)
    assert any("dark ink on" in line for line in call("encode", "own.npz", "--no-invert").err)


def test_colour_is_told(tmp_path):
    pages = {"gray.png": (99, 99, 99), "red.png": (99, 0, 0), "red.jpg": (99, 0, 0)}
    for name, level in pages.items():
        Image.new("RGB", (28, 28), level).save(tmp_path / name)
        note = read_images([tmp_path / name], 28)[2][0]
        assert note.endswith("read as 28 x 28" if "gray" in name else "28 x 28, and colours as gray")


def test_suggestion_to_invert_is_made_once_and_when_it_helps(write_folder, call, tmp_path):
    write_folder(tmp_path / "own", [], lambda image: Image.fromarray(255 - np.asarray(image)))
    for options, lines in ((("--overwrite",), 1), (("--invert", "--overwrite"), 0)):
        result = call("train", "--dataset", "own", "--epochs", 1, *options)
        assert result.code == 0 and sum("--invert" in line for line in result.err) == lines


def test_first_lines_say_what_was_read(write_folder, call, tmp_path):
    folder = write_folder(tmp_path / "own", ["cats", "dogs"], lambda image: image.resize((40, 30)))
    for i in range(3):
        Image.new("L", (28, 28)).save(folder / "dogs" / f"blank{i}.png")
    result = call("train", "--dataset", "own", "--epochs", 1)
    first, classes, where, size, levels, *_ = result.out.splitlines()
    held_out = "about a sixth of it, held out"
    assert where == f"to train on: own; to test on: {held_out}; --validate: {held_out}"
    counts = [int(number) for number in re.findall(r"(\d+) (?:training|test)", first)]
    assert sum(counts) == 303 and "own (folder)" in first
    assert re.fullmatch(r"2 classes: cats \d+, dogs \d+", classes)
    assert size == "pictures of 28 x 28 to 40 x 30 pixels, read as 28 x 28"
    assert re.match(
        r"ground 0 of 255, darkest level 0, brightest 25\d; [23] blank, .*blank\d\.png among", levels
    )
    assert any("of the images are blank" in line for line in result.err)


def test_pictures_in_both_halves_are_told(write_folder, call, tmp_path):
    write_folder(tmp_path / "own" / "train", ["cats", "dogs"])
    for file in sorted((tmp_path / "own" / "train" / "cats").glob("*.png"))[:7]:
        (tmp_path / "own" / "test" / "cats").mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / "test" / "cats" / file.name).write_bytes(file.read_bytes())
    result = call("train", "--dataset", "own", "--epochs", 1)
    assert any("7 of the test images are among the training images" in line for line in result.err)
    assert any("has no images of dogs" in line for line in result.err)


def test_model_that_is_measured_on_a_folder_that_grew(write_folder, call, tmp_path):
    folder = write_folder(tmp_path / "own", ["cats", "dogs"])
    assert call("train", "--dataset", "own", "--epochs", 1).code == 0
    assert not any("began with" in line for line in call("evaluate", "--draws", 1).err)
    for i in range(20):  # of which some are held out
        Image.linear_gradient("L").rotate(i).save(folder / "cats" / f"new{i}.png")
    told = "\n".join(call("evaluate", "--draws", 1).err)
    assert re.search(r"these \d+ training images are not the \d+ that the model began with", told)


# What is refused


@pytest.fixture
def refused(call, refusal, tmp_path):
    """A function that has train.py read a folder, and returns its one line of error."""

    def refused(folder, *args):
        line = refusal(call("train", "--dataset", folder, "--epochs", 1, *args))
        assert not (tmp_path / "checkpoints" / "vae.pt").exists()
        return line

    return refused


def test_name_that_is_neither_a_data_set_nor_a_folder(refused):
    assert "cifar is neither one of mnist, fashion-mnist, kmnist, qmnist" in refused("cifar")
    assert "--dataset" in refused("")


def test_empty_folder(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty has no images" in refused("empty")
    (tmp_path / "empty" / "cat").mkdir()
    assert "empty has no images" in refused("empty")


def test_class_of_a_single_image(refused, write_folder, tmp_path):
    folder = write_folder(tmp_path / "own", ["cats", "dogs"])
    (folder / "birds").mkdir()
    Image.new("L", (28, 28), 255).save(folder / "birds" / "0.png")
    assert "class birds has 1 of the training images" in refused(folder)


def test_folder_without_images_beside_classes_is_none(write_folder, tmp_path, capsys):
    folder = write_folder(tmp_path / "own", ["cats", "dogs"])
    (folder / "birds").mkdir()
    assert load_folder(settings(folder), "train").classes == ["cats", "dogs"]
    assert "left out birds of" in capsys.readouterr().err


def test_class_too_small_for_the_mixture(refused, write_folder, tmp_path):
    """Two files, one of which is no picture."""
    write_folder(tmp_path / "own" / "train", ["cats", "dogs"])
    write_folder(tmp_path / "own" / "test", ["cats", "dogs"], half="test")
    birds = tmp_path / "own" / "train" / "birds"
    birds.mkdir()
    Image.new("L", (28, 28), 255).save(birds / "0.png")
    (birds / "1.png").write_text("no picture")
    line = refused("own", "--skip-bad")
    assert "class birds has 1 of the training images" in line and "--dataset" in line


def test_class_to_test_on_that_is_none_to_train_on(refused, write_folder, tmp_path):
    write_folder(tmp_path / "own" / "train", ["cats", "dogs"])
    write_folder(tmp_path / "own" / "test", ["cats", "hens"])
    assert "own has hens to test on alone" in refused("own")


def test_half_without_the_classes_of_the_other(refused, write_folder, tmp_path):
    write_folder(tmp_path / "own" / "train", ["cats", "dogs"])
    write_folder(tmp_path / "own" / "test", [], half="test")
    assert "own has labels for some of its images alone" in refused("own")


def png_header(width, height):
    """A PNG file of that size as far as its header tells."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


def whole_png(width, height):
    """A good PNG file of that size, with little in it."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "png")
    return buffer.getvalue()


BAD_FILES = {
    "text": lambda good: b"<html>no such file</html>",
    "empty": lambda good: b"",
    "truncated": lambda good: good[: len(good) * 2 // 3],
    "damaged": lambda good: good[:60] + bytes(40) + good[100:],
    "bomb": lambda good: png_header(30_000, 30_000),
    "small bomb": lambda good: whole_png(10_000, 10_000),  # for which Pillow has no more than a warning
}


@pytest.fixture
def folder_with_bad_files(write_folder, tmp_path):
    """A function that makes a folder with 20 files of this damage among those of one of its classes."""

    def folder_with_bad_files(damage):
        folder = write_folder(tmp_path / "own", ["cats", "dogs"])
        good = (folder / "cats" / "000.png").read_bytes()
        for i in range(20):
            (folder / "cats" / f"zzz{i}.png").write_bytes(damage(good))
        return folder

    return folder_with_bad_files


@pytest.mark.parametrize("damage", BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_is_named_and_can_be_left_out(refused, folder_with_bad_files, capsys, damage):
    folder = folder_with_bad_files(damage)
    line = refused(folder)
    assert "cats/zzz" in line and "--skip-bad" in line
    splits = [load_folder(settings(folder, skip_bad=True), split) for split in ("train", "test")]
    assert sum(len(split.images) for split in splits) == 300
    counts = [int(line.split()[3]) for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(counts) == 2 and sum(counts) == 20


def test_picture_that_ends_early_is_the_only_one_of_its_kind(tmp_path):
    """What its levels are is asked before it is found out."""
    Image.effect_noise((28, 28), 90).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-150])
    with pytest.raises(DataError, match=r"a\.jpg cannot be read \(image file is truncated"):
        read_images([tmp_path / "a.jpg"], 28)


def test_bad_files_are_left_out_by_all_scripts(call, folder_with_bad_files):
    folder = folder_with_bad_files(BAD_FILES["text"])
    assert call("train", "--dataset", folder, "--epochs", 1, "--skip-bad").code == 0
    assert load_checkpoint("checkpoints/vae.pt")[1].settings.skip_bad
    assert call("evaluate", "--draws", 1).code == 0  # without being told


def test_folder_of_nothing_but_other_files(refused, tmp_path):
    (tmp_path / "own" / "a").mkdir(parents=True)
    (tmp_path / "own" / "a" / "1.heic").write_text("a photograph")
    assert "own/a/1.heic" in refused("own")


def test_folder_of_nothing_but_bad_files(refused, tmp_path):
    (tmp_path / "own").mkdir()
    for i in range(9):
        (tmp_path / "own" / f"{i}.png").write_text("hello")
    assert "none of the files could be read" in refused("own", "--skip-bad")


def test_classes_that_differ_in_case_only(refused, write_folder, tmp_path):
    folder = write_folder(tmp_path / "own", ["Cat", "cat", "dog"])
    if len(list(folder.iterdir())) < 3:
        pytest.skip("this file system does not tell them apart")
    line = refused(folder)
    assert "Cat and cat" in line and "case" in line


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines"])
def test_class_whose_name_is_no_text(refused, write_folder, tmp_path, name):
    folder = write_folder(tmp_path / "own", ["cats", "dogs"])
    try:
        os.rename(os.fsencode(folder / "cats"), os.path.join(os.fsencode(folder), name))
    except OSError:
        pytest.skip("this file system has no such names")
    assert "not printable text: rename it" in refused(folder)


def test_file_whose_name_is_no_text_is_read(call, write_folder, tmp_path):
    folder = write_folder(tmp_path / "own", ["cats", "dogs"])
    try:
        os.rename(
            os.fsencode(folder / "cats" / "000.png"), os.path.join(os.fsencode(folder / "cats"), b"\xe9.png")
        )
    except OSError:
        pytest.skip("this file system has no such names")
    assert call("train", "--dataset", folder, "--epochs", 1).code == 0
    for split in ("train", "test"):
        result = call("encode", "--split", split, "--draws", 1)
        assert result.code == 0
        Path("outputs/encoded.csv").rename(f"{split}.csv")
    assert b"cats/\xe9.png" in Path("train.csv").read_bytes() + Path("test.csv").read_bytes()


def test_folder_whose_own_name_is_no_text(refused, tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"\xe9")
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system has no such names")
    assert "not printable text" in refused(os.fsdecode(folder))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_folder_without_permission(refused, write_folder, tmp_path):
    folder = write_folder(tmp_path / "own", ["cats", "dogs"])
    folder.chmod(0)
    assert "own" in refused(folder)
    folder.chmod(0o700)


def test_folder_that_cannot_be_listed(refused, write_folder, tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "own", ["cats", "dogs"])

    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(folders.os, "scandir", scandir)
    assert f"{folder}: Permission denied" in refused(folder)


def test_blank_images(refused, write_folder, tmp_path):
    folder = write_folder(tmp_path / "own", ["cats", "dogs"], lambda image: Image.new("L", (20, 20), 200))
    assert "blank" in refused(folder)
    folder = write_folder(tmp_path / "clear", [], lambda image: Image.new("RGBA", (20, 20), (0, 0, 0, 0)))
    assert "blank" in refused(folder)


@pytest.mark.parametrize("size", ["30", "12", "68", "0", "-28", "large", "28.0"])
def test_image_size_that_is_none(refused, size):
    assert "--image-size" in refused("mnist", "--image-size", size)


@pytest.mark.parametrize("flags", [("--image-size", 32), ("--invert",), ("--skip-bad",)])
def test_flags_of_a_folder_for_a_data_set_that_is_none(refused, data_dir, flags):
    line = refused("mnist", "--data-dir", data_dir, *flags)
    assert flags[0] in line and "folder" in line


# A run on a folder


@pytest.fixture
def interrupted(call, write_folder, tmp_path, monkeypatch):
    """The checkpoint of a run on the folder ``own`` that was stopped after its first of two epochs."""
    write_folder(tmp_path / "own", ["cats", "dogs"])

    def stop(row, settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "report", stop)
        assert call("train", "--dataset", "own", "--epochs", 2, "--checkpoint", "run.pt").code == 130
    return tmp_path / "run.pt"


def test_resuming_from_another_folder_finds_the_images(call, interrupted, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = call("train", "--resume", "--checkpoint", interrupted)
    assert result.code == 0 and result.out.splitlines()[-1].endswith(f"--images {tmp_path / 'own'}")
    assert len(load_checkpoint(interrupted)[1].history) == 2


def test_folder_of_images_elsewhere_is_the_one_trained_on(call, refusal, interrupted, tmp_path, monkeypatch):
    """Somebody else's checkpoint may name any folder; its owner's finds the images it began with."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    files = ("--checkpoint", interrupted)
    assert "--images" in refusal(call("evaluate", *files))  # an unfinished run's are not compared
    content = torch.load(interrupted, weights_only=True)
    torch.save({name: content[name] for name in content if name != "checksum"}, "unknown.pt")
    for flag in ("--resume", "--from=unknown.pt"):
        line = refusal(call("train", flag, "--checkpoint", "unknown.pt" if flag == "--resume" else "new.pt"))
        assert f"{tmp_path / 'own'} is outside the working folder" in line and "--dataset" in line
    assert call("train", "--resume", *files).code == 0
    result = call("evaluate", "--draws", 1, *files)
    assert result.code == 0 and f"2 of 2 epochs on {tmp_path / 'own'}" in result.out
    assert call("train", "--from", interrupted, "--epochs", 1).code == 0
    for path in (tmp_path / "own").rglob("*.png"):
        Image.open(path).rotate(90).save(path)
    for script, args in (("evaluate", files), ("tsne", files), ("encode", (*files, "--split", "test"))):
        line = refusal(call(script, *args))
        assert f"{tmp_path / 'own'} is outside the working folder" in line and "--images" in line
    assert "--dataset" in refusal(call("train", "--from", interrupted, "--checkpoint", "new.pt"))
    assert call("evaluate", "--draws", 1, "--images", tmp_path / "own", *files).code == 0


def test_resuming_after_the_folder_moved(call, refusal, interrupted, tmp_path):
    (tmp_path / "own").rename(tmp_path / "moved")
    assert "--dataset" in refusal(call("train", "--resume", "--checkpoint", interrupted))
    assert call("train", "--resume", "--checkpoint", interrupted, "--dataset", "moved").code == 0
    assert load_checkpoint(interrupted)[1].settings.dataset == "moved"


@pytest.mark.parametrize("flags", [("--dataset", "mnist"), ("--image-size", 32), ("--invert",)])
def test_resuming_with_another_setting(call, refusal, interrupted, flags):
    assert flags[0] in refusal(call("train", "--resume", "--checkpoint", interrupted, *flags))


def test_resuming_with_other_classes(call, refusal, interrupted, tmp_path):
    (tmp_path / "own" / "dogs").rename(tmp_path / "own" / "hens")
    line = refusal(call("train", "--resume", "--checkpoint", interrupted))
    assert "the classes cats, hens" in line and "cats, dogs" in line


def test_finished_checkpoint_says_no_more_of_the_way_than_it_must(call, interrupted, tmp_path, monkeypatch):
    assert load_checkpoint(interrupted)[1].settings.dataset == str(tmp_path / "own")
    assert call("train", "--resume", "--checkpoint", interrupted).code == 0
    assert load_checkpoint(interrupted)[1].settings.dataset == "own"
    assert str(tmp_path).encode() not in interrupted.read_bytes()


def test_images_that_moved_are_found_with_a_flag(call, refusal, interrupted, tmp_path, trained):
    assert call("train", "--resume", "--checkpoint", interrupted).code == 0
    (tmp_path / "own").rename(tmp_path / "moved")
    for script in ("evaluate", "tsne", "interpolate", "encode"):
        extra = ("--split", "test") if script == "encode" else ()  # tsne lowers its perplexity by itself
        assert "--images" in refusal(call(script, "--checkpoint", interrupted, *extra))
        assert call(script, "--checkpoint", interrupted, "--images", "moved", *extra).code == 0
    line = refusal(call("evaluate", "--checkpoint", trained.checkpoint, "--images", "moved"))
    assert "--images" in line and "mnist" in line


def test_checkpoint_from_before_classes_has_those_of_its_data_set(tmp_path):
    model = ConvVAE(latent_dim=2, hidden_dim=8)
    for name in ("mnist", "fashion-mnist"):
        save_checkpoint(tmp_path / "new.pt", model, Run(Settings(latent_dim=2, dataset=name), "full"))
        content = torch.load(tmp_path / "new.pt", weights_only=True)
        del content["classes"], content["config"]["image_size"]
        for setting in ("invert", "skip_bad"):
            del content["args"][setting]
        torch.save(content, tmp_path / "old.pt")
        loaded, run = load_checkpoint(tmp_path / "old.pt")
        assert run.classes == DATASETS[name][1]
        assert loaded.config["image_size"] == run.settings.image_size == 28


# Names


def test_class_is_known_by_name_or_number():
    fashion = ["T-shirt", "bag", "Boot"]
    assert [flags.class_number(text, fashion, "--digit") for text in ("t-SHIRT", "1", "boot")] == [0, 1, 2]
    years = ["2", "1", "10"]  # where names are numbers, a number is a name
    assert [flags.class_number(text, years, "--digit") for text in ("2", "1", "10")] == [0, 1, 2]
    for text, classes in (("0", years), ("3", fashion), ("-1", fashion), ("hat", fashion)):
        with pytest.raises(UserError, match=f"--digit {text} is not one of"):
            flags.class_number(text, classes, "--digit")


def test_long_lists_of_names_are_cut():
    with pytest.raises(UserError, match=r"0 to 98 or of a0, a1, .*, a11, …$"):
        flags.class_number("hat", [f"a{i}" for i in range(99)], "--digit")


def test_colours_go_on_after_ten():
    assert len(set(palette(30))) == 30 and palette(31)[30] == palette(1)[0]
    assert palette(12)[:10] == palette(10)
    assert palette(0) == []


def test_bad_names_in_a_checkpoint_are_refused(tmp_path):
    model = ConvVAE(latent_dim=2, hidden_dim=8)
    for classes in (["a\nb"], ["a", 1], "ab"):
        save_checkpoint(tmp_path / "x.pt", model, Run(Settings(latent_dim=2), "full", classes))
        with pytest.raises(CheckpointError, match=r"x\.pt"):
            load_checkpoint(tmp_path / "x.pt")


def test_split_of_a_folder_needs_a_folder(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        load_folder(settings(tmp_path / "nowhere"), "train")


def test_halves_and_what_wraps_them_are_said(write_folder, call, tmp_path):
    for half in ("trainingSet", "testSet"):
        write_folder(tmp_path / "own" / "archive" / half / half, ["cats", "dogs"])
    result = call("train", "--dataset", "own", "--epochs", 1)
    where = "to train on: own/archive/trainingSet/trainingSet; to test on: own/archive/testSet/testSet"
    assert result.out.splitlines()[2] == f"{where}; --validate: about a sixth of it, held out"
