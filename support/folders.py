"""A folder of your own images as a data set: which files it has, of which class and split.

    FOLDER/<class>/*                                  about a sixth of them is held out to test on
    FOLDER/train/<class>/*  FOLDER/test/<class>/*     the halves as they are, and val as what it is
    FOLDER/*                                          images without classes

The halves may be called Training, testSet and the like, and a folder that holds a single folder of
folders is passed through. Hidden files and thumbnails are no images, a link is followed to what was
not met before, and the names of classes are brought into one form of Unicode.
"""

import hashlib
import os
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import torch

from support.errors import DataError
from support.images import EXTENSIONS, blank, read_images
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


def load_folder(settings, split):
    """One split of the folder ``settings.dataset``, as the fields of data.Split. Raises DataError."""
    folder = Path(settings.dataset)
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}: say with --images (to train.py with --dataset) where it is now"
        )
    splits, classes, where = find_splits(folder, settings.validate)
    samples = splits[split]
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    samples = [samples[number] for number in order.tolist()]  # the classes mixed
    paths = [path for path, _ in samples]
    every = sorted({path for own in splits.values() for path, _ in own})
    images, kept, notes = read_images(
        paths, settings.image_size, settings.invert, skip_bad=settings.skip_bad, alike=every
    )
    if len(images) == 0:
        raise DataError(f"{folder} has no image to {'train' if split == 'train' else 'test'} on: add some")
    if blank(images).all():
        advice = "check them" if settings.invert else "check them, or try --invert if their ink is black"
        raise DataError(f"the images of {folder} are blank, all of them: {advice}")
    labels = torch.tensor([samples[number][1] for number in kept])
    notes = [*([class_note(labels, classes)] if classes else []), where, *notes]
    return images, labels, classes, "folder", [paths[number] for number in kept], notes


def class_note(labels, classes):
    """How many images each class has, in words; labels are int64 (N,)."""
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    named = [f"{name} {count:,}" for name, count in zip(classes, counts, strict=True)]
    return f"{len(classes)} class{'es' * (len(classes) > 1)}: {listed(named)}"


def image_files(folder):
    """The paths of all images under a folder, sorted."""
    others = []
    files = sorted(_images_under(Path(folder), set(), others))
    if others:
        warn(f"left out {len(others):,} without the name of an image, {others[0]} among them")
    return files


# The splits: samples are pairs (path, label)


def find_splits(folder, validate):
    """The samples of each split, {"train", "test", "validation"}, the classes' names, and where they are."""
    root = _unwrap(folder)
    halves = _find_halves(root)
    seen = {os.path.realpath(root)}
    train, classes = _find_samples(halves["train"], seen)
    for number, name in enumerate(classes):
        count = sum(label == number for _, label in train)
        if count < 2:
            found = ("no images", "a single image")[count]
            raise DataError(
                f"{halves['train'] / name} has {found}, and a class needs several: add some, or remove it"
            )

    def way(sample):
        """From the folder to an image, in one form of Unicode."""
        path = Path(sample[0]).relative_to(halves["train"]).as_posix()
        return os.fsencode(unicodedata.normalize("NFC", path))

    if "test" in halves:
        test = _of_classes(halves["test"], halves["train"], classes, seen)
    else:
        train, test = hold_out(train, "test", way)
    if "validation" in halves:
        validation = _of_classes(halves["validation"], halves["train"], classes, seen)
        if not validate:
            warn(f"left out {halves['validation']}, which is for --validate")
    else:
        kept, validation = hold_out(train, "validation", way)
        train = kept if validate else train
    places = {half: place.relative_to(folder.parent) for half, place in halves.items()}
    where = f"to train on: {places['train']}; to test on: {places.get('test', 'a sixth of it, held out')}"
    return {"train": train, "test": test, "validation": validation}, classes, where


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
    names = [folder.name for folder in here.folders]
    halves = [_half_of(name) for name in names]
    if not any(halves):  # seg_train and seg_test, of which one alone is none
        halves = [_half_of(name, of_a_word=True) for name in names]
        if "train" not in halves or len({*halves} - {None}) == 1:
            return {"train": root}
        warn(f"taking {listed([name for name, half in zip(names, halves, strict=True) if half])} for halves")
    for half, folder in zip(halves, here.folders, strict=True):
        if half in found:
            raise DataError(f"{found[half]} and {folder} are one half by their names: keep one of them")
        if half:
            found[half] = folder
    if "train" not in found:
        for half, folder in found.items():
            if not _look(folder).images:
                raise DataError(
                    f"{folder} is no class, and {root} has no train for this {half}: use {LAYOUTS}"
                )
        return {"train": root}
    if not _look(found["train"]).folders and (len(found) == 1 or len(found) < len(here.folders)):
        return {"train": root}  # a class that is called train, among others
    others = [folder.name for folder in here.folders if folder not in found.values()]
    if others:
        warn(f"left out {', '.join(others)} of {root}, which has {found['train'].name} for its classes")
    return {half: _unwrap(folder, half) for half, folder in found.items()}


def _half_of(name, of_a_word=False):
    """The half that a folder's name stands for, or a word of it, as in testImages; or None."""
    words = re.findall("[a-z]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower())
    words = words if of_a_word else ["".join(words)]
    return next((half for half, names in HALVES.items() if {*names} & {*words}), None)


def _of_classes(folder, train, classes, seen):
    """The samples of another half than ``train``, with the labels of its classes."""
    samples, names = _find_samples(folder, seen)
    if classes and not names:
        raise DataError(f"{folder} has images of no class, unlike {train}: sort them into class folders")
    for name in names:
        if name not in classes:
            raise DataError(f"{folder / name} is a class that {train} lacks: take it away, or add it there")
    if set(classes) - set(names):
        warn(f"{folder} has no images of {listed(sorted(set(classes) - set(names)))}")
    return [(path, classes.index(names[label]) if classes else 0) for path, label in samples]


def hold_out(samples, name, key):
    """Pairs (…, label) in two lists: those to keep, and about a sixth of them, held out under this name.

    Each is chosen by a hash of its key, of bytes, so that those added later move no other; of very few,
    two are. Two of each label are kept, as the mixture needs them.
    """
    hashes = [hashlib.blake2b(name.encode() + b"/" + key(sample), digest_size=4) for sample in samples]
    shares = [int.from_bytes(own.digest(), "big") / 2**32 for own in hashes]
    limit, largest = max([1 / 6, *sorted(shares)[1:2]]), {}
    for (_, label), own in zip(samples, shares, strict=True):
        largest[label] = sorted([*largest.get(label, ()), own])[-2:]
    kept, held_out = [], []
    for sample, own in zip(samples, shares, strict=True):
        (held_out if own <= limit and own < largest[sample[1]][0] else kept).append(sample)
    return kept, held_out


def _find_samples(root, seen):
    """All samples under a folder of class folders or of images, and the names of the classes."""
    here, others = _look(root), []
    nested = [folder for folder in here.folders if not _look(folder).images and _look(folder).folders]
    if nested and len(nested) == len(here.folders):
        raise DataError(
            f"{root} has folders of folders, {nested[0].name} among them, and no class: use {LAYOUTS}"
        )
    if nested:
        warn(f"left out {listed([folder.name for folder in nested])} of {root}: no image is right in them")
    folders = [folder for folder in here.folders if folder not in nested]
    classes = _class_names(root, folders)
    samples = []
    seen |= {os.path.realpath(folder) for folder in folders}  # a link leads to no other class
    for label, folder in enumerate(folders):
        seen.discard(os.path.realpath(folder))
        samples += [(path, label) for path in _images_under(folder, seen, others)]
    if folders:
        others += here.images  # beside the class folders: of no class
    else:
        samples = [(path, 0) for path in _images_under(root, seen - {os.path.realpath(root)}, others)]
    if not samples:
        there = [*others, *here.others]
        what = f"{root} has no images, nor class folders with images ({', '.join(EXTENSIONS)})"
        how = f": convert or rename {there[0]} and the like, or name a file of arrays itself" if there else ""
        raise DataError(what + how)
    if others or here.others:
        others += here.others if folders else []
        warn(f"left out {len(others):,} files that are no images or of no class, {others[0]} among them")
    return samples, classes


def _class_names(root, folders):
    """The classes' names. Refuses what cannot be read, told apart or written."""
    seen, names = {}, []
    for folder in folders:
        name = unicodedata.normalize("NFC", folder.name)
        if not name.isprintable():  # which what is not UTF-8 is not, either
            raise DataError(f"{str(folder)!a} has a name that is not printable text: rename it")
        if name.casefold() in seen:
            raise DataError(
                f"the classes {seen[name.casefold()]} and {name} of {root} differ only in case or Unicode "
                "form: rename one"
            )
        seen[name.casefold()] = name
        names.append(name)
        if not os.access(folder, os.R_OK | os.X_OK):
            raise DataError(f"{folder} may not be read: change its permissions")
    return names


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


def _images_under(folder, seen, others):
    """The images in a folder and those below, each file once by its real path; adds to seen and others."""
    real = os.path.realpath(folder)
    if real in seen:  # by a link that leads back up
        return []
    seen.add(real)
    here = _look(folder)
    others += here.others
    images = []
    for path in here.images:
        if os.path.realpath(path) not in seen:
            seen.add(os.path.realpath(path))
            images.append(path)
    for inner in here.folders:
        images += _images_under(inner, seen, others)
    return images
