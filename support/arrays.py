"""A file of arrays as a data set: which images it has, of which class and split.

    .npz            x_train, y_train, x_test, y_test, as Keras has them, or train_images, val_labels, …, as
                    MedMNIST, or images and labels, which are then split; .npy has images alone
    .csv, .csv.gz   a row for each image, with or without a header, its label first, last or absent
    .parquet        as on the Hugging Face hub: a column of pictures, and one of labels

Levels are judged over the whole file, and pickled objects are not read.
"""

import gzip
import hashlib
import io
import itertools
import math
import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from support.errors import DataError
from support.images import level_notes, prepare
from support.levels import extremes, find_range, to_uint8
from support.terminal import listed, progress, warn

SUFFIXES = (".npz", ".npy", ".csv", ".csv.gz", ".parquet")
HALVES = {"train": "train", "test": "test", "validation": "val"}  # and what stands in their arrays' names
# the rest of the names, in any case and without what is neither letter nor digit, the likeliest first
IMAGES = ("images", "image", "imgs", "img", "x", "data", "pixels", "arr0")
LABELS = ("labels", "label", "y", "targets", "target", "classes", "class", "arr1")
ROW_NAMES = ("", "id", "index", "unnamed: 0")  # columns that number the rows of a CSV
GRAY = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R 601


def is_array(path):
    """Whether this is a file of arrays, by its name."""
    return str(path).lower().endswith(SUFFIXES)


def load_array(settings, split):
    """One split of the file ``settings.dataset``, as the fields of data.Split. Raises DataError.

    Halves that the file has keep their order, what is held out has one of its own.
    """
    path = Path(settings.dataset)
    halves, notes = _read(path)
    splits = _find_splits(path, halves, settings.validate)
    classes = {label for own in splits.values() for _, label in own} - {None}
    classes = sorted(classes, key=lambda name: (_number(name) is None, _number(name) or 0, name))
    for name, use in (("train", "train on"), (split, "test on")):
        found = {label for _, label in splits[name]}
        absent = [label for label in classes if label not in found]
        if not found:
            raise DataError(f"{path} has no image to {use}: add some")
        if absent and name == "train":
            raise DataError(
                f"{path} has images of {listed(absent)} to test on alone: add some to train on, or drop these"
            )
        if absent:
            warn(f"{path} has no image of {listed(absent)} to {use}")
    numbers = {label: number for number, label in enumerate(classes)}
    labels = torch.tensor([numbers.get(label, 0) for _, label in splits[split]])
    if classes:
        counts = torch.bincount(labels, minlength=len(classes)).tolist()
        named = [f"{name} {count:,}" for name, count in zip(classes, counts, strict=True)]
        notes.insert(0, f"{len(classes)} class{'es' * (len(classes) > 1)}: {listed(named)}")
        low, high = _number(classes[0]), _number(classes[-1])
        if None not in (low, high) and high - low >= len(classes):
            notes.append(f"labels from {low:.0f} to {high:.0f}, with gaps: what has no image is no class")
    images, more = _prepare(splits[split], halves, settings.image_size, settings.invert)
    return images, labels, classes, "file", None, notes + more


def read_array(path, size, invert=False):
    """All images in a file, one half after the other: ``(images, labels, notes)``. Raises DataError.

    They are uint8 (N, 1, size, size), the names of their classes or None, and what was read, in words.
    """
    halves, notes = _read(Path(path))
    samples = [sample for own in halves.values() for sample in own]
    images, more = _prepare(samples, halves, size, invert)
    labels = [label for _, label in samples]
    return images, None if None in labels else labels, notes + more


# The splits: samples are pairs (pixels, name of the class or None)


def _find_splits(path, halves, validate):
    """The samples of each split, {"train", "test", "validation"}: the file's halves, or held out."""
    if len({label is None for own in halves.values() for _, label in own}) > 1:
        raise DataError(f"{path} has labels for some of its images alone: add the others', or take them away")
    splits = dict(halves)
    train = splits.pop("train" if "train" in splits else next(iter(splits)))
    if "validation" in splits and not validate:
        warn(f"left out the validation images of {path}, which are for --validate")
    for name in ("test", "validation"):
        if name not in splits:
            kept, splits[name] = _hold_out(train, name)
            train = kept if name == "test" or validate else train
    return {"train": train, **splits}


def _hold_out(samples, name):
    """The samples in two lists, mixed: those to keep, and about a sixth of them, held out under this name.

    Each is chosen by a hash of its levels, of whatever type: images added later move no other, and
    copies stay together. Of very few, two are.
    """

    def share(sample):
        levels = np.asarray(sample[0], "<f4").tobytes()
        return int.from_bytes(hashlib.blake2b(levels, digest_size=4, person=name.encode()).digest(), "big")

    shares = [share(sample) / 2**32 for sample in samples]
    order = np.argsort(shares, kind="stable").tolist()
    limit = max([1 / 6, *sorted(shares)[1:2]])
    kept = [samples[number] for number in order if shares[number] > limit]
    return kept, [samples[number] for number in order if shares[number] <= limit]


def _prepare(samples, halves, size, invert):
    """The samples' images, uint8 (N, 1, size, size), and what was read, in words."""
    every = [extremes(pixels) for own in halves.values() for pixels, _ in own]
    black, white = find_range(*zip(*every, strict=True))
    white = white if white > black else black + 1  # where all is of one level

    def fit(pixels):
        gray = to_uint8(pixels @ GRAY if pixels.ndim == 3 else pixels, black, white)
        if gray.shape != (size, size):
            return prepare(Image.fromarray(gray), size, invert, ranges={"8-bit": (0, 255)})[0].numpy()
        return 255 - gray if invert else gray

    fitted = [fit(pixels) for pixels, _ in progress(samples, desc="preparing", unit="img")]
    images = torch.from_numpy(np.stack(fitted))[:, None]
    names = [f"image {number}" for number in range(len(images))]
    ranges = {} if (black, white) == (0, 255) else {samples[0][0].dtype.name: (black, white)}
    return images, [f"read as {size} x {size}", *level_notes(images, names, ranges, invert)]


# What is in a file


def _read(path):
    """The samples of each half that a file has, and what was read, in words. Raises DataError."""
    if not path.is_file():
        raise DataError(
            f"there is no file {path}: say with --images (to train.py with --dataset) where it is now"
        )
    kinds = {".npz": _read_numpy, ".npy": _read_numpy, ".parquet": _read_parquet}
    try:
        arrays, notes = kinds.get(path.suffix.lower(), _read_csv)(path)
        return _find_halves(path, arrays, notes), notes
    except (DataError, MemoryError):
        raise
    except Exception as error:  # the readers raise whatever a broken file makes them raise
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        how = "save numbers, as numpy.savez(file, images=…, labels=…)" if "pickle" in reason else "mend it"
        raise DataError(f"{path} cannot be read ({reason[:100]}): {how}") from None


def _find_halves(path, arrays, notes):
    """The samples of each half among these arrays, {name: values}; adds to the notes."""

    def role(name):
        """The half that a name tells, and its other letters: ("test", "x") of x_test."""
        half = next((half for half, word in HALVES.items() if word in name.lower()), "train")
        return half, re.sub("(train|test)(ing)?|val(id(ation)?)?|[^a-z0-9]", "", name.lower())

    there = [name for name in arrays if name.isprintable()]
    roles = {role(name): name for name in reversed(there)}
    halves, used = {}, []
    for half in HALVES:
        name, labels_name = (
            next((roles[half, word] for word in words if (half, word) in roles), None)
            for words in (IMAGES, LABELS)
        )
        if name is None:
            continue
        used += [name, labels_name]
        images = _to_images(f"{name} of {path}", arrays[name])
        labels = [None] * len(images)
        if labels_name is not None:
            labels = _to_names(f"{labels_name} of {path}", arrays[labels_name])
        if not images or len(images) != len(labels):
            count = f" and {len(labels):,} labels in {labels_name}" if len(images) != len(labels) else ""
            raise DataError(f"{path} has {len(images):,} images in {name}{count}: save as many of both")
        halves[half] = list(zip(images, labels, strict=True))
        shapes = [" x ".join(map(str, shape)) for shape in sorted({pixels.shape for pixels in images})]
        notes.append(f"{name}: {len(images):,} of {listed(shapes, 3)}, {images[0].dtype}")
    others = listed([name for name in there if name not in used])
    if not halves:
        raise DataError(
            f"{path} has no array of images, but {others or 'nothing'}: call it images, or x_train and x_test"
        )
    notes += [f"left out {others}"] if others else []
    return halves


def _to_images(what, values):
    """An array of any layout, or a list of pictures -> a list of arrays (H, W), or (H, W, 3) in colour."""
    if isinstance(values, list):
        return [_decode(f"{what}, image {number}", cell) for number, cell in enumerate(values)]
    array = np.asarray(values)
    shape = array.shape
    if array.dtype.kind not in "buif":
        raise DataError(f"{what} holds {array.dtype}, and no levels of gray: save numbers")
    if array.ndim == 4 and shape[3] not in (1, 3) and shape[1] in (1, 3):
        array = np.moveaxis(array, 1, 3)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim == 2 and _is_square(shape[1]):
        array = array.reshape(-1, math.isqrt(shape[1]), math.isqrt(shape[1]))
    if 0 in shape[1:] or not (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 3)):
        raise DataError(
            f"{what} has shape {shape}, and images have (N, H, W), (N, H, W, 1 or 3), (N, 1 or 3, H, W) or, "
            "where they are square, (N, H*W): reshape it"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{what} has NaN or infinity among its levels: mend it")
    # with bool numpy does not count, with float16 not far
    return list(array.astype(np.float32) if array.dtype in (bool, np.float16) else array)


def _is_square(number):
    return number > 0 and math.isqrt(number) ** 2 == number


def _decode(what, cell):
    """The picture in a cell of a table, the bytes of its file or a dict of them -> (H, W)."""
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise DataError(f"{what} has no picture's bytes: save a PNG's in each row")
    try:
        with Image.open(io.BytesIO(data)) as image:
            is_gray = image.mode in ("L", "F") or image.mode.startswith("I")
            return np.asarray(image if is_gray else image.convert("L"))
    except Exception:
        raise DataError(f"{what} is no picture that Pillow knows: mend it") from None


# Labels


def _to_names(what, values):
    """Labels, (N,) or (N, 1), of numbers or text -> the names of their classes."""
    labels = np.asarray(values)
    if labels.ndim == 0 or labels.size != len(labels) or labels.dtype.kind not in "buifSU":
        raise DataError(
            f"{what} has {labels.dtype} of shape {labels.shape}, and labels are numbers or text, (N,): "
            "save one for each image"
        )
    labels = np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels
    found, where = np.unique(labels.reshape(-1), return_inverse=True)
    names = []
    for value in (found.astype(int) if found.dtype == bool else found).tolist():
        name = unicodedata.normalize("NFC", str(value)).strip()
        number = _number(name)
        if number is not None and number.is_integer():  # 1.0, say
            name = str(int(number))
        elif number is not None or not name or not name.isprintable():
            raise DataError(f"{what} has the label {name!a}: a class has a whole number, or a name")
        names.append(name)
    return [names[number] for number in where.tolist()]


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


# The kinds of files: the arrays in each, {name: values}, and what was assumed, in words


def _read_numpy(path):
    found = np.load(path, allow_pickle=False)
    return {"images": found} if isinstance(found, np.ndarray) else found, []


def _read_parquet(path):
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path} needs pyarrow, which is not installed: pip install pyarrow") from None
    table = ParquetFile(path).read()
    return {name: table[name].to_pylist() for name in table.column_names}, []


def _read_csv(path):
    with _open_text(path) as file:
        first, second = file.readline(), file.readline()
    if not first.strip():
        raise DataError(f"{path} has 0 images, or an empty line before them: mend it")
    mark = next((mark for mark in ",;\t" if mark in first), None)  # None: any space
    names, cells = ([cell.strip(' "\r\n') for cell in line.split(mark)] for line in (first, second))
    numbers = [number for number in map(_number, names) if number is not None]
    counting = bool((np.diff(numbers) == 1).all())  # 0, 1, 2, …: pandas' own names
    header = len(names) > len(numbers) + 1 or counting
    if not header:
        names, cells = [], names
    elif second and len(names) != len(cells):
        raise DataError(f"{path} has {len(names)} names in its header and {len(cells)} values below: mend it")
    aside = [column for column, name in enumerate(names) if name.lower() in ROW_NAMES]
    named = [column for column, name in enumerate(names) if name.lower() in LABELS]
    text = [column for column in (0, len(cells) - 1) if cells and _number(cells[column]) is None]
    label = next((column for column in named + text if column not in aside), None)

    words = {}  # of the labels, numbered as they come
    convert = dict.fromkeys(aside, lambda word: 0)
    if label is not None:
        convert[label] = lambda word: words.setdefault(word, len(words))
    table = _load_table(path, header, delimiter=mark, converters=convert or None)
    if not len(table):
        raise DataError(f"{path} has 0 images: add some")
    others = [column for column in range(table.shape[1]) if column not in aside]
    if label is None and _is_square(len(others) - 1):
        last_alone = _like_labels(table[:, others[-1]]) and not _like_labels(table[:, others[0]])
        label = others[-1 if last_alone else 0]
    notes = ["with a header" if header else "no header"]
    if label is None:
        return {"images": np.delete(table, aside, axis=1)}, [*notes, "no label"]
    labels = np.array(list(words))[table[:, label].astype(int)] if words else table[:, label]
    place = {others[0]: "first", others[-1]: "last"}.get(label, f"in column {label + 1}")
    return {"images": np.delete(table, [*aside, label], axis=1), "labels": labels}, [*notes, f"label {place}"]


def _open_text(path):
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig")


def _load_table(path, header, **options):
    """The numbers in a CSV. Raises DataError, which names the line that has something else."""
    for kind in (np.uint8, np.float32):  # levels are mostly of the former, which takes a tenth of the time
        with _open_text(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of no rows, which is said later
            warnings.simplefilter("error", DeprecationWarning)  # numpy 1 warns, and reads 300 as 44
            numbers = itertools.count(header + 1)
            lines = progress(itertools.islice(file, header, None), desc="reading", unit="line")
            rows = (line for line, _ in zip(lines, numbers, strict=False))
            try:
                return np.loadtxt(rows, kind, comments=None, quotechar='"', encoding=None, ndmin=2, **options)
            except ValueError as error:
                reason = str(error).split(" at row")[0][:100]  # which counts neither a header nor blank lines
    raise DataError(f"{path} cannot be read as numbers ({reason}, in line {next(numbers) - 1}): mend it")


def _like_labels(column):
    """Whether a column may be labels: whole numbers that recur, and none of them nearly everywhere.

    Which a pixel in a corner is not: paper, but for a few.
    """
    values, counts = np.unique(column, return_counts=True)
    whole = bool((values == np.round(values)).all())
    return whole and values[0] >= 0 and 2 * len(values) <= len(column) and counts.max() < 0.9 * len(column)
