"""Encode images: z, -ELBO and likely class of each, and which images are the strangest.

    python encode.py seven.png photos/                  # your own pictures, files or folders of them
    python encode.py --invert --center photo.jpg        # a digit in ink on paper, placed as MNIST's are
    python encode.py --split test                       # a whole split, and its 64 strangest images
    python encode.py --split train --npz outputs/z.npz  # the same for numpy

The CSV has a row for each image: the file, as seen from the working folder, or the index, its label,
mu and std of q(z|x), BCE, KL and -ELBO in nats (z sampled from q(z|x), --draws times), and the class
the latent mixture takes it for at z = mu. A model trained with --binarize sees pixels drawn once, by --seed.
"""

import argparse
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data import EVAL_BATCH, draw_pixels, load_split, to_float
from model import RECON
from support import flags, pictures
from support.arrays import find_arrays, is_array
from support.device import generators, pick_device, pick_precision
from support.errors import UserError, shown, user_errors
from support.files import check_outputs, from_here, write_file, write_table
from support.folders import image_files
from support.images import blank, needs_inverting, read_images
from support.measures import elbo_terms, most_likely_class
from support.paper import center
from support.runs import open_model
from support.terminal import DATA_DIR, next_step, progress, warn

SHOWN = 64  # images in a picture
LISTED = 10  # images with a line of their own on the terminal


class Chosen(NamedTuple):
    """The images to encode."""

    images: torch.Tensor  # uint8 (N, 1, 28, 28)
    names: list  # files, or indices
    labels: list  # names of classes, "" where they are not known
    what: str  # in words


def parse_args():
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    add("files", nargs="*", type=Path, metavar="IMAGE", help="files, or folders of files, to encode")
    add("--split", choices=["train", "test", "validation"], help="encode a split of the data set instead")
    add("--draws", type=flags.number(int, at_least=1), default=10, help="samples of z for each image")
    add("--invert", action=argparse.BooleanOptionalAction, help="for dark ink on white (default: as trained)")
    add("--center", action="store_true", help="cut out the ink and place it as MNIST's digits are")
    add("--skip-bad", action="store_true", help="leave out files that cannot be read")
    add("--out", type=flags.file_of(".csv"), default="outputs/encoded.csv", help="table; pictures beside it")
    add("--npz", type=flags.user_path, metavar="FILE", help="also write the table for numpy to this file")
    flags.add_shared(parser, "--checkpoint", "--data-dir", "--images", "--seed", "--device")
    args = parser.parse_args()
    if bool(args.files) == bool(args.split):
        parser.error("name either image files or a --split to encode")
    if args.split and (args.invert is not None or args.center or args.skip_bad):
        parser.error("--split is read as in training: --invert, --center and --skip-bad do not go with it")
    return args


@torch.no_grad()
def main():
    args = parse_args()
    device = pick_device(args.device)
    model, run, path = open_model(args.checkpoint, device, args.images)
    picture, strangest = args.out.with_suffix(".png"), args.out.with_name(f"{args.out.stem}_strangest.png")
    files = []
    for file in args.files:
        files += image_files(file) if file.is_dir() else [str(file)]
    check_outputs(args.out, args.npz, picture, strangest if args.split else None, spare=[path, *files])
    chosen = read_split(args, run) if args.split else read_files(files, args, run)
    on_cpu, generator = generators(args.seed, device)
    x = draw_pixels(to_float(chosen.images), run.settings.binarize, on_cpu).to(device)  # (N, 1, 28, 28)

    parts = progress(x.split(EVAL_BATCH), desc="ELBO", unit="batch")
    terms = elbo_terms(model, parts, args.draws, generator, pick_precision("auto", device))
    bce, kld, mu, logvar = (values.cpu() for values in terms)
    numbers = {"mu": mu, "std": (0.5 * logvar).exp(), "bce": bce, "kld": kld, "negative_elbo": bce + kld}
    predicted = [""] * len(x)
    if run.mixture and run.classes:
        predicted = [run.classes[label] for label in most_likely_class(run.mixture, mu)]
    print(summary(chosen, numbers, predicted, run.classes, args))

    write_table(args.out, table(chosen, numbers, predicted))
    print(f"wrote {args.out}: a row for each image")
    if args.npz:
        buffer = io.BytesIO()
        np.savez(buffer, name=chosen.names, label=chosen.labels, **numbers, **{"class": predicted})
        write_file(args.npz, buffer.getvalue())
        print(f"wrote {args.npz}")
    pictures.save_png(picture, pictures.pairs(x[:SHOWN].cpu(), model.decode_all(mu[:SHOWN])))
    print(f"wrote {picture}: originals above their reconstructions")
    if args.split:
        order = numbers["negative_elbo"].argsort(descending=True)[:SHOWN]
        pictures.save_png(strangest, pictures.grid(x[order.to(device)], nrow=8))
        print(f"wrote {strangest}: the images with the highest -ELBO, in order")
    print(next_step(args.checkpoint, DATA_DIR, "generate"))


def read_split(args, run):
    """The images of a split, under the names of their files where they have some."""
    split = load_split(run, args.data_dir, args.split)
    labels = [run.classes[label] if run.classes else "" for label in split.labels]
    names = list(range(len(split.images)))
    if split.files:  # of a folder
        names = [str(Path(file).relative_to(run.settings.dataset)) for file in split.files]
    return Chosen(split.images, names, labels, f"{args.split} images of {run.settings.dataset_name}")


def read_files(files, args, run):
    """The images in these files, prepared as the model wants them."""
    if not files:
        raise UserError(f"there is no image under {args.files[0]}: name others")
    for file in files:
        if Path(file).exists() and not Path(file).is_file():  # a pipe would wait for ever
            raise UserError(f"{file} is not a file: name images, or folders of them")
    invert = run.settings.invert if args.invert is None else args.invert
    pictures, names, labels, notes = files, [from_here(file) for file in files], [""] * len(files), []
    if is_array(files[0]):
        if len(files) > 1 or args.center:
            raise UserError(f"{files[0]} is a file of arrays: name it alone, and without --center")
        halves, _, notes = find_arrays(files[0])
        samples = [sample for own in halves.values() for sample in own]
        pictures, labels = [sample.picture for sample in samples], [sample.name or "" for sample in samples]
        names = [f"{names[0]}[{i}]" for i in range(len(samples))]
    size, place = run.settings.image_size, center if args.center else None
    images, numbers, read = read_images(pictures, size, invert, place, args.skip_bad)
    dark_ink = needs_inverting([pictures[number] for number in numbers[:100]])
    if dark_ink and not invert and not blank(images).any():
        warn("these look like dark ink on light paper: --invert turns them into what the model knows")
    print("\n".join(notes + read))
    names, labels = [names[number] for number in numbers], [labels[number] for number in numbers]
    return Chosen(images, names, labels, "image" + "s" * (len(images) > 1))


# What is written and printed


def summary(chosen, numbers, predicted, classes, args):
    """The mean over the images, how the mixture does, and some images with a line each."""
    loss, bce, kld = (numbers[name] for name in ("negative_elbo", "bce", "kld"))
    lines = [
        f"{len(loss):,} {chosen.what}, z sampled {args.draws} time{'s' * (args.draws > 1)}, "
        f"seed {args.seed}; nats per image",
        f"  mean -ELBO {loss.mean():.2f} = {RECON} {bce.mean():.2f} + KL {kld.mean():.2f}",
    ]
    if set(chosen.labels) <= set(classes) and predicted[0]:
        right = np.mean([a == b for a, b in zip(predicted, chosen.labels, strict=True)])
        lines.append(f"  the mixture takes {right:.2%} of them for what they are")
    if len(loss) > LISTED:
        lines.append(f"  the {LISTED} {'strangest' if args.split else 'first'}:")
    order = loss.argsort(descending=True).tolist() if args.split else range(len(loss))
    for i in order[:LISTED]:
        label = f" ({chosen.labels[i]})" if chosen.labels[i] else ""
        terms = f"-ELBO {loss[i]:.2f} = {RECON} {bce[i]:.2f} + KL {kld[i]:.2f}"
        taken_for = f"   taken for {predicted[i]}" if predicted[i] else ""
        lines.append(f"  {shown(str(chosen.names[i]))}{label}   {terms}{taken_for}")
    return "\n".join(lines)


def table(chosen, numbers, predicted):
    """The rows of the CSV."""
    first = "file" if isinstance(chosen.names[0], str) else "index"
    latents = range(numbers["mu"].shape[1])
    header = [first, "label", *(f"mu{i}" for i in latents), *(f"std{i}" for i in latents)]
    rows = torch.column_stack(list(numbers.values())).tolist()  # (N, 2 * latent_dim + 3)
    yield [*header, "bce", "kld", "negative_elbo", "class"]
    for name, label, row, taken_for in zip(chosen.names, chosen.labels, rows, predicted, strict=True):
        yield [name, label, *(f"{value:.7g}" for value in row), taken_for]


if __name__ == "__main__":
    with user_errors():
        main()
