"""A folder of your own images as a data set: read once, into the same tensors as any other.

    FOLDER/<class>/*                                  about a sixth of them is held out to test on
    FOLDER/train/<class>/*  FOLDER/test/<class>/*     the two halves as they are
    FOLDER/*                                          images without classes

The classes are torchvision's ImageFolder's, in alphabetical order. Images may be of any size
and mode: they become gray, square and as small as the model's, light ink on black paper (0).
"""

import hashlib
import os
from pathlib import Path

import torch

from support.errors import DataError
from support.images import blank, read_images
from support.terminal import warn

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif", ".avif")


def load_folder(settings, split):
    """One split of the folder ``settings.dataset``, as the fields of data.Split. Raises DataError."""
    folder = Path(settings.dataset)
    samples, classes = _choose(folder, split, settings.validate)
    paths = [path for path, _ in samples]
    images, kept, _ = read_images(paths, settings.image_size, settings.invert, skip_bad=settings.skip_bad)
    if len(images) == 0:
        raise DataError(f"{folder} has no image to {'train' if split == 'train' else 'test'} on: add some")
    if blank(images).all():
        advice = "check them" if settings.invert else "check them, or try --invert if their ink is black"
        raise DataError(f"the images of {folder} are blank, all of them: {advice}")
    labels = torch.tensor([samples[number][1] for number in kept])
    return images, labels, classes, "folder", [paths[number] for number in kept]


def image_files(folder):
    """The paths of all files under a folder that are images by their names, sorted."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.name[0] != ".")
    others = [path for path in files if not _is_image(path)]
    if others:
        warn(f"left out {len(others):,} without the name of an image, {others[0]} among them")
    return [str(path) for path in files if _is_image(path)]


# Which images there are: samples are pairs (path, label)


def _choose(folder, split, validate):
    """The samples of one split of the folder, in an order that mixes the classes, and the classes' names."""
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}: say with --images (to train.py with --dataset) where it is now"
        )
    root, test_root = _halves(folder)
    samples, classes = _find(root)
    counts = torch.bincount(torch.tensor([label for _, label in samples], dtype=int), minlength=len(classes))
    for name, count in zip(classes, counts.tolist(), strict=False):
        if count < 2:
            found = ("no images", "a single image")[count]
            raise DataError(f"{root / name} has {found}, and a class needs several: add some, or remove it")
    ignored = set(_class_names(folder)) - {"train", "test"} if root != folder else ()
    if ignored:
        warn(f"left out {', '.join(sorted(ignored))} of {folder}, which has train for its classes")
    if test_root:
        tests, test_classes = _find(test_root)
        if classes and not test_classes:
            raise DataError(
                f"{test_root} has images of no class, unlike {root}: sort them into class folders"
            )
        for name in set(test_classes) - set(classes):
            raise DataError(f"{test_root / name} is a class that {root} lacks: take it away, or add it there")
        tests = [(path, classes.index(test_classes[label]) if classes else 0) for path, label in tests]
    else:
        samples, tests = _hold_out(samples, root, "test")
    parts = {"train": samples, "test": tests}
    if validate or split == "validation":
        parts["train"], parts["validation"] = _hold_out(samples, root, "validation")
    chosen = parts[split]
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))
    return [chosen[number] for number in order.tolist()], classes


def _halves(folder):
    """Where the images to train on and those to test on are; None for the latter if there are none."""
    names = _class_names(folder)
    if "train" in names and ("test" in names or _class_names(folder / "train")):
        return folder / "train", folder / "test" if "test" in names else None
    return folder, None


def _class_names(folder):
    """The names of the sub-folders, sorted, hidden ones aside."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")


def _find(root):
    """All samples under a folder of class folders or of images, and the names of the classes."""
    from torchvision.datasets import ImageFolder  # here, not above: it takes a second to import

    others = []

    def is_image(path):
        if not _is_image(path) and Path(path).name[0] != ".":
            others.append(path)
        return _is_image(path)

    classes = _class_names(root)
    _check_names(root, classes)
    own = sorted(entry.path for entry in os.scandir(root) if entry.is_file())
    if classes:
        others += [path for path in own if is_image(path)]  # beside the class folders: of no class
        numbers = {name: number for number, name in enumerate(classes)}
        samples = ImageFolder.make_dataset(str(root), numbers, is_valid_file=is_image, allow_empty=True)
    else:
        samples = [(path, 0) for path in own if is_image(path)]
    if not samples:
        raise DataError(f"{root} has no images, nor class folders with images ({', '.join(EXTENSIONS)})")
    if others:
        warn(f"left out {len(others):,} files that are no images or of no class, {others[0]} among them")
    return samples, classes


def _is_image(path):
    """Whether a file is an image by its name."""
    path = Path(path)
    return path.suffix.lower() in EXTENSIONS and path.name[0] != "."


def _check_names(root, classes):
    """Refuse class folders that cannot be read, or whose names cannot be told apart or written."""
    seen = {}
    for name in classes:
        if not name.isprintable():  # which what is not UTF-8 is not, either
            raise DataError(f"{str(root / name)!a} has a name that is not printable text: rename it")
        if name.casefold() in seen:
            raise DataError(
                f"the classes {seen[name.casefold()]} and {name} of {root} differ in case only: rename one"
            )
        seen[name.casefold()] = name
        if not os.access(root / name, os.R_OK | os.X_OK):
            raise DataError(f"{root / name} may not be read: change its permissions")


def _hold_out(samples, root, name):
    """The samples in two lists: those to keep, and about a sixth of them, held out under this name.

    Each is chosen by a hash of its path below its class's folder, so that images added later move no other.
    """
    kept, held_out = [], []
    for path, label in samples:
        below = Path(path).relative_to(root).parts
        own = "/".join([name, *(below[1:] or below)])
        digest = hashlib.blake2b(os.fsencode(own), digest_size=4).digest()
        (held_out if int.from_bytes(digest, "big") % 6 == 0 else kept).append((path, label))
    return kept, held_out
