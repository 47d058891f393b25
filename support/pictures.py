"""How every picture of the project is made: grids of images, curves, one palette, whole files only."""

import io
import math
import os
import re
import warnings

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from support.errors import UserError
from support.files import check_outputs, write_file

MARK = "ConvVAE, generate.py"  # in each of save_images' PNGs: those of others are never replaced

# Ten colours that stay apart in print and for most colour-blind readers; the first two lead.
PALETTE = [
    "#3b6fb6", "#e07b39", "#4a9d5b", "#c8434f", "#8561a8",
    "#8c6249", "#d672b0", "#6f7882", "#b5a31f", "#2fa6b5",
]  # fmt: skip
SHADES = ((0.5, 0), (0.45, 255))  # for more than ten: so much of each, the rest black, then white
INK, FAINT = "#22262b", "#d9dde2"


def palette(count):
    """``count`` colours: PALETTE, then darker and lighter shades of it, then all of them again."""
    colors = list(PALETTE)
    for share, rest in SHADES:
        for color in PALETTE:
            mixed = [round(share * value + (1 - share) * rest) for value in to_rgb(color)]
            colors.append("#{:02x}{:02x}{:02x}".format(*mixed))
    return [colors[i % len(colors)] for i in range(count)]


def to_rgb(color):
    """A colour "#rrggbb" -> three numbers from 0 to 255."""
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def to_pixels(images):
    """Images (N, 1, 28, 28) in [0, 1] -> uint8 numpy (N, 28, 28)."""
    return (images[:, 0].detach().cpu() * 255).round().byte().numpy()


def grid(images, nrow, scale=2, gap=1):
    """A PIL image of (N, 1, 28, 28) in [0, 1], or of any other size, white on black, ``nrow`` in a row.

    ``scale`` repeats every pixel, so that what is seen is what the model drew.
    """
    pixels = to_pixels(images)
    nrow = min(nrow, len(pixels))
    rows = math.ceil(len(pixels) / nrow)
    side = pixels.shape[1]
    cell = side + 2 * gap
    canvas = np.zeros((rows * cell, nrow * cell), np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // nrow * cell + gap, i % nrow * cell + gap
        canvas[top : top + side, left : left + side] = image
    return Image.fromarray(canvas.repeat(scale, 0).repeat(scale, 1))


def pairs(x, recon):
    """A grid of images x (N, 1, 28, 28) in rows of eight, each above the row of its reconstructions."""
    nrow = min(8, len(x))
    rows = []
    for part in zip(x.split(nrow), recon.split(nrow), strict=True):
        # the last row may be shorter: what is missing stays black
        rows += [torch.cat([row, row.new_zeros(nrow - len(row), *row.shape[1:])]) for row in part]
    return grid(torch.cat(rows), nrow)


def labelled(images, rows, columns, scale=2):
    """A grid with a row for each of ``rows`` and an image for each of ``columns``, with these names."""
    body = grid(images, len(columns), scale)
    cell, font = body.width // len(columns), ImageFont.load_default(8 * scale)
    left, top = cell, cell // 2
    canvas = Image.new("L", (left + body.width, top + body.height), 255)
    canvas.paste(body, (left, top))
    draw = ImageDraw.Draw(canvas)
    for i, name in enumerate(rows):
        draw.text((left - 4 * scale, top + (i + 0.5) * cell), name, 0, font, anchor="rm")
    for i, name in enumerate(columns):
        draw.text((left + (i + 0.5) * cell, top / 2), name, 0, font, anchor="mm")
    return canvas


def save_png(path, image, mark=None):
    """Write a PIL image as a PNG file; ``mark`` is a note in it of what wrote it."""
    note = PngInfo()
    if mark:
        note.add_text("Software", mark)
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True, pnginfo=note)
    write_file(path, buffer.getvalue())


def save_images(folder, images):
    """Write images (N, 1, 28, 28) as single PNGs, 00000.png and so on, in place of those written earlier."""
    earlier = earlier_images(folder)
    new = [folder / f"{i:05d}.png" for i in range(len(images))]
    for file, pixels in zip(new, to_pixels(images), strict=True):
        save_png(file, Image.fromarray(pixels), MARK)
    for file in set(earlier) - set(new):  # last of all, in case the disk is full
        file.unlink()


def earlier_images(folder):
    """What save_images left in a folder. Raises UserError if it cannot be written or holds others' images."""
    check_outputs(folder / "00000.png")
    found = sorted(file for file in folder.glob("*.png") if re.fullmatch(r"\d{5,}", file.stem))
    for file in found:
        try:
            with Image.open(file) as image:
                ours = image.info.get("Software") == MARK
        except (OSError, ValueError, SyntaxError):  # no picture at all
            ours = False
        if not ours:
            raise UserError(f"{file} is not an image of ours: pass another folder to --save-images")
    return found


def save_gif(path, frames, milliseconds):
    """Write PIL images as a looping GIF; ``milliseconds`` is one frame's time or a list of them."""
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "gif", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=True
    )
    write_file(path, buffer.getvalue())


def save_film(path, grids, most=50):
    """Write a GIF of the grids in PNG files: at most ``most`` of them, the last one held for a while.

    The early ones follow each other closely, because that is when most changes.
    """
    n = len(grids)
    chosen = sorted({round((n - 1) * (i / max(1, most - 1)) ** 2) for i in range(most)})
    # a quarter of the pixels and 16 grays: small enough to put into a README
    frames = [Image.open(grids[i]).reduce(2).quantize(16) for i in chosen]
    save_gif(path, frames, [120] * (len(frames) - 1) + [2500])


def new_figure(width, height):
    """A matplotlib figure in the project's style: ``(figure, axes)``. It needs no display."""
    # A notebook passes its backend on to every command it starts. We need none, and it may not be here.
    os.environ.pop("MPLBACKEND", None)
    from matplotlib.figure import Figure  # here, not above: half a second not every script needs

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


def part_labels(axes, labels):
    """Move matplotlib texts up and down until none of them lies on another."""
    if not labels:
        return
    axes.figure.draw_without_rendering()  # only then does a text have a place in pixels
    boxes = [label.get_window_extent() for label in labels]
    centers = np.array([[(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2] for box in boxes])  # (N, 2)
    sizes = np.array([[box.width, box.height] for box in boxes])
    reach = 1.1 * (sizes[:, None] + sizes) / 2  # (N, N, 2): how far apart two centres must be, either way
    order = np.arange(len(labels))
    for _ in range(1000):
        gap = centers[:, None] - centers
        overlap = (np.abs(gap) < reach).all(2) & (order[:, None] != order)
        if not overlap.any():
            break
        upwards = (gap[..., 1] > 0) | ((gap[..., 1] == 0) & (order[:, None] > order))
        centers[:, 1] += np.where(overlap, np.where(upwards, 1, -1), 0).sum(1)  # by a pixel
    for label, place in zip(labels, axes.transData.inverted().transform(centers), strict=True):
        label.set_position(place)


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
