"""A picture of any kind as the images that models are trained on: gray, square, small, ink on black paper."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps

from support.errors import DataError
from support.levels import extremes, find_range, to_uint8
from support.paper import ink_alone
from support.terminal import progress, warn

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
)
CONVERT = (".heic", ".heif", ".pdf", ".svg", ".eps", ".ai", ".psd", ".raw", ".dng")  # which are not read
PHOTO = 4  # times the model's side: enough to find a digit in a photograph, and too coarse for its noise
LIGHT = 160  # paper is lighter than this
DARK = 48  # pictures that have nothing lighter are nearly black
JUDGED = 200  # files of many, by which the range of levels is judged


def read_images(paths, size, invert=False, center=False, skip_bad=False, alike=None):
    """The pictures in these files: uint8 (N, 1, size, size), the numbers of their files, and what was read.

    Levels are judged over the files ``alike``, which are all of the same origin. With ``skip_bad`` files
    that cannot be read are left out and counted in a warning. Raises DataError.
    """
    ranges = find_ranges(alike or paths)
    images, numbers, sizes, bad, first_alone, doubtful = [], [], set(), [], [], {}
    for number, path in enumerate(progress(paths, desc="reading", unit="img")):
        try:
            frames, shape, count, doubts = read_image(path, size, invert, center, ranges)
        except DataError as error:
            if not skip_bad:
                raise DataError(
                    f"{error}, or leave such files out: --skip-bad of train.py and encode.py"
                ) from None
            bad.append(error)
            continue
        images += frames
        numbers += [number] * len(frames)
        sizes.add(shape)
        if count > len(frames):
            first_alone.append(path)
        for words in doubts:
            doubtful.setdefault(words, []).append(path)
    if bad:
        warn(f"left out {len(bad):,} of {len(paths):,} files; {bad[0]}")
    if first_alone:
        warn(f"of {len(first_alone):,} animations the first frame is read, {first_alone[0]} among them")
    for words, found in doubtful.items():
        warn(f"{words} in {len(found):,} of {len(paths):,} pictures, {found[0]} among them: look at it")
    if not images:
        return torch.empty(0, 1, size, size, dtype=torch.uint8), [], []
    images = torch.stack(images)
    files = [paths[number] for number in numbers]
    return images, numbers, [_size_note(sizes, size), *level_notes(images, files, ranges, invert)]


def read_image(path, size, invert=False, center=False, ranges=None):
    """The pictures in a file as a model wants them: a list of uint8 (1, size, size), more than one of a TIFF.

    Returns them, the width and height they had, how many the file has, and what is doubtful of a centered
    one. Raises DataError, which names the file, if it is no picture, truncated, or so large that Pillow takes
    it for a decompression bomb.
    """
    ranges = ranges or find_ranges([path])
    try:
        with _open(path, (PHOTO if center else 2) * size) as (image, shape):
            count = getattr(image, "n_frames", 1)
            frames, doubts = [], []
            for frame in range(count if image.format == "TIFF" else 1):
                if frame:
                    image.seek(frame)
                upright = ImageOps.exif_transpose(image)
                frames.append(prepare(upright, size, invert, center, ranges, _tags(image), doubts))
    except MemoryError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{path} cannot be read (too many pixels): shrink it") from None
    except Image.UnidentifiedImageError:
        convert = Path(path).suffix.lower() in CONVERT
        how = "convert it to PNG" if convert else "mend it"
        raise DataError(f"{path} cannot be read (no image that Pillow knows): {how}") from None
    except Exception as error:  # Pillow raises whatever a broken file makes its readers raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}): mend it") from None
    return frames, shape, count, doubts


def prepare(image, size, invert=False, center=False, ranges=None, tags=None, doubts=None):
    """A PIL image of any mode and size -> uint8 (1, size, size): gray, padded to a square, antialiased.

    ``invert`` is for dark ink on light paper. ``center`` places it as MNIST's digits were: scaled
    to a box of 20 x 20 pixels in 28 x 28, with its centre of mass in the middle; what is doubtful then is
    added to ``doubts``.
    """
    gray, doubts = _to_gray(image, invert, ranges or {}, tags or {}), [] if doubts is None else doubts
    if not center:
        small = _shrink(gray, size)
        corner = ((size - small.width) // 2, (size - small.height) // 2)
    else:
        gray.thumbnail((PHOTO * size, PHOTO * size), Image.Resampling.BOX)  # means of many pixels each
        ink, found = ink_alone(gray)
        doubts += found
        small = _shrink(ink.crop(ink.getbbox()), round(size * 20 / 28))
        mass = np.asarray(small, float)
        total = max(mass.sum(), 1)  # a blank page has none
        x, y = (mass.sum(0) @ np.arange(small.width)) / total, (mass.sum(1) @ np.arange(small.height)) / total
        corner = (round(size / 2 - x), round(size / 2 - y))  # at pixel 14 of 0 to 27, as in MNIST
    canvas = Image.new("L", (size, size))
    canvas.paste(small, corner)
    return torch.from_numpy(np.array(canvas))[None]


def blank(images):
    """Which of the images (N, 1, H, W) are of a single gray level: bool (N,)."""
    return (images == images[:, :, :1, :1]).flatten(1).all(1)


def needs_inverting(paths):
    """Whether most of the pictures in these files are dark ink, on light paper or on nothing."""
    ranges, dark_ink = find_ranges(paths), 0
    for path in paths:
        with _open(path, 64) as (image, _):
            gray = np.asarray(_to_gray(image, False, ranges, _tags(image), paper=255).resize((32, 32)))
            if _is_transparent(image):
                alpha = np.asarray(image.convert("RGBA").getchannel("A").resize((32, 32)))
                dark_ink += bool((alpha > 128).any()) and gray[alpha > 128].mean() < 128 and alpha.min() < 128
            else:
                border = np.concatenate([gray[:4], gray[-4:], gray[:, :4].T, gray[:, -4:].T])
                dark_ink += border.mean() > LIGHT
    return dark_ink > len(paths) / 2


# What was read


def _size_note(sizes, size):
    small, large = (f"{width} x {height}" for width, height in (min(sizes), max(sizes)))
    before = small if small == large else f"{small} to {large}"
    return f"pictures of {before} pixels, read as {size} x {size}"


def level_notes(images, files, ranges, invert):
    """The ground, the levels and the blank images, in words; a warning of what is nearly black."""
    low, high = images.min().item(), images.max().item()
    edges = torch.cat([images[:, 0, 0], images[:, 0, -1], images[:, 0, :, 0], images[:, 0, :, -1]], dim=1)
    note = f"ground {edges.median().item()} of 255, darkest level {low}, brightest {high}"
    for kind, (black, white) in ranges.items():
        if (kind, black, white) != ("8-bit", 0, 255):
            note += f"; of {kind} pictures {black:.4g} is taken for black and {white:.4g} for white"
    empty = blank(images)
    count, other = int(empty.sum()), "without --invert" if invert else "with --invert"
    if count:
        note += f"; {count:,} blank, {files[int(empty.nonzero()[0])]} among them"
        warn(f"{count:,} of the images are blank, {files[int(empty.nonzero()[0])]} among them: try {other}")
    elif high < DARK:
        warn(f"these pictures are nearly black: their brightest level is {high} of 255")
    return [note]


# Levels


def find_ranges(paths):
    """The levels that are black and white in 8-bit, integer and float pictures: {kind: (black, white)}."""
    found = {}
    for path in paths[:: 1 + len(paths) // JUDGED]:
        with contextlib.suppress(Exception), _open(path, 64) as (image, _):  # what is wrong is said later
            if _kind(image) != "8-bit" or not _is_transparent(image):
                found.setdefault(_kind(image), []).append(extremes(_levels(image, _tags(image))))
    return {kind: find_range(*zip(*own, strict=True)) for kind, own in found.items()}


def _kind(image):
    return "float" if image.mode == "F" else "integer" if image.mode.startswith("I") else "8-bit"


def _tags(image):
    """What Pillow does not go by in a TIFF of more than 8 bits: {name: value}."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (8,))
    return {
        "bits": bits[0] if isinstance(bits, tuple) else bits,
        "white is zero": tags.get(262) == 0,
        "unsigned": tags.get(339, (0,)) in (1, (1,)),
    }


def _levels(image, tags):
    """The levels of a PIL image, (H, W), in their own units."""
    if _kind(image) == "8-bit":
        return np.asarray(image.getchannel("L") if image.mode == "LAB" else image.convert("L"))
    values = np.asarray(image)
    if _kind(image) == "float":
        return values
    values = values.astype(np.int64)
    if tags.get("bits") == 32 and tags["unsigned"]:  # which Pillow takes for signed
        values %= 2**32
    if tags.get("white is zero"):  # which Pillow sees to up to 8 bits
        values = 2 ** tags["bits"] - 1 - values
    return values


def _is_transparent(image):
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _to_gray(image, invert, ranges, tags, paper=0):
    """A PIL image of mode "L". What is transparent becomes paper."""
    levels, alpha = _levels(image, tags), None
    black, white = ranges.get(_kind(image)) or find_range(*zip(extremes(levels), strict=True))
    if _is_transparent(image):
        if _kind(image) == "8-bit":
            alpha, black, white = image.convert("RGBA").getchannel("A"), 0, 255
        else:  # a level that stands for nothing
            alpha = Image.fromarray(255 * (levels != image.info["transparency"]).astype(np.uint8))
    gray = Image.fromarray(
        levels if (black, white) == (0, 255) and levels.dtype == np.uint8 else to_uint8(levels, black, white)
    )
    if invert:
        gray = ImageOps.invert(gray)
    return gray if alpha is None else ImageChops.multiply(gray, alpha)


# Files and sizes


@contextlib.contextmanager
def _open(path, enough):
    """The PIL image in a file and its size. Of a JPEG no more pixels are decoded than ``enough``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd but harmless metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            size = image.size
            image.draft("L", (enough, enough))  # as if it were gray, and no larger than need be: JPEG alone
            yield image, size


def _shrink(gray, side):
    """The PIL image resized so that the longer of its sides has ``side`` pixels, none less than one."""
    scale = side / max(gray.size)
    width, height = (max(1, round(length * scale)) for length in gray.size)
    return gray.resize((width, height), Image.Resampling.LANCZOS)
