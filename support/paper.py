"""The ink of a digit on a photographed page, without its paper and what else is in the picture."""

import numpy as np
from PIL import Image
from scipy import ndimage

from support.images import PHOTO, shrink

WIDE = 0.4  # of the picture's longer side: what is wider is no stroke but a shadow or a desk
DIM = 64  # levels: no paper gives less light
HARDLY = 0.12  # of the paper's light: ink takes more of it away,
NOISE = 10  # and more than so many times what noise mostly does
SHARES = (0.25, 0.4, 0.55)  # of the darkest ink: what is fainter is paper, or if need be lines on it
ALONG = 0.002  # of 1 in the middle: what touches the border and is farther out is a desk or a frame
SPECK = 0.03  # of the ink of a digit's main piece: its other pieces have more,
GAP = 0.25  # of that piece's height or breadth: and are no farther off, as the bar of a five
ANOTHER = 2  # times as large or small: farther off that is another digit, beyond that a frame or specks
BROAD = 1.5  # times as broad as high: no digit is
SMALL = 1 / 20  # of the picture's longer side: digits are larger


def center(gray, size):
    """The ink of a digit, placed as MNIST's are: scaled to a box of 20 x 20 pixels in 28 x 28, or to as much
    of ``size``, with its centre of mass in the middle.

    Returns a PIL image of the ink, the corner where it belongs, and what is doubtful, in words.
    """
    gray.thumbnail((PHOTO * size, PHOTO * size), Image.Resampling.BOX)  # means of many pixels each
    ink, doubts = ink_alone(gray)
    small = shrink(ink.crop(ink.getbbox()), round(size * 20 / 28))
    mass = np.asarray(small, float)
    total = max(mass.sum(), 1)  # a blank page has none
    x, y = (mass.sum(0) @ np.arange(small.width)) / total, (mass.sum(1) @ np.arange(small.height)) / total
    return small, (round(size / 2 - x), round(size / 2 - y)), doubts  # at pixel 14 of 0 to 27, as in MNIST


def ink_alone(gray):
    """Light ink on dark paper, a PIL image of mode "L" -> the ink of the digit in the middle, from 0 to 255.

    Returns an image of the same size, all 0 for a blank page, and a list of what is doubtful about it.
    """
    pixels, side = np.asarray(gray, float), max(gray.size)
    smooth = ndimage.median_filter(pixels, 3)
    width = round(WIDE * side) | 1
    level = np.pad(smooth, width, mode="symmetric")
    level = ndimage.grey_opening(level, (width, width))[width:-width, width:-width]
    light = (255 - level).clip(DIM)  # of the paper about each pixel
    ink = (pixels - level).clip(0) / light
    least = max(HARDLY, NOISE * np.median(abs(pixels - smooth) / light))
    tries = [_middle(ink, share, least) for share in SHARES]
    digit, at_border, others = min(tries, key=lambda found: found[1])  # the first off the border, if any is
    height, breadth = (np.ptp(where) + 1 if len(where) else 0 for where in np.nonzero(digit))
    if max(height, breadth) < SMALL * side:
        return Image.new("L", gray.size), ["hardly any ink"]
    doubts = ["the ink reaches the border"] if at_border else []
    if others or breadth > BROAD * height + 2:  # and a pixel at either end
        doubts.append("several digits")
    ink = np.where(digit, 255 * ink / ink[digit].max(), 0)
    return Image.fromarray(ink.round().astype(np.uint8)), doubts


def _middle(ink, share, least):
    """Where the digit in the middle has ink that is darker than this share of its darkest: bool (H, W).

    Returns it, whether it touches the border, and whether there are others.
    """
    middle = np.outer(*(np.hanning(side + 2)[1:-1] ** 2 for side in ink.shape))  # 1, and 0 at the border
    darkest = ink.max()
    for _ in range(2):  # then without what was darker than the digit
        pieces, count = ndimage.label(ink > max(share * darkest, least), np.ones((3, 3)))
        numbers = np.arange(1, count + 1)
        at_border = np.isin(numbers, np.concatenate([*pieces[[0, -1]], *pieces[:, [0, -1]].T]))
        mass = ndimage.sum(ink, pieces, numbers)
        near = ndimage.mean(middle, pieces, numbers)
        score = mass * near * np.where(at_border, 0.1 * (near > ALONG), 1)
        if not score.any():
            return pieces < 0, False, False
        main = score.argmax()
        good = (mass > SPECK * mass[main]) & (at_border <= at_border[main])
        solid = np.append(False, good)[pieces]
        reach = GAP * _extents(pieces)[main]
        groups, _ = ndimage.label(ndimage.distance_transform_edt(~solid) <= reach / 2)
        own = groups[pieces == main + 1][0]
        digit = solid & (groups == own)
        darkest = ink[digit].max()
    extents = _extents(groups) / _extents(groups)[own - 1]
    return digit, at_border[main], ((extents > 1 / ANOTHER) & (extents < ANOTHER)).sum() > 1


def _extents(labels):
    """The height or the breadth, whichever is larger, of what is labelled 1, 2, ..."""
    return np.array([max(along.stop - along.start for along in box) for box in ndimage.find_objects(labels)])
