"""Map the latent space: t-SNE of the test images' mu, as a scatter plot and as a map of the images.

    python tsne.py                        # all test images
    python tsne.py --n 2000 --perplexity 50

van der Maaten & Hinton, "Visualizing Data using t-SNE", 2008.
"""

import math

import numpy as np
import torch
from PIL import Image, ImageColor

from data import batches, load_split
from support import flags, pictures
from support.device import pick_device
from support.errors import user_errors
from support.files import check_outputs
from support.measures import NEIGHBORS, PERPLEXITY, embed, neighbor_accuracy
from support.runs import open_model
from support.terminal import next_step

PLACES, THUMBNAIL = 80, 20  # along each side of the map, and pixels along each side of one


def parse_args():
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    add("--n", type=flags.count, default=10_000, help="how many test images, or all that there are")
    text = f"of t-SNE (default: {PERPLEXITY:g}, or less for few images)"
    add("--perplexity", type=flags.positive, help=text)
    add("--out", type=flags.file_of(".png"), default="outputs/tsne.png", help="the plot, a map beside it")
    flags.add_shared(parser, "--checkpoint", "--data-dir", "--images", "--seed", "--device")
    return parser.parse_args()


def main():
    args = parse_args()
    map_path = args.out.with_name(f"{args.out.stem}_map.png")
    check_outputs(args.out, map_path)
    model, run, path = open_model(args.checkpoint, pick_device(args.device), args.images)
    test = load_split(run, args.data_dir, "test")
    generator = torch.Generator().manual_seed(args.seed)
    chosen = torch.randperm(len(test.images), generator=generator)[: args.n]
    images, labels = test.images[chosen], test.labels[chosen]
    mu, _ = model.encode_all(batches(images, binarize=run.settings.binarize, generator=generator))
    points = embed(mu, path, args.seed, args.perplexity, verbose=1)
    if len(images) > NEIGHBORS and run.classes:
        in_latents, in_map = neighbor_accuracy(mu, labels), neighbor_accuracy(points, labels)
        print(f"10-nearest-neighbour accuracy: {in_latents:.2%} in the latent space, {in_map:.2%} in the map")
    points, labels = points.numpy(), labels.numpy()
    pictures.save_figure(args.out, scatter(points, labels, run.classes))
    pictures.save_png(map_path, thumbnail_map(points, labels, images[:, 0].numpy()))
    print(f"wrote {args.out}\nwrote {map_path}")
    print(next_step(args.checkpoint, args.data_dir, "interpolate", images=args.images))


def scatter(points, labels, names):
    """A figure of points (N, 2), coloured by class, with each class's name at its median and a legend.

    Without names the images have no classes, and the points one colour.
    """
    figure, axes = pictures.new_figure(7.5, 6.5)
    dots = {"s": max(4, 24 - len(points) / 500), "lw": 0, "alpha": 0.65}
    box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.75}
    text = {"weight": "bold", "color": pictures.INK, "ha": "center", "va": "center", "bbox": box}
    few = len(names) <= 10
    colors = pictures.palette(max(1, len(names)))
    for label in np.unique(labels):
        own, name = points[labels == label], pictures.plain(names[label]) if names else None
        axes.scatter(*own.T, color=colors[label], label=name, **dots)
        if 0 < len(names) <= 30:  # more cannot be read
            axes.text(*np.median(own, axis=0), name, fontsize=17 if few else 11, **text)
    if 0 < len(names) <= 120:  # more leave no room for the points
        axes.legend(
            frameon=False,
            fontsize=12 if few else 8,
            ncols=math.ceil(len(names) / 30),
            markerscale=4 if few else 2,
            handletextpad=0.1,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
    axes.set_aspect("equal")
    axes.set_axis_off()
    return figure


def thumbnail_map(points, labels, images):
    """A PIL image of the map drawn with the images themselves: one per free place, in its class's colour."""
    low, high = points.min(0), points.max(0)
    where = (points - (low + high) / 2) / (high - low).max() + 0.5  # in [0, 1], one scale for both axes
    columns = (where[:, 0] * (PLACES - 1)).round().astype(int)
    rows = ((1 - where[:, 1]) * (PLACES - 1)).round().astype(int)
    colors = [np.array(ImageColor.getrgb(color)) for color in pictures.palette(labels.max() + 1)]
    canvas = np.full((PLACES, THUMBNAIL, PLACES, THUMBNAIL, 3), 255, np.uint8)
    for i in reversed(range(len(points))):  # of several in one place the first is seen
        thumbnail = Image.fromarray(images[i]).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        gray = np.asarray(thumbnail)[..., None]  # (20, 20, 1)
        ink = (gray / max(1, gray.max())) ** 0.6  # or pale clothes would not be seen on white
        canvas[rows[i], :, columns[i]] = (ink * colors[labels[i]] + (1 - ink) * 255).round()
    side = PLACES * THUMBNAIL
    return Image.fromarray(canvas.reshape(side, side, 3)).quantize(256)


if __name__ == "__main__":
    with user_errors(less_memory=["--n"]):
        main()
