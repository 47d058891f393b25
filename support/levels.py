"""What levels mean: which of them are black and white in pictures and arrays of any type, judged over all."""

import numpy as np

# the whitest level of what people save: 0 and 1, 0 to 16, then 8, 10, 12, 14, 15, 16, 31 and 32 bits
WHITES = (1, 16, 255, 1023, 4095, 16_383, 32_767, 65_535, 2**31 - 1, 2**32 - 1)
FEW = 12  # images that may well be dark, all of them
OVERSHOOT = 1.04  # floats that were resized go a little beyond their range


def extremes(values):
    """The lowest and the highest of an array of levels, a few of them aside: no single pixel decides."""
    values = np.sort(np.nan_to_num(values), axis=None)
    spared = min(1 + values.size // 2000, values.size // 4)
    return values[spared], values[len(values) - 1 - spared]


def find_range(lows, highs):
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


def to_uint8(values, black, white):
    """An array of levels, of any shape and type -> uint8, 0 where it is black and 255 where it is white."""
    scaled = (np.nan_to_num(np.asarray(values, np.float64)) - black) * (255 / (white - black))
    return scaled.clip(0, 255).round().astype(np.uint8)
