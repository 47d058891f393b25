"""A folder of your own images: which files it has, of which class and half.

    FOLDER/<class>/*                                  about a sixth of them is held out to test on
    FOLDER/train/<class>/*  FOLDER/test/<class>/*     the halves as they are, and val as what it is
    FOLDER/*                                          images without classes

The halves may be called Training, testSet and the like, and a folder that holds a single folder of
folders is passed through. Hidden files and thumbnails are no images, a file is of the class where it really
lies, whatever links there are, and the names of classes are brought into one form of Unicode.
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
    walk = _Walk(folder)
    homes = {half: _find_classes(places[half], walk) for half in HALVES if half in places}
    walk.settle([home for own in homes.values() for home in own])
    halves = {
        half: [
            Sample(path, name, _key(places[half], path))
            for home, name in own.items()
            for path in walk.images(home, deep=name is not None)
        ]
        for half, own in homes.items()
    }
    walk.tell("that are no images or of no class")
    classes = list(dict.fromkeys(sample.name for sample in halves["train"] if sample.name))
    ways = {half: place.relative_to(folder.parent) for half, place in places.items()}
    test, validation = (ways.get(half, "about a sixth of it, held out") for half in ("test", "validation"))
    return halves, classes, [f"to train on: {ways['train']}; to test on: {test}; --validate: {validation}"]


def image_files(folder):
    """The paths of all images under a folder, sorted."""
    walk = _Walk(folder)
    walk.settle([walk.folder])
    files = sorted(walk.images(walk.folder))
    walk.tell("without the name of an image")
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


def _find_classes(root, walk):
    """The class folders in a folder, {path: name}, or the folder itself, {root: None}, if it has images."""
    here = _look(root)
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
    if not classes:
        return {root: None}
    walk.others += others + here.images  # beside the class folders: of no class
    for folder in here.upward:
        walk.leave_out(folder)
    return dict(zip(classes, _class_names(root, classes), strict=True))


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
    upward: list  # links to the folder itself, or to one around it


def _look(folder):
    listing = _Listing([], [], [], [])
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name.lower() in SYSTEMS:
            continue
        if entry.is_dir():
            leads_up = entry.is_symlink() and _lies_in(os.path.realpath(folder), os.path.realpath(path))
            (listing.upward if leads_up else listing.folders).append(path)
        elif path.suffix.lower() not in EXTENSIONS:
            listing.others.append(str(path))
        elif not path.exists():
            raise DataError(f"{path} is a link to nowhere: mend it, or take it away")
        elif entry.is_file():  # and no pipe
            listing.images.append(str(path))
    return listing


class _Walk:
    """A way through a folder that takes every file once, where it really lies, and counts what it leaves out.

    A home is a class folder, or the folder of images without classes. Links to single files, and links right
    in the folder, as of a class, may lead out of it, which is said; no folder is followed out of it from
    deeper inside.
    """

    def __init__(self, folder):
        self.folder, self.root = Path(folder), os.path.realpath(folder)
        self.homes = {}  # by their real paths
        self.owners = {}  # of files outside all homes, by their real paths: the home with the first link
        self.others, self.known, self.outside, self.brought = [], [], [], []

    def settle(self, homes):
        """Say which homes there are. Of several that are one, the real folder is it, not a link to it."""
        for home in sorted(homes, key=os.path.islink):
            real = os.path.realpath(home)
            if self._home_of(real) is None:
                self.homes[real] = home

    def images(self, home, deep=True):
        """The images in a home and, if ``deep``, in the folders below."""
        real = os.path.realpath(home)
        if self.homes.get(real) != home:
            self.known.append(home)
            return []
        found = list(self._steps(home, home, real, deep, {real}))
        taken, files = {real for _, real, is_link in found if not is_link}, []
        for path, real, is_link in found:
            if is_link and home != (self._home_of(real) or self.owners.setdefault(real, home)):
                self.known.append(path)
            elif not is_link or real not in taken:
                taken.add(real)
                files.append(path)
                if not _lies_in(real, self.root):
                    self.brought.append(real)
        return files

    def _steps(self, home, folder, real, deep, entered, by_link=False):
        """Each image in a folder and those below: its path, its real path, and whether a link led there."""
        here = _look(folder)
        self.others += here.others
        for path in here.images:
            is_link = os.path.islink(path)
            place = os.path.realpath(path) if is_link else os.path.join(real, os.path.basename(path))
            yield path, place, by_link or is_link
        for inner in (here.folders + here.upward) * deep:
            is_link, place = os.path.islink(inner), os.path.realpath(inner)
            owner, is_around = self._home_of(place), any(_lies_in(own, place) for own in self.homes)
            if owner is None and not is_around and inner.parent == self.folder:
                owner = self.homes[place] = home  # a link right in the folder, which may lead anywhere
            if owner not in (None, home) or (owner is None and (is_around or not _lies_in(place, self.root))):
                self.leave_out(inner)
            elif not is_link or place not in entered:
                entered |= {place} if is_link else set()
                yield from self._steps(home, inner, place, deep, entered, by_link or is_link)

    def _home_of(self, real):
        """The home that a real path lies in, or None."""
        return next(
            (self.homes[str(at)] for at in (Path(real), *Path(real).parents) if str(at) in self.homes), None
        )

    def leave_out(self, folder):
        """Count a folder that is not followed."""
        real = os.path.realpath(folder)
        (self.known if _lies_in(real, self.root) or self._home_of(real) else self.outside).append(folder)

    def tell(self, what):
        """Warn of what was left out, files that are ``what`` among it, and of what lies elsewhere."""
        if self.others:
            warn(f"left out {len(self.others):,} files {what}, {self.others[0]} among them")
        if self.known:
            some = (
                f"{len(self.known):,} links to what {self.folder} has elsewhere, {self.known[0]} among them"
            )
            warn(f"left out {some}: copy what you want there")
        if self.outside:
            some = f"{len(self.outside):,} folders that lie outside {self.folder}"
            warn(f"left out {some}, {self.outside[0]} among them: copy them in, or name such a folder itself")
        if self.brought:
            some = (
                f"{len(self.brought):,} images that lie outside {self.folder}, {self.brought[0]} among them"
            )
            warn(f"links bring in {some}: take those links away unless you want that")


def _lies_in(real, folder):
    """Whether a real path is that of a folder or of something in it."""
    return real == folder or real.startswith(os.path.join(folder, ""))
