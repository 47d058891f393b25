"""A file of arrays or a table as a data set: which images it has, of which class and half.

Their names tell: x_train, y_train, x_test, y_test, as of Keras; train_images, val_labels, …, as of MedMNIST;
or images and labels, which are then split. In a CSV each row is an image. Pickles are not read.
"""

import contextlib
import csv
import gzip
import hashlib
import math
import re
import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from support.errors import DataError, reason_of
from support.images import File, Sample
from support.terminal import listed, progress

SUFFIXES = (".npz", ".npy", ".csv", ".csv.gz", ".parquet")
HALVES = {"train": "train", "test": "test", "validation": "val"}  # and what stands in their arrays' names
# The rest of these names, the likeliest first
IMAGES = ("images", "image", "imgs", "img", "x", "data", "pixels", "arr0")
LABELS = ("labels", "label", "y", "targets", "target", "classes", "class", "arr1")
ROW_NAMES = ("", "id", "index", "unnamed: 0")  # columns that number the rows of a table


def is_array(path):
    """Whether this is a file of arrays, by its name."""
    return str(path).lower().endswith(SUFFIXES)


def find_arrays(path):
    """The samples of each half of a file, {"train": list, …}, the names of its classes, and notes.

    The notes are what was read and assumed, in words. Raises DataError.
    """
    kind, notes = Path(path).suffix.lower(), []
    try:
        if kind in (".npz", ".npy"):
            arrays = np.load(path, allow_pickle=False)
            arrays = {"images": arrays} if isinstance(arrays, np.ndarray) else arrays
        elif kind == ".parquet":
            arrays = _read_parquet(path)
        else:
            arrays, notes = _read_csv(path)
        halves = _find_halves(path, arrays, notes)
    except DataError:
        raise
    except MemoryError:  # perhaps only because a damaged header claims so much
        raise DataError(f"{path} does not fit into memory: mend it, or take a machine with more") from None
    except Exception as error:  # the readers raise whatever a broken file makes them raise
        reason = reason_of(error)
        advice = "save it as UTF-8" if isinstance(error, UnicodeError) else "mend it"
        if isinstance(error, FileNotFoundError):
            advice = "say with --images (to train.py with --dataset) where it is now"
        if "pickle" in reason:  # or nothing that numpy knows
            advice = "save numbers, as numpy.savez(file, images=…, labels=…)"
        raise DataError(f"{path} cannot be read ({reason.split('. ')[0][:100]}): {advice}") from None
    names = {sample.name for sample in halves["train"]} - {None}
    classes = sorted(names, key=lambda name: (_whole_number(name), name))
    if classes:
        low, high = _whole_number(classes[0]), _whole_number(classes[-1])
        if len(classes) <= high - low < math.inf:
            notes.append(f"labels from {low} to {high}, with gaps: what has no image is no class")
    return halves, classes, notes


def _whole_number(name):
    """What a class counts as where they are sorted: its whole number, or infinity."""
    return int(name) if re.fullmatch("-?[0-9]{1,18}", name) else math.inf


# Arrays


def _find_halves(path, arrays, notes):
    """The samples of each half in arrays {name: values}; adds to the notes what they are."""
    others = [name for name in arrays if name.isprintable()]
    roles = {}  # ("test", "x") for x_test
    for name in others:
        half = next((half for half, word in HALVES.items() if word in name.lower()), "train")
        rest = re.sub("(train|test)(ing)?|val(id(ation)?)?|[^a-z0-9]", "", name.lower())
        roles.setdefault((half, rest), name)
    halves = {}
    for half in HALVES:
        of_images, of_labels = (
            next((roles[half, word] for word in words if (half, word) in roles), None)
            for words in (IMAGES, LABELS)
        )
        if of_images is None:
            continue
        images, kind = _to_images(f"{of_images} of {path}", arrays[of_images])
        labels = _to_names(f"{of_labels} of {path}", arrays[of_labels]) if of_labels else [None] * len(images)
        if not images or len(images) != len(labels):
            counts = f"{len(images):,} images in {of_images} and {len(labels):,} labels"
            raise DataError(f"{path} has {counts}: save as many of both")
        halves[half] = [Sample(*own, _key(own[0])) for own in zip(images, labels, strict=True)]
        notes.append(f"{of_images}: {len(images):,} {kind}")
        others = [name for name in others if name not in (of_images, of_labels)]
    there = listed(others) or "nothing"
    if not halves:
        raise DataError(f"{path} has no array of images, but {there}: call it images, or x_train and x_test")
    notes += [f"left out {there}"] if others else []
    if "train" not in halves:
        halves = {"train": halves.pop(next(iter(halves))), **halves}
    return halves


def _key(image):
    """By whose hash an image is held out, or not: its levels of any type, or the bytes of its file."""
    content = image.content if isinstance(image, File) else np.asarray(image, "<f4").tobytes()
    return hashlib.blake2b(content).digest()


def _to_images(what, values):
    """An array of any layout, or a table's column of files -> a list of pictures, and their kind in words."""
    if isinstance(values, list):
        cells = [cell["bytes"] if isinstance(cell, dict) else cell for cell in values]
        for number, cell in enumerate(cells):
            if not isinstance(cell, bytes):
                raise DataError(f"{what} has no picture in row {number}: save a PNG's bytes there")
        return [File(cell, f"row {number} of {what}") for number, cell in enumerate(cells)], "files"
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
    return list(array), f"of {' x '.join(map(str, array.shape[1:]))}, {array.dtype.name}"


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


# Tables


def _read_csv(path):
    """A row for each image -> {"images": (N, pixels), "labels": (N,) or none}, and what was assumed.

    Raises DataError where there is no row, and where rows differ in length or have text for a pixel.
    """
    rows = _read_rows(path)
    first, second = (row.split("\t") for row in [*rows.values(), "", ""][:2])
    # names may be numbers: pandas' own are 0, 1, 2, …, or 0, 0.1, 0.2, … where it took an image for names.
    # No two of them are equal, and pixels mostly are
    different = len(set(first)) == len(first) > 2 * len(set(second))
    header = different or sum(_number(cell) is None for cell in first) > 1
    names = [name.strip().lower() for name in first]
    others = [column for column, name in enumerate(names) if not header or name not in ROW_NAMES]
    if len(rows) == header or len(others) < 2:
        raise DataError(f"{path} has 0 images: add some, each a row with the levels of its pixels")

    def cells(column):
        return [row.split("\t")[column] for row in [*rows.values()][header:]]

    label = next((column for column, name in enumerate(names) if name in LABELS), None)
    if label is None and math.isqrt(len(others) - 1) ** 2 == len(others) - 1:
        label = min(others[0], others[-1], key=lambda column: _doubt(cells(column)))
    arrays = {"images": _numbers(path, rows, header, [column for column in others if column != label])}
    if label is not None:
        arrays["labels"] = np.array(cells(label))
        with contextlib.suppress(ValueError):
            arrays["labels"] = arrays["labels"].astype(float)
    place = "no label" if label is None else f"label in column {label + 1}"
    return arrays, ["with a header" if header else "no header", place]


def _read_rows(path):
    """The rows of a CSV that have something in them, {number of the line: cells with tabs between them}."""
    with open(path, "rb") as file:
        opener = gzip.open if file.read(2) == b"\x1f\x8b" else open
    rows, width = {}, None
    with opener(path, "rt", encoding="utf-8-sig") as file:
        sample = file.read(10_000)
        mark = next((mark for mark in ";\t," if mark in sample), " ")
        file.seek(0)
        reader = csv.reader(file, delimiter=mark, skipinitialspace=mark != " ")
        for row in progress(reader, desc="reading", unit="line"):
            if row and not row[-1].strip():  # a comma too many
                row.pop()
            if any(row):
                width = width or len(row)
                if len(row) != width:
                    here = f"{len(row)} cells in line {reader.line_num}"
                    raise DataError(f"{path} has {here}, and {width} in the first: mend it")
                rows[reader.line_num] = "\t".join(row).replace("\n", " ")
    return rows


def _numbers(path, rows, header, columns):
    options = {"comments": None, "delimiter": "\t", "usecols": columns, "ndmin": 2}
    for kind in (np.uint8, np.float32):  # levels are mostly of the former, which takes a tenth of the time
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # numpy 1 warns, and reads 300 as 44
            try:
                return np.loadtxt([*rows.values()][header:], kind, encoding=None, **options)
            except ValueError as error:
                reason, _, place = str(error).partition(" at row ")
    line = [*rows][header + int(place.split(",")[0])]
    raise DataError(f"{path} cannot be read as numbers ({reason[:100]}, in line {line}): mend it")


def _doubt(cells):
    """How much speaks against a column of labels: 0 of text, 1 of numbers, 2 of what pixels have.

    In a corner they are paper nearly everywhere, or of many levels.
    """
    counts = Counter(cells).values()
    pixels = max(counts) > 0.9 * len(cells) or len(counts) > min(100, len(cells) / 2)
    return 0 if _number(cells[0]) is None else 1 + pixels


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


def _read_parquet(path):
    """The columns, {name: list of what is in its cells}. Raises DataError without pyarrow."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:  # not installed, or made for another numpy
        raise DataError(f"{path} needs pyarrow ({error}): pip install pyarrow") from None
    with ParquetFile(path) as file:
        return file.read().to_pydict()
