"""How every picture of the project is made: grids of images, curves, one palette, whole files only."""

import contextlib
import io
import os
import re
import sys
import warnings

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from support.errors import UserError
from support.files import write_file

SOFTWARE = "ConvVAE, generate.py"  # in each of save_images' PNGs: those of others are never replaced

# Ten colours that stay apart in print and for most colour-blind readers; the first two lead.
PALETTE = [
    "#3b6fb6", "#e07b39", "#4a9d5b", "#c8434f", "#8561a8",
    "#8c6249", "#d672b0", "#6f7882", "#b5a31f", "#2fa6b5",
]  # fmt: skip
SHADES = ((0.5, 0), (0.45, 255))  # for more than ten: so much of each, the rest black, then white
INK, FAINT = "#22262b", "#d9dde2"


def palette(count):
    """``count`` colours "#rrggbb": PALETTE, then darker and lighter shades of it, then all of them again."""
    colors = list(PALETTE)
    for share, rest in SHADES:
        for color in PALETTE:
            mixed = [round(share * value + (1 - share) * rest) for value in ImageColor.getrgb(color)]
            colors.append("#{:02x}{:02x}{:02x}".format(*mixed))
    return [colors[i % len(colors)] for i in range(count)]


def to_pixels(images):
    """Images (N, 1, 28, 28) in [0, 1] -> uint8 numpy (N, 28, 28)."""
    return (images[:, 0].detach().cpu() * 255).round().byte().numpy()


def grid(images, nrow, scale=2, gap=1):
    """A PIL image of (N, 1, 28, 28) in [0, 1], or of any other size, white on black, ``nrow`` in a row.

    ``scale`` repeats every pixel, so that what is seen is what the model drew.
    """
    nrow = min(nrow, len(images))
    missing = -len(images) % nrow  # in the last row
    cells = np.pad(to_pixels(images), [(0, missing), (gap, gap), (gap, gap)])  # (rows * nrow, cell, cell)
    cell = cells.shape[1]
    rows = cells.reshape(-1, nrow, cell, cell).swapaxes(1, 2)  # (rows, cell, nrow, cell)
    canvas = rows.reshape(-1, nrow * cell)
    return Image.fromarray(canvas.repeat(scale, 0).repeat(scale, 1))


def pairs(x, recon):
    """A grid of images x (N, 1, 28, 28) in rows of eight, each above the row of its reconstructions."""
    nrow = min(8, len(x))
    black = x.new_zeros(-len(x) % nrow, *x.shape[1:])  # fills up the last row
    x, recon = (torch.cat([images, black]).unflatten(0, (-1, nrow)) for images in (x, recon))
    return grid(torch.stack([x, recon], dim=1).flatten(0, 2), nrow)  # (rows, 2, nrow, ...) -> (N, ...)


def labelled(images, rows, columns):
    """A grid with a row for each of ``rows`` and an image for each of ``columns``, with these names."""
    body = grid(images, len(columns))
    cell, font = body.width // len(columns), ImageFont.load_default(16)
    left, top = cell, cell // 2
    canvas = Image.new("L", (left + body.width, top + body.height), 255)
    canvas.paste(body, (left, top))
    draw = ImageDraw.Draw(canvas)
    for i, name in enumerate(rows):
        draw.text((left - 8, top + (i + 0.5) * cell), name, 0, font, anchor="rm")
    for i, name in enumerate(columns):
        draw.text((left + (i + 0.5) * cell, top / 2), name, 0, font, anchor="mm")
    return canvas


def png_bytes(image, software=None):
    """A PIL image as the content of a PNG file, with a note of the ``software`` that made it."""
    note = PngInfo()
    if software:
        note.add_text("Software", software)
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True, pnginfo=note)
    return buffer.getvalue()


def save_png(path, image):
    """Write a PIL image as a PNG file."""
    write_file(path, png_bytes(image))


def save_images(folder, images):
    """Write images (N, 1, 28, 28) as single PNGs, 00000.png and so on, in place of those written earlier."""
    earlier = earlier_images(folder)
    new = [folder / f"{i:05d}.png" for i in range(len(images))]
    for file, pixels in zip(new, to_pixels(images), strict=True):
        write_file(file, png_bytes(Image.fromarray(pixels), SOFTWARE))
    for file in set(earlier) - set(new):  # last of all, in case the disk is full
        file.unlink()


def earlier_images(folder):
    """The files that save_images left in a folder. Raises UserError if others' are there by such a name."""
    found = sorted(file for file in folder.glob("*.png") if re.fullmatch(r"\d{5,}", file.stem))
    for file in found:
        with Image.open(file, formats=["PNG"]) as image:
            if image.info.get("Software") != SOFTWARE:
                raise UserError(f"{file} is not an image of ours: pass another folder to --save-images")
    return found


def save_gif(path, frames, milliseconds):
    """Write PIL images as a looping GIF, each shown for its number of ``milliseconds``."""
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "gif", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=True
    )
    write_file(path, buffer.getvalue())


def save_film(path, grids):
    """Write a GIF of the grids in PNG files, the last one held for a while."""
    # 50 at most, and most of them early ones, because that is when most changes
    chosen = sorted({round((len(grids) - 1) * step**2) for step in np.linspace(0, 1, 50)})
    # a quarter of the pixels and 16 grays: small enough to put into a README
    frames = [
        Image.open(grids[i], formats=["PNG"]).reduce(2).point(lambda level: round(level / 17) * 17)
        for i in chosen
    ]
    save_gif(path, frames, [120] * (len(frames) - 1) + [2500])


def new_figure(width, height):
    """A matplotlib figure in the project's style: ``(figure, axes)``. It needs no display."""
    # A notebook passes its backend on to every command it starts. We need none, and it may not be here.
    backend, known = os.environ.pop("MPLBACKEND", None), "matplotlib" in sys.modules
    import matplotlib  # here, not above: half a second not every script needs
    from matplotlib.figure import Figure

    if backend is not None:  # the notebook's own, where it runs us
        os.environ["MPLBACKEND"] = backend
        if not known:  # for matplotlib looks there once, when it is imported
            with contextlib.suppress(ValueError):  # no backend of this name
                matplotlib.rcParams["backend"] = backend

    warnings.filterwarnings("ignore", "Glyph")  # of a class's name that the font lacks: it shows boxes
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=11)
    return figure, axes


def plain(name):
    """A class's name as matplotlib shows it as it is: no formula, and not left out of the legend."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def save_figure(path, figure, dpi=200):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    # 256 colours: a third of the bytes, and looks the same
    save_png(path, Image.open(buffer).convert("RGB").quantize(256))


def loss_curves(history, test_split):
    """A figure of train and test loss against the epoch, from train.py's rows of metrics.

    ``test_split`` is what the second is called, since --validate tests on another split.
    """
    figure, axes = new_figure(7, 4.2)
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(history) < 3 else None  # a single epoch makes no line
    for key, name, color in (("train", "train", PALETTE[0]), ("test", test_split, PALETTE[1])):
        loss = [row[f"{key}_loss"] for row in history]
        axes.plot(epochs, loss, color=color, lw=2, marker=marker, label=f"{name} {loss[-1]:.2f}")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if len(history) >= 10:  # the first epochs fall from several hundred nats and would flatten the rest
        low, high = min(row["train_loss"] for row in history), history[len(history) // 10]["test_loss"]
        axes.set_ylim(min(low, history[-1]["test_loss"]) - 0.1 * (high - low), high + 0.1 * (high - low))
    axes.set_xlabel("epoch", color=INK, fontsize=12)
    axes.set_ylabel("loss, nats per image", color=INK, fontsize=12)
    axes.grid(color=FAINT, lw=0.7)
    axes.legend(frameon=False, fontsize=12, labelcolor=INK)
    return figure
