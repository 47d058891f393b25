"""A picture of any kind as the images that models are trained on: gray, square, small, ink on black paper."""

import contextlib
import warnings

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps

from support.errors import DataError
from support.terminal import progress, warn

PHOTO = 4  # times the model's side: enough to find a digit in a photograph, and too coarse for its noise
LIGHT = 160  # a border lighter than this is paper
FAINT = 0.25  # of the darkest ink: what is fainter is paper, in a photographed digit


def read_images(paths, size, invert=False, center=False, skip_bad=False):
    """The pictures in these files: uint8 (N, 1, size, size), the numbers of their files, and their sizes.

    With ``skip_bad`` files that cannot be read are left out and counted in a warning.
    """
    images, kept, sizes, bad = [], [], [], []
    for number, path in enumerate(progress(paths, desc="reading", unit="img")):
        try:
            image, shape = read_image(path, size, invert, center)
        except DataError as error:
            if not skip_bad:
                raise DataError(f"{error}: mend it, or see --skip-bad of train.py and encode.py") from None
            bad.append(error)
            continue
        images.append(image)
        kept.append(number)
        sizes.append(shape)
    if bad:
        warn(f"left out {len(bad):,} of {len(paths):,} files; {bad[0]}")
    stacked = torch.stack(images) if images else torch.empty(0, 1, size, size, dtype=torch.uint8)
    return stacked, kept, sizes


def read_image(path, size, invert=False, center=False):
    """The picture in a file as a model wants it: uint8 (1, size, size), and the width and height it had.

    Raises DataError, which names the file, if Pillow cannot read it or takes it for a decompression bomb.
    """
    try:
        with _open(path, (PHOTO if center else 2) * size) as (image, shape):
            pixels = prepare(ImageOps.exif_transpose(image), size, invert, center)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever a broken file makes its readers raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read ({reason})") from None
    return pixels, shape


def prepare(image, size, invert=False, center=False):
    """A PIL image of any mode and size -> uint8 (1, size, size): gray, padded to a square, antialiased.

    ``invert`` is for dark ink on light paper. ``center`` places it as MNIST's digits were: scaled
    to a box of 20 x 20 pixels in 28 x 28, with its centre of mass in the middle.
    """
    gray = _to_gray(image, invert)
    if not center:
        small = _shrink(gray, size)
        corner = ((size - small.width) // 2, (size - small.height) // 2)
    else:
        gray.thumbnail((PHOTO * size, PHOTO * size), Image.Resampling.BOX)  # means of many pixels each
        ink = _without_paper(gray)
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


def looks_light(paths):
    """Whether most of the pictures in these files have light borders, as dark ink on light paper has."""
    light = 0
    for path in paths:
        with _open(path, 64) as (image, _):
            small = np.asarray(_to_gray(image, False).resize((8, 8), Image.Resampling.BOX))
        light += np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]]).mean() > LIGHT
    return light > len(paths) / 2


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


def _to_gray(image, invert):
    """A PIL image of mode "L". What is transparent becomes paper: 0."""
    if image.mode == "F" or image.mode.startswith("I"):  # more than 8 bits, which Pillow would cut off
        values = np.nan_to_num(np.asarray(image, np.float32))
        top = 65_535 if image.mode != "F" else 1 if values.max() <= 1 else 255
        image = Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))
    gray = image.getchannel("L") if image.mode == "LAB" else image.convert("L")
    if invert:
        gray = ImageOps.invert(gray)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        gray = ImageChops.multiply(gray, image.convert("RGBA").getchannel("A"))
    return gray


def _shrink(gray, side):
    """The PIL image resized so that the longer of its sides has ``side`` pixels, none less than one."""
    scale = side / max(gray.size)
    width, height = (max(1, round(length * scale)) for length in gray.size)
    return gray.resize((width, height), Image.Resampling.LANCZOS)


def _without_paper(gray):
    """The ink alone, from black paper (0) to the full strength of 255: what --center can weigh."""
    pixels = np.asarray(gray, float)
    ink = (pixels - np.median(pixels)).clip(0)  # most of a page is paper
    ink /= max(ink.max(), 1)
    ink[ink < FAINT] = 0
    return Image.fromarray((255 * ink).round().astype(np.uint8))
