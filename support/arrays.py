"""A file of arrays as a data set: which images it has, of which class and split.

Their names tell: x_train, y_train, x_test, y_test, as of Keras; train_images, val_labels, …, as of MedMNIST;
or images and labels, which are then split. Levels are judged over the whole file, and pickles are not read.
"""

import hashlib
import io
import math
import re
import unicodedata
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from support.errors import DataError, reason_of
from support.folders import class_note, hold_out
from support.images import FORMATS, level_notes, prepare
from support.levels import extremes, find_range, to_uint8
from support.tables import LABELS, read_csv, read_parquet
from support.terminal import listed, progress, warn

SUFFIXES = (".npz", ".npy", ".csv", ".csv.gz", ".parquet")
HALVES = {"train": "train", "test": "test", "validation": "val"}  # and what stands in their arrays' names
IMAGES = ("images", "image", "imgs", "img", "x", "data", "pixels", "arr0")  # the rest of it, likeliest first
GRAY = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R 601


def is_array(path):
    """Whether this is a file of arrays, by its name."""
    return str(path).lower().endswith(SUFFIXES)


def load_array(settings, split):
    """One split of the file ``settings.dataset``, as the fields of data.Split. Raises DataError.

    Halves that the file has keep their order, what is held out has one of its own.
    """
    path = settings.dataset
    pixels, halves, notes = _read(path)
    if "validation" in halves and not settings.validate:
        warn(f"left out the validation images of {path}, which are for --validate")
    digests = [hashlib.blake2b(np.asarray(levels, "<f4").tobytes()).digest() for levels in pixels]

    def key(sample):  # the same of any type of levels, and of copies
        return digests[sample[0]]

    train = halves.pop("train" if "train" in halves else next(iter(halves)))
    if "test" not in halves:
        train, halves["test"] = hold_out(sorted(train, key=key), "test", key)  # the classes mixed
    if "validation" not in halves:
        kept, halves["validation"] = hold_out(train, "validation", key)
        train = kept if settings.validate else train
    own = {**halves, "train": train}[split]
    if not train or not own:
        raise DataError(f"{path} has no image to {'test' if train else 'train'} on: add some that differ")

    found = [{name for _, name in samples} for samples in (train, own, *halves.values())]
    classes = sorted(set.union(*found) - {None}, key=lambda name: (_number(name), name))
    alone, absent = ([name for name in classes if name not in there] for there in found[:2])
    if alone:
        raise DataError(f"{path} has {listed(alone)} to test on alone: add images to train on, or drop these")
    if absent:
        warn(f"{path} has no image of {listed(absent)} to test on")
    labels = {None: 0, **{name: label for label, name in enumerate(classes)}}
    labels = torch.tensor([labels[name] for _, name in own])
    if classes:
        notes.insert(0, class_note(labels, classes))
        low, high = _number(classes[0]), _number(classes[-1])
        if len(classes) <= high - low < math.inf:
            notes.append(f"labels from {low} to {high}, with gaps: what has no image is no class")
    images, more = _prepare(pixels, own, settings.image_size, settings.invert)
    return images, labels, classes, "file", None, notes + more


def read_array(path, size, invert=False):
    """All images in a file, one half after the other: ``(images, labels, notes)``. Raises DataError.

    They are uint8 (N, 1, size, size), the names of their classes, none or N, and what was read, in words.
    """
    pixels, halves, notes = _read(path)
    samples = [sample for own in halves.values() for sample in own]
    images, more = _prepare(pixels, samples, size, invert)
    return images, [name for _, name in samples if name], notes + more


def _number(name):
    """What a class counts as where they are sorted: its whole number, or infinity."""
    return int(name) if re.fullmatch("-?[0-9]{1,18}", name) else math.inf


def _prepare(pixels, samples, size, invert):
    """The images of these samples, uint8 (N, 1, size, size), and what was read, in words."""
    black, white = find_range(*zip(*map(extremes, pixels), strict=True))

    def fit(levels):
        gray = to_uint8(levels @ GRAY if levels.ndim == 3 else levels, black, white)
        if gray.shape == (size, size):
            return torch.from_numpy(255 - gray if invert else gray)[None]
        return prepare(Image.fromarray(gray), size, invert, ranges={"8-bit": (0, 255)})

    images = [fit(pixels[number]) for number, _ in progress(samples, desc="preparing", unit="img")]
    ranges = {} if (black, white) == (0, 255) else {pixels[0].dtype.name: (black, white)}
    images, names = torch.stack(images), [f"image {number}" for number, _ in samples]
    return images, [f"read as {size} x {size}", *level_notes(images, names, ranges, invert)]


# What is in a file


def _read(path):
    """The levels of each image, a list of N arrays (H, W) or (H, W, 3), the samples of each half, {name:
    pairs (number of an image, name of its class or None)}, and what was read, in words. Raises DataError.
    """
    kind, notes = Path(path).suffix.lower(), []
    try:
        if kind in (".npz", ".npy"):
            arrays = np.load(path, allow_pickle=False)
            arrays = {"images": arrays} if isinstance(arrays, np.ndarray) else arrays
        elif kind == ".parquet":
            arrays = read_parquet(path)
        else:
            arrays, notes = read_csv(path)
        return *_find_halves(path, arrays, notes), notes
    except (DataError, MemoryError):
        raise
    except Exception as error:  # the readers raise whatever a broken file makes them raise
        reason = reason_of(error)
        advice = "save it as UTF-8" if isinstance(error, UnicodeError) else "mend it"
        if isinstance(error, FileNotFoundError):
            advice = "say with --images (to train.py with --dataset) where it is now"
        if "pickle" in reason:  # or nothing that numpy knows
            advice = "save numbers, as numpy.savez(file, images=…, labels=…)"
        raise DataError(f"{path} cannot be read ({reason.split('. ')[0][:100]}): {advice}") from None


def _find_halves(path, arrays, notes):
    """The first two of these, of arrays {name: values}; adds to the notes."""
    others = [name for name in arrays if name.isprintable()]
    roles = {}  # ("test", "x") for x_test
    for name in others:
        half = next((half for half, word in HALVES.items() if word in name.lower()), "train")
        rest = re.sub("(train|test)(ing)?|val(id(ation)?)?|[^a-z0-9]", "", name.lower())
        roles.setdefault((half, rest), name)
    pixels, names, halves = [], [], {}
    for half in HALVES:
        of_images, of_labels = (
            next((roles[half, word] for word in words if (half, word) in roles), None)
            for words in (IMAGES, LABELS)
        )
        if of_images is None:
            continue
        images = _to_images(f"{of_images} of {path}", arrays[of_images])
        labels = _to_names(f"{of_labels} of {path}", arrays[of_labels]) if of_labels else [None] * len(images)
        if not images or len(images) != len(labels):
            counts = f"{len(images):,} images in {of_images} and {len(labels):,} labels"
            raise DataError(f"{path} has {counts}: save as many of both")
        halves[half] = list(enumerate(labels, len(pixels)))
        pixels, names = pixels + images, names + labels
        shapes = [" x ".join(map(str, shape)) for shape in sorted({levels.shape for levels in images})]
        notes.append(f"{of_images}: {len(images):,} of {listed(shapes, 3)}, {images[0].dtype.name}")
        others = [name for name in others if name not in (of_images, of_labels)]
    there = listed(others) or "nothing"
    if not pixels:
        raise DataError(f"{path} has no array of images, but {there}: call it images, or x_train and x_test")
    if {None} < {*names}:
        raise DataError(f"{path} has labels for some of its images alone: add the others', or take them away")
    notes += [f"left out {there}"] if others else []
    return pixels, halves


def _to_images(what, values):
    """An array of any layout, or the cells of a table -> a list of arrays (H, W), or (H, W, 3) in colour."""
    if isinstance(values, list):
        return _decode(what, values)
    values = np.asarray(values)
    shape = values.shape
    if values.dtype.kind not in "buif":
        raise DataError(f"{what} holds {values.dtype}, and no levels of gray: save numbers")
    array = values.reshape(shape[:1] + tuple(length for length in shape[1:] if length != 1))
    if array.ndim == 4 and array.shape[3] != 3 and array.shape[1] == 3:
        array = np.moveaxis(array, 1, 3)
    if array.ndim == 2 and math.isqrt(array.shape[1]) ** 2 == array.shape[1] > 0:
        array = array.reshape(len(array), math.isqrt(array.shape[1]), -1)
    if 0 in shape[1:] or not (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)):
        layouts = "(N, H, W), (N, H, W, 1 or 3), (N, 1 or 3, H, W) or, where they are square, (N, H*W)"
        raise DataError(f"{what} has shape {shape}, and images have {layouts}: reshape it")
    if not np.isfinite(array).all():
        raise DataError(f"{what} has NaN or infinity among its levels: mend it")
    return list(array)


def _decode(what, cells):
    """The pictures (H, W) in a column of the bytes of their files, or of dicts of them. Raises DataError."""
    pictures = []
    for number, cell in enumerate(cells):
        try:
            file = io.BytesIO(cell["bytes"] if isinstance(cell, dict) else cell)
            with Image.open(file, formats=FORMATS) as image:
                is_gray = image.mode in ("L", "F") or image.mode.startswith("I")
                pictures.append(np.asarray(image if is_gray else image.convert("L")))
        except MemoryError:
            raise
        except Exception:  # Pillow raises whatever a broken file makes its readers raise
            raise DataError(f"{what} has no picture in row {number}: save a PNG's bytes there") from None
    return pictures


def _to_names(what, values):
    """Labels, (N,) or (N, 1), of numbers or text -> the names of their classes."""
    labels = np.asarray(values)
    if labels.ndim == 0 or labels.size != len(labels) or labels.dtype.kind not in "buifSU":
        found = f"{labels.dtype} of shape {labels.shape}"
        raise DataError(f"{what} has {found}, and labels are numbers or text, (N,): save one for each image")
    labels = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
    labels, names = labels.reshape(-1).tolist(), {}
    for label in set(labels):
        if isinstance(label, str):
            names[label] = unicodedata.normalize("NFC", label).strip()
        else:
            names[label] = str(int(label)) if float(label).is_integer() else ""
        if not names[label] or not names[label].isprintable():
            raise DataError(f"{what} has the label {label!a}: a class has a whole number, or a name")
    return [names[label] for label in labels]
