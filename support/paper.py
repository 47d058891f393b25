"""The ink of a digit on a photographed page, without its paper and what else is in the picture."""

import numpy as np
from PIL import Image
from scipy import ndimage

WIDE = 1 / 3  # of the picture's longer side: what is wider is no stroke but a shadow or a desk
HARDLY = 0.12  # of the paper's light: ink takes more of it away
NOISE = 10  # times its median: it hardly ever goes beyond that
SHARES = (0.25, 0.4, 0.55)  # of the darkest ink: what is fainter is paper, or if need be lines on it
SPECK = 0.03  # of the digit's largest piece: what has less ink is no piece of it
GAP = 0.2  # of that piece's height or width: others, such as the bar of a five, are no farther off
ANOTHER = 0.3  # of the digit's ink: what has more of it farther off is another digit
BROAD = 1.5  # times its height: no digit is broader


def ink_alone(gray):
    """Light ink on dark paper, a PIL image of mode "L" -> the ink of the digit in the middle, from 0 to 255.

    Returns it, an image of the same size that is all 0 for a blank page, and a list of what is doubtful.
    """
    pixels = np.asarray(gray, float)
    smooth = ndimage.median_filter(pixels, 3)
    width = round(WIDE * max(pixels.shape)) | 1
    paper = ndimage.grey_opening(np.pad(smooth, width, mode="edge"), width)[width:-width, width:-width]
    ink, noise = ((change / (256 - paper)).clip(0) for change in (pixels - paper, abs(pixels - smooth)))
    least = max(HARDLY, NOISE * np.median(noise))
    tries = [_middle(ink, share, least) for share in SHARES]
    digit, at_border, others = min(tries, key=lambda found: found[1])  # the first that ends within the page
    digit = ndimage.binary_dilation(digit, np.ones((3, 3))) & (
        ink > SHARES[0] * ink.max(where=digit, initial=0)
    )
    if not digit.any():
        return Image.new("L", gray.size), ["hardly any ink"]
    rows, columns = np.nonzero(digit)
    doubts = {
        "the ink reaches the border": at_border,
        "several digits": others or np.ptp(columns) > BROAD * np.ptp(rows) + 2,
    }
    ink = np.where(digit, ink / ink[digit].max(), 0)
    return Image.fromarray((255 * ink).round().astype(np.uint8)), [
        words for words, holds in doubts.items() if holds
    ]


def _middle(ink, share, least):
    """What is at least this share as dark as the digit in the middle, and belongs to it: bool (H, W).

    Returns it, whether it touches the border, and whether there are more such digits.
    """
    middle = np.outer(*(np.hanning(side + 2)[1:-1] ** 2 for side in ink.shape))  # 1, and towards the border 0
    darkest = ink.max()
    for _ in range(2):  # then without what was darker than the digit
        pieces, count = ndimage.label(ink > max(share * darkest, least), np.ones((3, 3)))
        if not count:
            return pieces > 0, False, False
        numbers = np.arange(1, count + 1)
        at_border = np.isin(numbers, np.concatenate([pieces[0], pieces[-1], *pieces[:, [0, -1]].T]))
        mass = ndimage.sum(ink, pieces, numbers)
        main = (ndimage.sum(ink * middle, pieces, numbers) * np.where(at_border, 0.1, 1)).argmax()
        good = (mass > SPECK * mass[main]) & (at_border <= at_border[main])
        solid = np.append(False, good)[pieces]
        extent = max(np.ptp(where) + 1 for where in np.nonzero(pieces == main + 1))
        groups, _ = ndimage.label(ndimage.distance_transform_edt(~solid) <= GAP * extent / 2)
        own = groups[pieces == main + 1][0]
        digit = solid & (groups == own)
        darkest = ink[digit].max()
    masses = ndimage.sum(ink * solid, groups, range(1, groups.max() + 1))
    return digit, at_border[main], (masses > ANOTHER * masses[own - 1]).sum() > 1
