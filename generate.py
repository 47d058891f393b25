"""Sample digits to a grid of images. Needs neither data nor network.

    python generate.py                                 # 64 digits from N(0, I)
    python generate.py --sampler mixture               # from where the encoder puts digits: better ones
    python generate.py --digit 7                       # sevens
    python generate.py --digit 3 1 4 1 5               # these, in this order
    python generate.py --digit 0 1 2 3 4 5 6 7 8 9 --n 10   # a row of ten of each
    python generate.py --manifold                      # a plane through the latent space
    python generate.py --temperature 0.7               # z closer to the centre: tidier, less varied
    python generate.py --save-images outputs/digits    # every digit as a PNG of its own, too

The same seed draws the same digits on every device.
"""

from pathlib import Path

import torch
from PIL import Image

import cli
import pictures
from data import CLASS_NAMES
from mixture import TEMPERATURE, sample_labels, sample_mixture

MANIFOLD_SIDE = 20  # images along each side of the plane


def parse_args():
    parser = cli.Parser(__doc__)
    cli.add_checkpoint(parser)
    parser.add_argument(
        "--sampler",
        choices=["prior", "mixture"],
        help="prior: N(0, I); mixture: fitted to the encoded training set "
        "(default: prior; mixture with --digit)",
    )
    parser.add_argument("--digit", nargs="+", metavar="D", help="draw these: class numbers or names")
    parser.add_argument(
        "--manifold", action="store_true", help="draw the plane of the leading latent directions"
    )
    parser.add_argument(
        "--n",
        type=cli.positive_int,
        help="how many digits; of each, with several of --digit "
        "(default: 64; 1 of each with several of --digit)",
    )
    parser.add_argument(
        "--nrow",
        type=cli.positive_int,
        help="how many in a row (default: 8; with several of --digit, a row for each, or one of all)",
    )
    parser.add_argument(
        "--temperature",
        type=cli.positive_float,
        help=f"scales the spread of z (default: 1 for N(0, I), {TEMPERATURE} for the mixture)",
    )
    parser.add_argument(
        "--save-images", type=Path, metavar="DIR", help="also write single 28 x 28 PNGs there"
    )
    parser.add_argument(
        "--out", type=cli.png_file, default=Path("outputs/generated.png"), help="picture of the grid"
    )
    cli.add_seed(parser)
    cli.add_device(parser)
    args = parser.parse_args()
    if args.manifold and (args.digit or args.sampler or args.n or args.nrow or args.temperature):
        parser.error(
            "--manifold draws a plane, so --digit, --sampler, --n, --nrow and --temperature do not go with it"
        )
    if args.digit and args.sampler == "prior":
        parser.error(
            "--digit needs the mixture, so --sampler prior does not go with it: N(0, I) knows no classes"
        )
    return args


def main():
    args = parse_args()
    model, state, path = cli.open_model(args.checkpoint, cli.pick_device(args.device))
    generator = torch.Generator().manual_seed(args.seed)
    nrow, temperature = args.nrow or 8, args.temperature or TEMPERATURE
    if args.manifold:
        if model.config["latent_dim"] < 2:
            raise cli.UserError(f"{path} has a single latent and a plane needs two: leave --manifold out")
        if model.config["latent_dim"] == 2:  # the plane itself: no need of a mixture to find one
            mixture, what = None, "the latent plane"
        else:
            mixture, what = cli.mixture_of(state, path), "the plane of the two leading latent directions"
        images, nrow = model.decode_all(manifold(mixture)), MANIFOLD_SIDE
    elif args.digit:
        names = CLASS_NAMES[state["args"]["dataset"]]
        digits = [class_number(text, names) for text in args.digit]
        each = args.n or (64 if len(digits) == 1 else 1)
        if len(digits) > 1 and not args.nrow:  # one row for each digit, or one row of all
            nrow = each if each > 1 else len(digits)
        labels = torch.tensor(digits).repeat_interleave(each)
        mixture = cli.mixture_of(state, path)
        images = model.decode_all(sample_mixture(mixture, labels, temperature, generator))
        what = f"{each} of each of {' '.join(names[d] for d in digits)}, seed {args.seed}"
    elif args.sampler == "mixture":
        mixture = cli.mixture_of(state, path)
        labels = sample_labels(mixture, args.n or 64, generator)
        images = model.decode_all(sample_mixture(mixture, labels, temperature, generator))
        what = f"{len(images)} samples from the latent mixture, seed {args.seed}"
    else:
        images = model.sample(args.n or 64, args.temperature or 1.0, generator)
        what = f"{len(images)} samples from N(0, I), seed {args.seed}"

    pictures.save_png(args.out, pictures.grid(images, nrow))
    print(f"wrote {args.out}: {what}")
    if args.save_images:
        for i, digit in enumerate(pictures.to_pixels(images)):
            pictures.save_png(args.save_images / f"{i:05d}.png", Image.fromarray(digit))
        print(f"wrote {args.save_images}/00000.png ... {len(images) - 1:05d}.png")
    print(cli.next_step(args.checkpoint, "interpolate"))


def class_number(text, names):
    if text.lower() in names:
        return names.index(text.lower())
    if text in (numbers := [str(number) for number in range(len(names))]):
        return numbers.index(text)
    listed = "0 to 9" if names[0] == "0" else "0 to 9 or of " + ", ".join(names)
    raise cli.UserError(f"--digit {text} is not one of {listed}")


def manifold(mixture):
    """z (MANIFOLD_SIDE^2, latent_dim) on a plane, spaced by equal probability.

    Two latents are the plane themselves. Of more, it is that of the two directions in
    which the encoded training set, as the mixture knows it, varies most.
    """
    quantiles = torch.linspace(0.02, 0.98, MANIFOLD_SIDE)
    ticks = torch.distributions.Normal(0, 1).icdf(quantiles)
    x, y = torch.meshgrid(ticks, -ticks, indexing="xy")  # row by row, y upwards
    plane = torch.stack([x.flatten(), y.flatten()], dim=1)
    if mixture is None:
        return plane
    weights = (mixture["share"][:, None] * mixture["weights"]).flatten()[:, None]  # (C * K, 1)
    means = mixture["means"].flatten(0, 1)
    center = (weights * means).sum(0)
    cholesky = mixture["cholesky"].flatten(0, 1)
    within = (weights[..., None] * (cholesky @ cholesky.mT)).sum(0)
    between = (weights * (means - center)).T @ (means - center)
    variances, directions = torch.linalg.eigh(within + between)  # ascending
    return center + plane @ (directions[:, -2:].flip(1) * variances[-2:].flip(0).sqrt()).T


if __name__ == "__main__":
    with cli.user_errors():
        main()
