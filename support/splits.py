"""Images of one's own, of a folder or a file of arrays, as a data set: its splits, and what was read."""

import hashlib
from collections import Counter

import torch

from support.errors import DataError
from support.images import blank, read_images
from support.terminal import listed, warn


def make_split(settings, split, halves, classes, notes):
    """One split of the samples that a folder or a file has, as the fields of data.Split. Raises DataError.

    The halves are {"train": list, …}; the notes say what was found. Arrays keep the order of their halves.
    """
    path, pictures = settings.dataset, [sample.picture for own in halves.values() for sample in own]
    are_files = isinstance(pictures[0], str)
    _check_classes(path, halves, classes)
    if "validation" in halves and not settings.validate:
        warn(f"left out the validation images of {path}, which are for --validate")
    if "test" not in halves and not are_files:
        halves["train"].sort(key=lambda sample: sample.key)  # the classes mixed
    samples = _divide(halves, settings.validate)[split]
    if are_files:
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
        samples = [samples[number] for number in order.tolist()]  # the classes mixed
    if not samples:
        raise DataError(f"{path} has no image to {'train' if split == 'train' else 'test'} on: add some")
    there = {sample.name for sample in samples}
    absent = [name for name in classes if name not in there]
    if absent:
        warn(f"{path} has no images of {listed(absent)} to test on")

    chosen = [sample.picture for sample in samples]
    size, invert, skip_bad = settings.image_size, settings.invert, settings.skip_bad
    images, numbers, read = read_images(chosen, size, invert, skip_bad=skip_bad, alike=pictures)
    if blank(images).all():
        advice = "check them" if invert else "check them, or try --invert if their ink is black"
        raise DataError(f"the images of {path} are blank, all of them: {advice}")
    names = [samples[number].name for number in numbers]
    if classes:
        counts = Counter(names)
        counted = [f"{name} {counts[name]:,}" for name in classes]
        notes = [f"{len(classes)} class{'es' * (len(classes) > 1)}: {listed(counted)}", *notes]
    label_of = {name: label for label, name in enumerate(classes or [None])}
    labels = torch.tensor([label_of[name] for name in names])
    files = [chosen[number] for number in numbers] if are_files else None
    return images, labels, classes, "folder" if are_files else "file", files, notes + read


def _check_classes(path, halves, classes):
    """Refuse a class that is to test on alone, and images without a class beside others that have one."""
    names = {sample.name for samples in halves.values() for sample in samples}
    if None in names and len(names) > 1:
        raise DataError(f"{path} has labels for some of its images alone: add the others', or take them away")
    alone = sorted(names - {None, *classes})
    if alone:
        raise DataError(f"{path} has {listed(alone)} to test on alone: add images to train on, or drop these")


def _divide(halves, validate):
    """The samples to train, to test and to validate on: the halves, or what is held out of the first."""
    splits = dict(halves)
    for name in ("test", "validation"):
        if name not in halves:
            kept, splits[name] = hold_out(splits["train"], name)
            if name == "test" or validate:
                splits["train"] = kept
    return splits


def hold_out(samples, name):
    """Samples in two lists: those to keep, and about a sixth of them, held out under this name.

    Each is chosen by a hash of its key, so that those added later move no other; of very few, two are.
    Two of each class are kept, as the mixture needs them.
    """
    hashes = [hashlib.blake2b(name.encode() + b"/" + sample.key, digest_size=4) for sample in samples]
    shares = [int.from_bytes(own.digest(), "big") / 2**32 for own in hashes]
    limit, largest = max([1 / 6, *sorted(shares)[1:2]]), {}
    for sample, own in zip(samples, shares, strict=True):
        largest[sample.name] = sorted([*largest.get(sample.name, ()), own])[-2:]
    kept, held_out = [], []
    for sample, own in zip(samples, shares, strict=True):
        (held_out if own <= limit and own < largest[sample.name][0] else kept).append(sample)
    return kept, held_out
