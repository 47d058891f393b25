"""A folder of your own images: which files it has, of which class and half.

    FOLDER/<class>/*                                  about a sixth of them is held out to test on
    FOLDER/train/<class>/*  FOLDER/test/<class>/*     the halves as they are, and val as what it is
    FOLDER/*                                          images without classes

The halves may be called Training, testSet and the like, and a folder that holds a single folder of
folders is passed through. Hidden files and thumbnails are no images, a file is of the class where it lies,
whatever links lead to it, and the names of classes are brought into one form of Unicode.
"""

import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from support.errors import DataError
from support.images import EXTENSIONS, Sample
from support.terminal import listed, warn

HALVES = {
    "train": ("train", "training", "trainset", "trainingset"),
    "test": ("test", "testing", "testset", "testingset"),
    "validation": ("val", "valid", "validation", "valset", "validationset"),
}
SYSTEMS = (  # not hidden by their names, and nobody's own: thumbnails, and what was thrown away
    *("@eadir", "__macosx", "__pycache__", "thumbs.db", "desktop.ini", "icon\r", "lost+found"),
    *("#recycle", "@recycle", "$recycle.bin", "system volume information"),
)
LAYOUTS = "FOLDER/<class>/*, FOLDER/train/<class>/* and FOLDER/test/<class>/*, or FOLDER/*"


def find_files(path):
    """The samples of each half of a folder, {"train": list, …}, the names of its classes, and notes.

    The notes are where the halves are, in words. Raises DataError.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}: say with --images (to train.py with --dataset) where it is now"
        )
    root = _unwrap(folder)
    places = _find_halves(root)
    halves, seen, linked = {half: [] for half in HALVES if half in places}, set(), []
    for by_links in (False, True):  # a file is of the class where it lies, whatever links lead to it
        entered = {os.path.realpath(place) for place in (root, *places.values())}
        for half, samples in halves.items():
            found = _find_samples(places[half], seen, entered, by_links)
            samples += found
            linked += [os.path.realpath(sample.picture) for sample in found] if by_links else []
    if linked:
        for samples in halves.values():
            samples.sort(key=lambda sample: sample.key)
    outside = [path for path in linked if not Path(path).is_relative_to(os.path.realpath(folder))]
    if outside:
        warn(f"{len(outside):,} images lie outside {folder}, where links lead to, {outside[0]} for one")
    classes = list(dict.fromkeys(sample.name for sample in halves["train"] if sample.name))
    ways = {half: place.relative_to(folder.parent) for half, place in places.items()}
    test, validation = (ways.get(half, "about a sixth of it, held out") for half in ("test", "validation"))
    return halves, classes, [f"to train on: {ways['train']}; to test on: {test}; --validate: {validation}"]


def image_files(folder):
    """The paths of all images under a folder, sorted."""
    others, seen = [], set()
    files = _images_under(folder, seen, {os.path.realpath(folder)}, False, others)
    files = sorted(files + _images_under(folder, seen, {os.path.realpath(folder)}, True, []))
    if others:
        warn(f"left out {len(others):,} without the name of an image, {others[0]} among them")
    return files


# Halves


def _unwrap(folder, half=None):
    """The folder itself, or what it wraps: the one folder in it, where this holds folders alone.

    As in archive/train, or in train/train, the half of that name.
    """
    here = _look(folder)
    if here.images or len(here.folders) != 1:
        return folder
    inner = _look(here.folders[0])
    wraps = inner.folders and not inner.images
    if not wraps and (half is None or _half_of(here.folders[0].name) != half):
        return folder
    return _unwrap(here.folders[0], half)


def _find_halves(root):
    """The folders of the halves that ``root`` has; it is "train" itself where it has none."""
    here, found = _look(root), {}
    halves = [_half_of(folder.name) for folder in here.folders]
    if not any(halves):  # seg_train and seg_test, of which one alone is none
        halves = [_half_of(folder.name, of_a_word=True) for folder in here.folders]
        if "train" not in halves or not {*halves} - {None, "train"}:
            return {"train": root}
    for half, folder in zip(halves, here.folders, strict=True):
        if half in found:
            raise DataError(f"{found[half]} and {folder} are one half by their names: keep one of them")
        if half:
            found[half] = folder
    others = [folder.name for folder in here.folders if folder not in found.values()]
    if "train" not in found:
        return {"train": root}
    if not _look(found["train"]).folders and (others or len(found) == 1):
        return {"train": root}  # a class that is called train
    if others:
        warn(f"left out {listed(others)} of {root}, which has {found['train'].name} for its classes")
    return {half: _unwrap(folder, half) for half, folder in found.items()}


def _half_of(name, of_a_word=False):
    """The half that a folder's name stands for, or a word of it, as in testImages; or None."""
    words = re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())
    words = words if of_a_word else ["".join(words)]
    return next((half for half, names in HALVES.items() if {*names} & {*words}), None)


# Samples


def _find_samples(root, seen, entered, by_links):
    """The samples in a folder of class folders or of images, as _images_under finds them."""
    here, groups = _look(root), {}  # {class: its images}
    classes = [folder for folder in here.folders if _look(folder).images]
    left = [folder for folder in here.folders if folder not in classes]
    others = list(here.others)
    if not classes and not here.images:
        others += [path for folder in left for path in _look(folder).others]
        what = f"{root} has no images, nor class folders with images right in them"
        if not others:
            raise DataError(f"{what}: use {LAYOUTS}")
        how = f"convert or rename {others[0]} and the like, or name a file of arrays itself"
        raise DataError(f"{what} ({', '.join(EXTENSIONS)}): {how}")
    if left:
        warn(f"left out {listed([folder.name for folder in left])} of {root}: no image is right in them")
    if classes:
        others += here.images  # beside the class folders: of no class
        entered |= {os.path.realpath(folder) for folder in classes}  # a link leads to no other class
        for folder, name in zip(classes, _class_names(root, classes), strict=True):
            groups[name] = _images_under(folder, seen, entered, by_links, others)
    else:
        groups[None] = _take(here.images, seen, by_links)
    if others:
        warn(f"left out {len(others):,} files that are no images or of no class, {others[0]} among them")
    return [Sample(path, name, _key(root, path)) for name, images in groups.items() for path in images]


def _class_names(root, folders):
    """The classes' names. Refuses what cannot be told apart or written."""
    names = {}
    for folder in folders:
        name = unicodedata.normalize("NFC", folder.name)
        if not name.isprintable():  # which what is not UTF-8 is not, either
            raise DataError(f"{str(folder)!a} has a name that is not printable text: rename it")
        if name.casefold() in names:
            both = f"{names[name.casefold()]} and {name} of {root}"
            raise DataError(f"the classes {both} differ only in case or Unicode form: rename one")
        names[name.casefold()] = name
    return list(names.values())


def _key(root, path):
    """The way from a folder to an image, in one form of Unicode, as bytes."""
    return os.fsencode(unicodedata.normalize("NFC", Path(path).relative_to(root).as_posix()))


# Files


class _Listing(NamedTuple):
    """What is right in a folder, sorted, hidden names and thumbnails aside."""

    folders: list
    images: list
    others: list


def _look(folder):
    listing = _Listing([], [], [])
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name.lower() in SYSTEMS:
            continue
        if entry.is_dir():
            listing.folders.append(path)
        elif path.suffix.lower() not in EXTENSIONS:
            listing.others.append(str(path))
        elif not path.exists():
            raise DataError(f"{path} is a link to nowhere: mend it, or take it away")
        elif entry.is_file():  # and no pipe
            listing.images.append(str(path))
    return listing


def _images_under(folder, seen, entered, by_links, others):
    """The images in a folder and those below, each once by its real path; links are followed ``by_links``.

    Adds to the real paths of files seen and of folders entered, and to the others, which are no images.
    """
    if os.path.islink(folder) and not by_links:
        return []
    here = _look(folder)
    others += here.others
    images = _take(here.images, seen, by_links)
    for inner in _take(here.folders, entered, by_links):
        images += _images_under(inner, seen, entered, by_links, others)
    return images


def _take(paths, known, by_links):
    """Those of the paths that are new by their real paths, which become known; links only ``by_links``."""
    taken = []
    for path in paths:
        real = os.path.realpath(path)
        if real not in known and (by_links or not os.path.islink(path)):
            known.add(real)
            taken.append(path)
    return taken
