"""Map the latent space: t-SNE of the test images' mu, as a scatter plot and as a map of the images.

    python tsne.py                        # all test images
    python tsne.py --n 2000 --perplexity 50

van der Maaten & Hinton, "Visualizing Data using t-SNE", 2008.
"""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data import batches, load_split
from support import flags, pictures
from support.device import pick_device
from support.errors import UserError, user_errors
from support.files import check_outputs
from support.measures import (
    NEIGHBORS,
    PERPLEXITY,
    check_differs,
    embed,
    neighbor_accuracy,
    usual_perplexity,
)
from support.runs import open_model
from support.terminal import next_step

MAP_SIZE = 1600  # pixels, the side of the map of thumbnails


def parse_args():
    parser = flags.Parser(__doc__)
    flags.add_checkpoint(parser)
    parser.add_argument(
        "--n", type=flags.number(int, at_least=1), default=10_000, help="how many test images"
    )
    parser.add_argument(
        "--perplexity",
        type=flags.number(float, above=0),
        help="about how many neighbours count for a point "
        f"(default: {PERPLEXITY:g}, or a third of the images where these are fewer than {3 * PERPLEXITY:g})",
    )
    parser.add_argument(
        "--out",
        type=flags.file_of(".png"),
        default=Path("outputs/tsne.png"),
        help="the scatter plot; the map goes beside it",
    )
    flags.add_data(parser)
    flags.add_seed(parser)
    flags.add_device(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    map_path = args.out.with_name(f"{args.out.stem}_map.png")
    check_outputs(args.out, map_path)
    model, run, path = open_model(args.checkpoint, pick_device(args.device), args.images)
    test = load_split(run, args.data_dir, "test")
    images, labels = test.images, test.labels
    n = min(args.n, len(images))
    if n < args.n:
        print(f"the {test.source} data set has {n:,} test images: taking all of them")
    if n < 2:
        raise UserError("a map needs at least 2 points: raise --n")
    perplexity = args.perplexity or usual_perplexity(n)
    if not perplexity < n:
        raise UserError(f"--perplexity {perplexity:g} needs more than {n} images: lower it, or raise --n")
    generator = torch.Generator().manual_seed(args.seed)
    chosen = torch.randperm(len(images), generator=generator)[:n]
    images, labels = images[chosen], labels[chosen]
    mu, _ = model.encode_all(batches(images, binarize=run.settings.binarize, generator=generator))
    check_differs(mu, path)

    print(f"t-SNE of {n:,} points, perplexity {perplexity:.3g}", flush=True)
    points = embed(mu, perplexity, args.seed, verbose=1)
    if n > NEIGHBORS and run.classes:
        in_latents, in_map = neighbor_accuracy(mu, labels), neighbor_accuracy(points, labels)
        print(f"10-nearest-neighbour accuracy: {in_latents:.2%} in the latent space, {in_map:.2%} in the map")
    points, labels = points.numpy(), labels.numpy()
    pictures.save_figure(args.out, scatter(points, labels, run.classes))
    pictures.save_png(map_path, thumbnail_map(points, labels, images[:, 0].numpy()))
    print(
        f"wrote {args.out}\nwrote {map_path}\n"
        + next_step(args.checkpoint, args.data_dir, "interpolate", images=args.images)
    )


def scatter(points, labels, names):
    """A figure of the points, coloured by class, with a legend and a name at each cluster's centre.

    Without names the images have no classes, and the points one colour.
    """
    figure, axes = pictures.new_figure(7.5, 6.5)
    size = max(4, 24 - len(points) / 500)
    if not names:
        axes.scatter(*points.T, s=size, lw=0, alpha=0.65, color=pictures.PALETTE[0])
    names = [pictures.plain(name) for name in names]
    names_on_map = []
    for label, (name, color) in enumerate(zip(names, pictures.palette(len(names)), strict=True)):
        own = points[labels == label]
        if len(own) == 0:
            continue
        axes.scatter(*own.T, s=size, lw=0, alpha=0.65, color=color, label=name)
        if len(names) > 30:
            continue  # too many names to read
        text = axes.text(
            *np.median(own, axis=0),
            name,
            fontsize=17 if len(names) <= 10 else 11,
            weight="bold",
            color=pictures.INK,
            ha="center",
            va="center",
            bbox={"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.75},
        )
        names_on_map.append(text)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if names:
        axes.legend(
            frameon=False,
            fontsize=12 if len(names) <= 20 else 8,
            ncols=math.ceil(len(names) / 30),
            markerscale=4 if len(names) <= 20 else 2,
            handletextpad=0.1,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
        pictures.part_labels(axes, names_on_map)
    return figure


def thumbnail_map(points, labels, images):
    """A PIL image of the map drawn with the images themselves: one per free place, in its class's colour."""
    cell = 20
    places = MAP_SIZE // cell
    low, high = points.min(0), points.max(0)
    where = (points - (low + high) / 2) / (high - low).max() + 0.5  # [0, 1], one scale for both axes
    columns = (where[:, 0] * (places - 1)).round().astype(int)
    rows = ((1 - where[:, 1]) * (places - 1)).round().astype(int)
    canvas = np.full((places * cell, places * cell, 3), 255, np.uint8)
    colors = [np.array(pictures.to_rgb(color)) for color in pictures.palette(labels.max() + 1)]
    taken = set()
    for row, column, label, image in zip(rows, columns, labels, images, strict=True):
        if (row, column) in taken:
            continue
        taken.add((row, column))
        thumbnail = np.asarray(Image.fromarray(image).resize((cell, cell), Image.Resampling.LANCZOS))
        ink = (thumbnail / max(1, thumbnail.max())) ** 0.6  # or pale clothes would not be seen on white
        paper = ink[..., None] * colors[label] + (1 - ink[..., None]) * 255
        canvas[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = paper.round()
    return Image.fromarray(canvas).quantize(256)


if __name__ == "__main__":
    with user_errors("--n"):
        main()
