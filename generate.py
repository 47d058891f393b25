"""Sample images to a grid. Needs neither data nor network.

    python generate.py                                 # 64 digits from N(0, I)
    python generate.py --sampler mixture               # from where the encoder puts digits: better ones
    python generate.py --digit 7                       # sevens
    python generate.py --digit 3 1 4 1 5               # these, in this order
    python generate.py --digit 0 1 2 3 4 5 6 7 8 9 --n 10   # a row of ten of each
    python generate.py --manifold                      # a plane through the latent space
    python generate.py --traverse --digit 7            # what each latent does to a seven
    python generate.py --temperature 0.7               # z closer to the centre: tidier, less varied
    python generate.py --save-images outputs/digits    # every digit as a PNG of its own, too

The same seed draws the same digits on every device.
"""

import torch

from mixture import TEMPERATURE, sample_labels, sample_mixture
from support import flags, pictures
from support.device import pick_device
from support.errors import UserError, user_errors
from support.files import check_outputs
from support.runs import mixture_of, open_model
from support.terminal import DATA_DIR, next_step

MANIFOLD_SIDE = 20  # images along each side of the plane
TRAVERSED = torch.linspace(-3, 3, 13)  # what --traverse sets a latent to: nearly all of N(0, 1)
ACTIVE_SAMPLES = 64  # of the mixture, to find the latents that change an image most


def parse_args():
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    count, positive = flags.count, flags.positive
    add("--sampler", choices=["prior", "mixture"], help="source of z (default: prior; mixture with --digit)")
    add("--digit", nargs="+", metavar="D", help="draw these classes, by number or name")
    add("--manifold", action="store_true", help="draw the plane of the leading latent directions")
    add("--traverse", action="store_true", help="draw a row for each latent, the most active first")
    add("--n", type=count, help="images (default: 64; 1 of each of several --digit), or latents (10)")
    add("--nrow", type=count, help="images in a row (default: 8, or a row for each of several --digit)")
    add("--temperature", type=positive, help=f"scales the spread of z (default: 1; mixture: {TEMPERATURE})")
    add("--save-images", type=flags.user_path, metavar="DIR", help="also write every image as a PNG there")
    add("--out", type=flags.file_of(".png"), default="outputs/generated.png", help="picture of the grid")
    flags.add_shared(parser, "--checkpoint", "--seed", "--device")
    args = parser.parse_args()
    if args.manifold and (args.digit or args.sampler or args.n or args.nrow or args.temperature):
        parser.error("--manifold goes with none of --digit, --sampler, --n, --nrow and --temperature")
    if args.traverse and (args.manifold or args.sampler or args.nrow or len(args.digit or []) > 1):
        parser.error("--traverse goes with none of --manifold, --sampler, --nrow and a second --digit")
    if args.digit and args.sampler == "prior":
        parser.error("--digit samples the mixture and not --sampler prior: N(0, I) has no classes")
    return args


def main():
    args = parse_args()
    first_image = args.save_images / "00000.png" if args.save_images else None
    check_outputs(args.out, first_image)
    if args.save_images:
        pictures.earlier_images(args.save_images)  # refuses a folder of others, before the work
    model, run, path = open_model(args.checkpoint, pick_device(args.device))
    if args.manifold:
        draw = draw_manifold
    elif args.traverse:
        draw = draw_traversal
    else:
        draw = draw_classes if args.digit else draw_samples
    images, picture, what = draw(args, model, run, path)
    pictures.save_png(args.out, picture)
    print(f"wrote {args.out}: {what}")
    if args.save_images:
        pictures.save_images(args.save_images, images)
        print(f"wrote {first_image} ... {len(images) - 1:05d}.png")
    print(next_step(args.checkpoint, DATA_DIR, "explore", "interpolate"))


# Each of these returns images (N, 1, 28, 28), the picture of them all, and in words what it shows.


def draw_samples(args, model, run, path):
    """Samples of the prior or of the mixture."""
    n, generator = args.n or 64, torch.Generator().manual_seed(args.seed)
    if args.sampler == "mixture":
        mixture = mixture_of(run, path)
        labels = sample_labels(mixture, n, generator)
        z = sample_mixture(mixture, labels, args.temperature or TEMPERATURE, generator)
        images, source = model.decode_all(z), "the latent mixture"
    else:
        images, source = model.sample(n, args.temperature or 1.0, generator), "N(0, I)"
    what = f"{n} sample{'s' if n > 1 else ''} from {source}, seed {args.seed}"
    return images, pictures.grid(images, args.nrow or 8), what


def draw_classes(args, model, run, path):
    """The classes asked for: a row for each of several, or one row of them all."""
    digits = [flags.class_number(text, run.classes, "--digit") for text in args.digit]
    names = " ".join(run.classes[digit] for digit in digits)
    if len(digits) == 1:
        each, nrow, what = args.n or 64, 8, names
    else:
        each, nrow, what = args.n or 1, args.n or len(digits), f"each of {names}"
    labels = torch.tensor(digits).repeat_interleave(each)
    generator = torch.Generator().manual_seed(args.seed)
    z = sample_mixture(mixture_of(run, path), labels, args.temperature or TEMPERATURE, generator)
    images = model.decode_all(z)
    return images, pictures.grid(images, args.nrow or nrow), f"{each} of {what}, seed {args.seed}"


def draw_manifold(args, model, run, path):
    """A plane through the latent space, MANIFOLD_SIDE images along each side."""
    latent_dim = model.config["latent_dim"]
    if latent_dim < 2:
        raise UserError(f"{path} has a single latent and a plane needs two: leave --manifold out")
    if latent_dim == 2:  # the plane itself: no need of a mixture to find one
        z, what = unit_plane(), "the latent plane"
    else:
        z, what = leading_plane(mixture_of(run, path)), "the plane of the two leading latent directions"
    images = model.decode_all(z)
    return images, pictures.grid(images, MANIFOLD_SIDE), what


def draw_traversal(args, model, run, path):
    """A row for each latent, the most active first: z of one sample, but with this latent from -3 to 3."""
    mixture, generator = mixture_of(run, path), torch.Generator().manual_seed(args.seed)
    if args.digit:
        label = torch.tensor([flags.class_number(args.digit[0], run.classes, "--digit")])
    else:
        label = sample_labels(mixture, 1, generator)
    z = sample_mixture(mixture, label, args.temperature or TEMPERATURE, generator)  # (1, latent_dim)
    latents = by_activity(model, mixture, generator)[: args.n or 10]
    rows = z.repeat(len(latents), len(TRAVERSED), 1)  # (rows, 13, latent_dim)
    for row, latent in zip(rows, latents, strict=True):
        row[:, latent] = TRAVERSED
    images = model.decode_all(rows.flatten(0, 1))
    columns = [f"{value:.0f}" if value == value.round() else "" for value in TRAVERSED]
    picture = pictures.labelled(images, [f"z{latent}" for latent in latents], columns)
    name = run.classes[label] if run.classes else "sample"
    return images, picture, f"{len(latents)} latents from -3 to 3 around a {name}, seed {args.seed}"


def by_activity(model, mixture, generator):
    """The numbers of all latents, by how much the decoded images change as a latent goes from -1 to 1."""
    z = sample_mixture(mixture, sample_labels(mixture, ACTIVE_SAMPLES, generator), generator=generator)
    changes = []
    for latent in range(z.shape[1]):
        low, high = z.clone(), z.clone()
        low[:, latent], high[:, latent] = -1, 1
        changes.append((model.decode_all(high) - model.decode_all(low)).square().sum())
    return torch.stack(changes).argsort(descending=True).tolist()


def unit_plane():
    """z (MANIFOLD_SIDE^2, 2) spaced by equal probability under N(0, I), row by row, y upwards."""
    quantiles = torch.linspace(0.02, 0.98, MANIFOLD_SIDE)
    ticks = torch.distributions.Normal(0, 1).icdf(quantiles)
    x, y = torch.meshgrid(ticks, -ticks, indexing="xy")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def leading_plane(mixture):
    """z (MANIFOLD_SIDE^2, latent_dim) on the plane in which the encoded training set varies most.

    Its mean and covariance are those of the mixture fitted to it.
    """
    weights = (mixture["share"][:, None] * mixture["weights"]).flatten()[:, None]  # (C * K, 1)
    means = mixture["means"].flatten(0, 1)  # (C * K, D)
    center = (weights * means).sum(0)
    cholesky = mixture["cholesky"].flatten(0, 1)  # (C * K, D, D)
    within = (weights[..., None] * (cholesky @ cholesky.mT)).sum(0)
    between = (weights * (means - center)).T @ (means - center)
    variances, directions = torch.linalg.eigh(within + between)  # ascending
    return center + unit_plane() @ (directions[:, -2:].flip(1) * variances[-2:].flip(0).sqrt()).T


if __name__ == "__main__":
    with user_errors(less_memory=["--n"]):
        main()
