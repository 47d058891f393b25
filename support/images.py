"""A picture of any kind as the images that models are trained on: gray, square, small, ink on black paper."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps

from support.errors import DataError, reason_of
from support.levels import extremes, find_range, to_uint8
from support.paper import ink_alone
from support.terminal import progress, warn

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
)
# No other: of some kinds Pillow leaves the reading to a program that it starts.
FORMATS = sorted({kind for suffix, kind in Image.registered_extensions().items() if suffix in EXTENSIONS})
PHOTO = 4  # times the model's side: enough to find a digit in a photograph, and too coarse for its noise
LIGHT = 160  # paper is lighter than this
COLOURED = 32  # levels of red, green and blue differ by more; by less in a scan of black ink
DARK = 48  # images that have nothing lighter are nearly black
JUDGED = 200  # files of many, by which the range of levels is judged


def read_images(paths, size, invert=False, center=False, skip_bad=False, alike=None):
    """The pictures in these files: uint8 (N, 1, size, size), the numbers of their files, and what was read.

    Levels are judged over the files ``alike``, which are all of the same origin. With ``skip_bad`` files
    that cannot be read are left out and counted in a warning. Raises DataError.
    """
    ranges = find_ranges(alike or paths)
    images, numbers, sizes, bad, animations, doubtful = [], [], set(), [], [], {}
    for number, path in enumerate(progress(paths, desc="reading", unit="img")):
        try:
            frames, shape, animated, doubts = read_image(path, size, invert, center, ranges)
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
        if animated:
            animations.append(path)
        for words in doubts:
            doubtful.setdefault(words, []).append(path)
    if bad:
        warn(f"left out {len(bad):,} of {len(paths):,} files; {bad[0]}")
    if animations:
        warn(f"of {len(animations):,} animations the first frame is read, {animations[0]} among them")
    for words, found in doubtful.items():
        warn(f"{words} in {len(found):,} of {len(paths):,} pictures, {found[0]} among them: look at it")
    if not images:
        return torch.empty(0, 1, size, size, dtype=torch.uint8), [], []
    images = torch.stack(images)
    files = [paths[number] for number in numbers]
    colour = any(_is_colour(path) for path in files[:: 1 + 10 * len(files) // JUDGED])
    return images, numbers, [_size_note(sizes, size, colour), *level_notes(images, files, ranges, invert)]


def read_image(path, size, invert=False, center=False, ranges=None):
    """The pictures in a file as a model wants them: a list of uint8 (1, size, size), more than one of a TIFF.

    Returns them, the width and height they had, whether the file has more, and what is doubtful of a centered
    one. Raises DataError, which names the file, if it is no picture, truncated, or so large that Pillow takes
    it for a decompression bomb.
    """
    ranges = ranges or find_ranges([path])
    try:
        with _open(path, (PHOTO if center else 2) * size) as (image, shape):
            # a phone's MPO has a preview or a map of the light beside its picture
            animated = image.format not in ("TIFF", "MPO") and getattr(image, "n_frames", 1) > 1
            frames, doubts = [], []
            for _ in _pages(image):
                upright = ImageOps.exif_transpose(image)
                frames.append(prepare(upright, size, invert, center, ranges, _tags(image), doubts))
    except MemoryError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{path} cannot be read (too many pixels): shrink it") from None
    except Image.UnidentifiedImageError:
        tiff = Path(path).suffix.lower() in (".tif", ".tiff")  # of which Pillow knows some
        how = "save it with 8 or 16 bits, or as float32" if tiff else "convert it to PNG"
        raise DataError(f"{path} cannot be read (unknown kind of image): {how}, or mend it") from None
    except Exception as error:  # Pillow raises whatever a broken file makes its readers raise
        reason = reason_of(error)
        raise DataError(f"{path} cannot be read ({reason}): mend it") from None
    return frames, shape, animated, doubts


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
    ranges, dark_ink, side = find_ranges(paths), 0, 32
    border = np.ones((side, side), bool)
    border[4:-4, 4:-4] = False
    for path in paths:
        with _open(path, 64) as (image, _):
            gray, alpha = _to_gray(image, False, ranges, _tags(image)), _alpha(image)
            alpha = alpha or Image.new("L", gray.size, 255)
            gray, alpha = (np.asarray(layer.resize((side, side)), float) for layer in (gray, alpha))
        paper = alpha.mean() > 128
        where = border if paper and alpha[border].any() else np.ones_like(border)
        level = 255 * gray[where].sum() / max(alpha[where].sum(), 1)
        dark_ink += level > LIGHT if paper else level < 128 and alpha.any()
    return dark_ink > len(paths) / 2


def on_light_ground(images):
    """Which of the images (N, 1, H, W) are on light ground: bool (N,)."""
    return _edges(images).float().mean(dim=1) > LIGHT


# What was read


def _edges(images):
    return torch.cat([images[:, 0, 0], images[:, 0, -1], images[:, 0, :, 0], images[:, 0, :, -1]], dim=1)


def _is_colour(path):
    with _open(path, 64, "RGB") as (image, _):
        if image.mode not in ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"):
            return image.mode in ("LAB", "HSV")
        return np.ptp(np.asarray(image.convert("RGB").resize((32, 32)), int), axis=2).max() > COLOURED


def _size_note(sizes, size, colour):
    small, large = (f"{width} x {height}" for width, height in (min(sizes), max(sizes)))
    before = small if small == large else f"{small} to {large}"
    return f"pictures of {before} pixels, read as {size} x {size}" + ", and colours as gray" * colour


def level_notes(images, files, ranges, invert):
    """The ground, the levels and the blank images, in words; a warning of what is nearly black."""
    low, high = images.min().item(), images.max().item()
    note = f"ground {_edges(images).median().item()} of 255, darkest level {low}, brightest {high}"
    for kind, (black, white) in ranges.items():
        if (kind, black, white) != ("8-bit", 0, 255):
            note += f"; of {kind} pictures {black:.6g} is taken for black and {white:.6g} for white"
    empty = blank(images)
    count, other = int(empty.sum()), "without --invert" if invert else "with --invert"
    if count:
        note += f"; {count:,} blank, {files[int(empty.nonzero()[0])]} among them"
        warn(f"{count:,} of the images are blank, {files[int(empty.nonzero()[0])]} among them: try {other}")
    brightest = images.amax((1, 2, 3))
    dark = ((brightest < DARK) & ~empty).nonzero().flatten().tolist()
    if dark:
        what = f"{len(dark):,} of the images are nearly black, {files[dark[0]]} among them"
        warn(f"{what}, with no level above {brightest[dark[0]]} of 255: check how they were saved")
    return [note]


# Levels


def find_ranges(paths):
    """The levels that are black and white in 8-bit, integer and float pictures: {kind: (black, white)}."""
    found = {}
    for path in paths[:: 1 + len(paths) // JUDGED]:
        with contextlib.suppress(Exception), _open(path, 64) as (image, _):  # what is wrong is said later
            for _ in _pages(image):
                if _kind(image) != "8-bit" or _alpha(image) is None:
                    levels = extremes(_levels(image, _tags(image)))
                    found.setdefault(_kind(image), []).append(levels)
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
        if np.isinf(values).any():
            raise ValueError("infinity among its levels")
        return values
    values = values.astype(np.int64)
    if tags.get("bits") == 32 and tags["unsigned"]:  # which Pillow takes for signed
        values %= 2**32
    if tags.get("white is zero"):  # which Pillow sees to up to 8 bits
        values = 2 ** tags["bits"] - 1 - values
    return values


def _alpha(image):
    """What of a PIL image is there, 255, or transparent, 0: of mode "L", or None where all is there."""
    level = image.info.get("transparency")
    if _kind(image) != "8-bit":  # one level stands for nothing
        return None if level is None else Image.fromarray(np.uint8(255) * (np.asarray(image) != level))
    if level is not None or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        alpha = image.convert("RGBA").getchannel("A")
        return alpha if alpha.getextrema()[0] < 255 else None
    return None


def _to_gray(image, invert, ranges, tags):
    """A PIL image of mode "L". What is transparent becomes paper."""
    levels, alpha = _levels(image, tags), _alpha(image)
    black, white = ranges.get(_kind(image)) or find_range(*zip(extremes(levels), strict=True))
    if alpha is not None and _kind(image) == "8-bit":
        black, white = 0, 255
    gray = Image.fromarray(
        levels if (black, white) == (0, 255) and levels.dtype == np.uint8 else to_uint8(levels, black, white)
    )
    if invert:
        gray = ImageOps.invert(gray)
    return gray if alpha is None else ImageChops.multiply(gray, alpha)


# Files and sizes


@contextlib.contextmanager
def _open(path, enough, mode="L"):
    """The PIL image in a file and its size. Of a JPEG no more pixels are decoded than ``enough``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd but harmless metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=FORMATS) as image:
            size = image.size
            image.draft(mode, (enough, enough))  # in this mode, and no larger than need be: JPEG alone
            yield image, size


def _pages(image):
    """Stand at each page of a TIFF in turn, but for smaller copies of them; at the first frame of others."""
    for number in range(image.n_frames if image.format == "TIFF" else 1):
        image.seek(number)
        if number == 0 or not image.tag_v2.get(254, 0) & 1:
            yield number


def _shrink(gray, side):
    """The PIL image resized so that the longer of its sides has ``side`` pixels, none less than one."""
    scale = side / max(gray.size)
    width, height = (max(1, round(length * scale)) for length in gray.size)
    return gray.resize((width, height), Image.Resampling.LANCZOS)
