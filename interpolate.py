"""Walk in the latent space from one image to another: a strip and a GIF.

    python interpolate.py                                 # from a 3 to an 8
    python interpolate.py --digits 4 9 --rows 5
    python interpolate.py --index 17 42 --method linear   # two test images of your choice
    python interpolate.py --digits 3 8 --generated        # between digits that nobody wrote

Linear interpolation cuts through the middle of the latent space, where a Gaussian in
many dimensions has next to no mass; slerp goes around it, its length between those of the ends.
Shoemake, "Animating rotation with quaternion curves", 1985; White, "Sampling Generative
Networks", 2016 (arXiv:1609.04468).
"""

from pathlib import Path

import torch

from data import EVAL_BATCH, draw_pixels, load_split, to_float
from mixture import sample_mixture
from support import flags, pictures
from support.device import pick_device
from support.errors import UserError, user_errors
from support.files import check_outputs
from support.runs import mixture_of, open_model
from support.terminal import next_step

HOLD, STEP = 700, 60  # milliseconds the GIF rests at an end, and at every frame between
GIF_FRAMES = 24  # one way, ends included, whatever the strip shows


def parse_args():
    parser = flags.Parser(__doc__)
    flags.add_checkpoint(parser)
    parser.add_argument(
        "--digits",
        nargs=2,
        metavar=("FROM", "TO"),
        help="classes of the two ends, by number or name (default: 3 8, or the first and the last class)",
    )
    parser.add_argument(
        "--index",
        type=int,
        nargs=2,
        metavar=("A", "B"),
        help="the two test images themselves, instead of --digits",
    )
    parser.add_argument(
        "--steps",
        type=flags.number(int, at_least=2),
        default=10,
        help="decoded images in the strip, ends included",
    )
    parser.add_argument(
        "--method", choices=["linear", "slerp"], default="slerp", help="the way between two points"
    )
    parser.add_argument(
        "--rows", type=flags.number(int, at_least=1), default=1, help="how many pairs of the two classes"
    )
    parser.add_argument(
        "--generated", action="store_true", help="start and end at samples of --digits: needs no data"
    )
    parser.add_argument(
        "--out",
        type=flags.file_of(".png"),
        default=Path("outputs/interpolation.png"),
        help="picture of the strip; the GIF goes beside it",
    )
    flags.add_data(parser)
    flags.add_seed(parser)
    flags.add_device(parser)
    args = parser.parse_args()
    if args.index and args.digits:
        parser.error("--index names test images, so --digits does not go with it")
    if args.index and args.generated:
        parser.error("--index names test images, so --generated does not go with it")
    if args.index and args.rows > 1:
        parser.error("--index names one pair, so --rows does not go with it")
    return args


def main():
    args = parse_args()
    gif = args.out.with_suffix(".gif")
    check_outputs(args.out, gif)
    model, run, path = open_model(args.checkpoint, pick_device(args.device), args.images)
    numbers = end_classes(args.digits, run.classes)
    if args.generated:
        za, zb = generated_ends(args, mixture_of(run, path), numbers)
        a, b = (f"a generated {run.classes[n] if run.classes else 'image'}" for n in numbers)
        print(f"{a} to {b}, {args.method}")
        originals = None
    else:
        za, zb, originals = encoded_ends(args, model, run, numbers)

    strip = model.decode_all(walk(za, zb, args.steps, args.method).flatten(0, 1))
    rows = strip.unflatten(0, (args.rows, args.steps))
    if originals:  # each row: original, decoded walk, original
        rows = torch.cat([originals[0][:, None], rows, originals[1][:, None]], dim=1)
    pictures.save_png(args.out, pictures.grid(rows.flatten(0, 1), nrow=rows.shape[1], scale=3))

    film = model.decode_all(walk(za, zb, GIF_FRAMES, args.method).transpose(0, 1).flatten(0, 1))
    frames = [pictures.grid(frame, nrow=5, scale=5).quantize(16) for frame in film.split(args.rows)]
    there_and_back = frames + frames[-2:0:-1]
    times = [HOLD if i in (0, GIF_FRAMES - 1) else STEP for i in range(len(there_and_back))]
    pictures.save_gif(gif, there_and_back, times)

    ends = "originals at the far ends, " if originals else ""
    print(f"wrote {args.out}: {ends}{args.steps} decoded images in a row\nwrote {gif}")
    print(next_step(args.checkpoint, args.data_dir, "tsne", images=args.images))


def end_classes(digits, classes):
    """The numbers of the classes to walk between. Raises UserError."""
    if digits:
        return [flags.class_number(text, classes, "--digits") for text in digits]
    return [3, 8] if len(classes) > 8 else [0, max(0, len(classes) - 1)]


def generated_ends(args, mixture, numbers):
    """z of generated images to walk between: two tensors (rows, latent_dim)."""
    generator = torch.Generator().manual_seed(args.seed)
    return [sample_mixture(mixture, torch.full((args.rows,), d), generator=generator) for d in numbers]


def encoded_ends(args, model, run, numbers):
    """mu of test images to walk between, (rows, latent_dim) each, and the images, (rows, 1, 28, 28) each."""
    test = load_split(run, args.data_dir, "test")
    starts, ends = choose_pairs(args, test.labels, numbers, run.classes)
    names = [f" ({run.classes[label]})" if run.classes else "" for label in test.labels]
    for a, b in zip(starts.tolist(), ends.tolist(), strict=True):
        print(f"test image {a}{names[a]} to test image {b}{names[b]}, {args.method}")
    generator = torch.Generator().manual_seed(args.seed)
    x = draw_pixels(to_float(test.images[torch.cat([starts, ends])]), run.settings.binarize, generator)
    mu, _ = model.encode_all(x.split(EVAL_BATCH))
    za, zb = mu.chunk(2)
    return za, zb, x.chunk(2)


def choose_pairs(args, labels, numbers, classes):
    """Indices of the test images to start and to end at: two tensors (rows,)."""
    if args.index:
        for index in args.index:
            if not 0 <= index < len(labels):
                raise UserError(f"there is no test image {index}: --index goes from 0 to {len(labels) - 1}")
        return torch.tensor(args.index[:1]), torch.tensor(args.index[1:])
    generator = torch.Generator().manual_seed(args.seed)
    chosen = []
    for number in numbers:
        members = (labels == number).nonzero().flatten()
        if len(members) == 0:
            raise UserError(f"the test images have no {classes[number]}: choose another of --digits")
        # with replacement, so that any number of rows can be had
        chosen.append(members[torch.randint(len(members), (args.rows,), generator=generator)])
    return chosen


def walk(za, zb, steps, method):
    """Points from za to zb, both (rows, latent_dim), ends included: (rows, steps, latent_dim)."""
    t = torch.linspace(0, 1, steps, device=za.device)[None, :, None]
    za, zb = za[:, None], zb[:, None]
    if method == "linear":
        return (1 - t) * za + t * zb
    cosine = torch.nn.functional.cosine_similarity(za, zb, dim=-1).clamp(-1, 1)[..., None]
    angle = torch.acos(cosine)
    # sin(angle) goes to 0 for parallel ends, where slerp is the straight line
    straight = angle.sin() < 1e-4
    sine = angle.sin().where(~straight, 1.0)
    arc = ((1 - t) * angle).sin() / sine * za + (t * angle).sin() / sine * zb
    return arc.where(~straight, (1 - t) * za + t * zb)


if __name__ == "__main__":
    with user_errors("--rows", "--steps"):
        main()
