"""A picture of any kind as the images that models are trained on: gray, square, small, ink on black paper.

A picture is the path of a file, a File of a table, or an array of levels: (H, W), or (H, W, 3) in colour.
"""

import contextlib
import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps

from support.errors import DataError, reason_of
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
JUDGED = 200  # pictures of many, by which the range of levels is judged
# the whitest level of what people save: 0 and 1, 0 to 16, then 8, 10, 12, 14, 15, 16, 31 and 32 bits
WHITES = (1, 16, 255, 1023, 4095, 16_383, 32_767, 65_535, 2**31 - 1, 2**32 - 1)
FEW = 12  # images that may well be dark, all of them
OVERSHOOT = 1.04  # floats that were resized go a little beyond their range
GRAY = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R 601


class Sample(NamedTuple):
    """A picture of a data set."""

    picture: object  # a file's path, a File or an array of levels
    name: str | None  # its class's
    key: bytes  # by whose hash it is held out, or not


class File(NamedTuple):
    """A picture's file that stands in a table."""

    content: bytes
    place: str  # in words

    def __str__(self):
        return self.place


def read_images(pictures, size, invert=False, center=None, skip_bad=False, alike=None):
    """The images in these pictures: uint8 (N, 1, size, size), the numbers of their pictures, and notes.

    The notes say what was read and assumed. Levels are judged over the pictures ``alike``, which are all of
    the same origin. With ``skip_bad`` files that cannot be read are left out and counted in a warning.
    Raises DataError.
    """
    ranges = find_ranges(alike or pictures)
    images, numbers, sizes, bad, remarks = [], [], set(), [], {}
    for number, picture in enumerate(progress(pictures, desc="reading", unit="img")):
        try:
            frames, shape, found = read_image(picture, size, invert, center, ranges)
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
        for words in found:
            remarks.setdefault(words, []).append(picture)
    if bad:
        warn(f"left out {len(bad):,} of {len(pictures):,} files; {bad[0]}")
    if not images:
        raise DataError("none of the files could be read: name others")
    for words, found in remarks.items():
        warn(f"{words} in {len(found):,} of {len(pictures):,} pictures, {found[0]} among them: look at it")
    images = torch.stack(images)
    own = [pictures[number] for number in numbers]
    names = [f"image {i}" if isinstance(picture, np.ndarray) else picture for i, picture in enumerate(own)]
    small, large = (f"{width} x {height}" for width, height in (min(sizes), max(sizes)))
    note = f"pictures of {small if small == large else f'{small} to {large}'} pixels, read as {size} x {size}"
    if any(_is_colour(picture) for picture in own[:: 1 + 10 * len(own) // JUDGED]):
        note += ", and colours as gray"
    return images, numbers, [note, _level_note(images, names, ranges, invert)]


def read_image(picture, size, invert=False, center=None, ranges=None):
    """A picture as a model wants it: a list of uint8 (1, size, size), more than one of a TIFF.

    Returns them, the width and height they had, and what is to be looked at, in words. Raises DataError,
    which names the file, if it is no picture, truncated, or a decompression bomb to Pillow.
    """
    ranges, frames, remarks = ranges or find_ranges([picture]), [], []
    try:
        for page in read_pages(picture, (PHOTO if center else 2) * size):
            pixels, doubts = prepare(page, size, invert, center, ranges)
            frames.append(pixels)
            remarks += doubts
        remarks += ["frames after the first are left out"] if page.is_first else []
        return frames, page.size, remarks
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever a broken file makes its readers raise
        reason, how = reason_of(error), "mend it"
        if isinstance(error, (Image.DecompressionBombWarning, Image.DecompressionBombError)):
            reason, how = "too many pixels", "shrink it"
        if isinstance(error, Image.UnidentifiedImageError):
            reason, how = "unknown kind of image", "convert it to PNG, or mend it"
            if Path(str(picture)).suffix.lower() in (".tif", ".tiff"):  # of which Pillow knows some
                how = "save it with 8 or 16 bits, or as float32, or mend it"
        raise DataError(f"{picture} cannot be read ({reason}): {how}") from None


def prepare(page, size, invert=False, center=None, ranges=None):
    """A Page -> uint8 (1, size, size), gray, padded to a square, antialiased; and what is doubtful, in words.

    ``invert`` is for dark ink on light paper; ``center`` is support.paper.center, which places the ink.
    """
    gray = _to_gray(page, ranges or {}, invert)
    if center:
        small, corner, doubts = center(gray, size)
    else:
        small, doubts = shrink(gray, size), []
        corner = ((size - small.width) // 2, (size - small.height) // 2)
    canvas = Image.new("L", (size, size))
    canvas.paste(small, corner)
    return torch.from_numpy(np.array(canvas))[None], doubts


def shrink(gray, side):
    """The PIL image resized so that the longer of its sides has ``side`` pixels, none less than one."""
    scale = side / max(gray.size)
    width, height = (max(1, round(length * scale)) for length in gray.size)
    return gray.resize((width, height), Image.Resampling.LANCZOS)


# What was read


def blank(images):
    """Which of the images (N, 1, H, W) are of a single gray level: bool (N,)."""
    return (images == images[:, :, :1, :1]).flatten(1).all(1)


def on_light_ground(images):
    """Which of the images (N, 1, H, W) are on light ground: bool (N,)."""
    return _edges(images).float().mean(dim=1) > LIGHT


def needs_inverting(pictures):
    """Whether most of these pictures are dark ink, on light paper or on nothing."""
    ranges, dark_ink, side = find_ranges(pictures), 0, 32
    border = np.ones((side, side), bool)
    border[4:-4, 4:-4] = False
    for picture in pictures:
        page = next(read_pages(picture, 64))
        gray = _to_gray(page, ranges)
        alpha = page.alpha or Image.new("L", gray.size, 255)
        gray, alpha = (np.asarray(layer.resize((side, side)), float) for layer in (gray, alpha))
        paper = alpha.mean() > 128
        where = border if paper and alpha[border].any() else np.ones_like(border)
        level = 255 * gray[where].sum() / max(alpha[where].sum(), 1)
        dark_ink += level > LIGHT if paper else level < 128 and alpha.any()
    return dark_ink > len(pictures) / 2


def _edges(images):
    return torch.cat([images[:, 0, 0], images[:, 0, -1], images[:, 0, :, 0], images[:, 0, :, -1]], dim=1)


def _is_colour(picture):
    if isinstance(picture, np.ndarray):
        return picture.ndim == 3 and (picture != picture[:, :, :1]).any()
    with _open(picture) as image:
        image.draft("RGB", (64, 64))
        if image.mode not in ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"):
            return image.mode == "LAB"
        return np.ptp(np.asarray(image.convert("RGB").resize((32, 32)), int), axis=2).max() > COLOURED


def _level_note(images, names, ranges, invert):
    """The ground, the levels and the blank images, in words; a warning of what is blank or nearly black."""
    low, high = images.min().item(), images.max().item()
    note = f"ground {_edges(images).median().item()} of 255, darkest level {low}, brightest {high}"
    for kind, (black, white) in ranges.items():
        if (black, white) != (0, 255) or kind in ("integer", "float"):
            note += f"; of {kind} pictures {black:.6g} is taken for black and {white:.6g} for white"
    empty, brightest = blank(images), images.amax((1, 2, 3))
    where, dark = (which.nonzero().flatten().tolist() for which in (empty, (brightest < DARK) & ~empty))
    if where:
        some, other = f"{names[where[0]]} among them", "without --invert" if invert else "with --invert"
        note += f"; {len(where):,} blank, {some}"
        warn(f"{len(where):,} of the images are blank, {some}: try {other}")
    if dark:
        what = f"{len(dark):,} of the images are nearly black, {names[dark[0]]} among them"
        warn(f"{what}, with no level above {brightest[dark[0]]} of 255: check how they were saved")
    return note


# Levels


def find_ranges(pictures):
    """The levels that are black and white in pictures of each kind: {kind: (black, white)}."""
    found = {}
    for picture in pictures[:: 1 + len(pictures) // JUDGED]:
        with contextlib.suppress(Exception):  # what is wrong is said later
            for page in read_pages(picture, 64):
                if page.kind != "8-bit" or page.alpha is None:
                    found.setdefault(page.kind, []).append(_extremes(page.levels))
    return {kind: _find_range(*zip(*own, strict=True)) for kind, own in found.items()}


def _to_gray(page, ranges, invert=False):
    """A Page as a PIL image of mode "L". What is transparent becomes paper."""
    black, white = ranges.get(page.kind) or _find_range(*zip(_extremes(page.levels), strict=True))
    if page.alpha and page.kind == "8-bit":
        black, white = 0, 255
    gray = Image.fromarray(_to_uint8(page.levels, black, white))
    if invert:
        gray = ImageOps.invert(gray)
    return ImageChops.multiply(gray, page.alpha) if page.alpha else gray


def _extremes(values):
    """The lowest and the highest of an array of levels, a few of them aside: no single pixel decides."""
    values = np.sort(np.nan_to_num(values), axis=None)
    spared = min(1 + values.size // 2000, values.size // 4)
    return values[spared], values[len(values) - 1 - spared]


def _find_range(lows, highs):
    """The levels that stand for black and for white, from the extremes of many images: ``(black, white)``.

    One image in twenty may go beyond it. What uses less than half of a range has one of its own.
    """
    spared = len(lows) // 20
    low, high = np.sort(lows)[spared], np.sort(highs)[len(highs) - 1 - spared]
    if low < -0.02 * max(1, high):  # -1 to 1, or standardised
        return (-1, 1) if -1.1 < low < -0.9 and high < 1.1 else (float(low), float(max(high, low + 1e-6)))
    beyond = OVERSHOOT if np.issubdtype(np.asarray(highs).dtype, np.floating) else 1
    white = next((white for white in WHITES if high <= white * beyond), high)
    own = 0 < high <= white / 2 and (white not in (1, 255) or len(highs) >= FEW)
    return 0, float(high) if own else white


def _to_uint8(values, black, white):
    """An array of levels, of any shape and type -> uint8, 0 where it is black and 255 where it is white."""
    if values.dtype == np.uint8 and (black, white) == (0, 255):
        return values
    scaled = (np.nan_to_num(values.astype(np.float64)) - black) * (255 / (white - black))
    return scaled.clip(0, 255).round().astype(np.uint8)


# Files


class Page(NamedTuple):
    """A picture, or one of several in a file, as it stands there."""

    levels: np.ndarray  # (H, W), in units of their own
    alpha: Image.Image | None  # mode "L": what is there, 255, or transparent, 0; None where all is there
    kind: str  # by which levels are judged: "8-bit", "integer" or "float"; of an array, its type
    size: tuple  # width and height in the file
    is_first: bool = False  # of several frames of an animation


def read_pages(picture, enough=None):
    """Each Page of a TIFF, but for smaller copies of them; the first frame of other files.

    Of a JPEG no more pixels are decoded than ``enough``.
    """
    if isinstance(picture, np.ndarray):
        levels = picture @ GRAY if picture.ndim == 3 else picture
        yield Page(levels, None, picture.dtype.name, picture.shape[1::-1])
        return
    with _open(picture) as image:
        size = image.size
        if enough:
            image.draft("L", (enough, enough))  # in gray, and no larger than need be
        for number in range(image.n_frames if image.format == "TIFF" else 1):
            image.seek(number)
            if number == 0 or not image.tag_v2.get(254, 0) & 1:
                ImageOps.exif_transpose(image, in_place=True)
                yield to_page(image)._replace(size=size)


@contextlib.contextmanager
def _open(file):
    """The PIL image in a file, which is a path or a File."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd but harmless metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        source = io.BytesIO(file.content) if isinstance(file, File) else file
        with Image.open(source, formats=FORMATS) as image:
            yield image


def to_page(image):
    """A PIL image of any mode as a Page."""
    kind = "float" if image.mode == "F" else "integer" if image.mode.startswith("I") else "8-bit"
    # a phone's MPO has a preview or a map of the light beside its picture
    is_first = image.format not in ("TIFF", "MPO") and getattr(image, "n_frames", 1) > 1
    return Page(_levels(image, kind), _alpha(image, kind), kind, image.size, is_first)


def _levels(image, kind):
    """The levels of a PIL image, (H, W), in their own units."""
    if kind == "8-bit":
        return np.asarray(image.getchannel("L") if image.mode == "LAB" else image.convert("L"))
    values = np.asarray(image)
    if kind == "float":
        if np.isinf(values).any():
            raise ValueError("infinity among its levels")
        return values
    values, tags = values.astype(np.int64), getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(258, (8,))[0]
    if bits == 32 and tags.get(339) == (1,):  # unsigned, which Pillow takes for signed
        values %= 2**32
    if tags.get(262) == 0:  # 0 is white, which Pillow sees to up to 8 bits
        values = 2**bits - 1 - values
    return values


def _alpha(image, kind):
    """What of a PIL image is transparent, as a Page has it."""
    if kind != "8-bit":  # one level stands for nothing
        level = image.info.get("transparency")
        return None if level is None else Image.fromarray(np.uint8(255) * (np.asarray(image) != level))
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    return alpha if alpha and alpha.getextrema()[0] < 255 else None
