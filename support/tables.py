"""Tables: CSV as arrays of images and labels, and the columns of parquet."""

import contextlib
import csv
import gzip
import math
import warnings
from collections import Counter

import numpy as np

from support.errors import DataError
from support.terminal import progress

LABELS = ("labels", "label", "y", "targets", "target", "classes", "class", "arr1")  # the likeliest first
ROW_NAMES = ("", "id", "index", "unnamed: 0")  # columns that number the rows


def read_csv(path):
    """A row for each image -> {"images": (N, pixels), "labels": (N,) or none}, and what was assumed.

    Raises DataError where there is no row, and where rows differ in length or have text for a pixel.
    """
    rows = _read_rows(path)
    first, second = (row.split("\t") for row in [*rows.values(), "", ""][:2])
    # names may be numbers: pandas' own are 0, 1, 2, …, or 0, 0.1, 0.2, … where it took an image for names.
    # No two of them are equal, and pixels mostly are
    different = len(set(first)) == len(first) > 2 * len(set(second))
    header = different or sum(_number(cell) is None for cell in first) > 1
    names = [name.strip().lower() for name in first]
    others = [column for column, name in enumerate(names) if not header or name not in ROW_NAMES]
    if len(rows) == header or len(others) < 2:
        raise DataError(f"{path} has 0 images: add some, each a row with the levels of its pixels")

    def cells(column):
        return [row.split("\t")[column] for row in [*rows.values()][header:]]

    label = next((column for column, name in enumerate(names) if name in LABELS), None)
    if label is None and math.isqrt(len(others) - 1) ** 2 == len(others) - 1:
        label = min(others[0], others[-1], key=lambda column: _doubt(cells(column)))
    arrays = {"images": _numbers(path, rows, header, [column for column in others if column != label])}
    if label is not None:
        arrays["labels"] = np.array(cells(label))
        with contextlib.suppress(ValueError):
            arrays["labels"] = arrays["labels"].astype(float)
    place = "no label" if label is None else f"label in column {label + 1}"
    return arrays, ["with a header" if header else "no header", place]


def _read_rows(path):
    """The rows of a CSV that have something in them, {number of the line: cells with tabs between them}."""
    with open(path, "rb") as file:
        opener = gzip.open if file.read(2) == b"\x1f\x8b" else open
    rows, width = {}, None
    with opener(path, "rt", encoding="utf-8-sig") as file:
        sample = file.read(10_000)
        mark = next((mark for mark in ";\t," if mark in sample), " ")
        file.seek(0)
        reader = csv.reader(file, delimiter=mark, skipinitialspace=mark != " ")
        for row in progress(reader, desc="reading", unit="line"):
            if row and not row[-1].strip():  # a comma too many
                row.pop()
            if any(row):
                width = width or len(row)
                if len(row) != width:
                    here = f"{len(row)} cells in line {reader.line_num}"
                    raise DataError(f"{path} has {here}, and {width} in the first: mend it")
                rows[reader.line_num] = "\t".join(row).replace("\n", " ")
    return rows


def _numbers(path, rows, header, columns):
    options = {"comments": None, "delimiter": "\t", "usecols": columns, "ndmin": 2}
    for kind in (np.uint8, np.float32):  # levels are mostly of the former, which takes a tenth of the time
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # numpy 1 warns, and reads 300 as 44
            try:
                return np.loadtxt([*rows.values()][header:], kind, encoding=None, **options)
            except ValueError as error:
                reason, _, place = str(error).partition(" at row ")
    line = [*rows][header + int(place.split(",")[0])]
    raise DataError(f"{path} cannot be read as numbers ({reason[:100]}, in line {line}): mend it")


def _doubt(cells):
    """How much speaks against a column of labels: 0 of text, 1 of numbers, 2 of what pixels have.

    In a corner they are paper nearly everywhere, or of many levels.
    """
    counts = Counter(cells).values()
    pixels = max(counts) > 0.9 * len(cells) or len(counts) > min(100, len(cells) / 2)
    return 0 if _number(cells[0]) is None else 1 + pixels


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


def read_parquet(path):
    """The columns, {name: list of what is in its cells}. Raises DataError without pyarrow."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:  # not installed, or made for another numpy
        raise DataError(f"{path} needs pyarrow ({error}): pip install pyarrow") from None
    with ParquetFile(path) as file:
        return file.read().to_pydict()
