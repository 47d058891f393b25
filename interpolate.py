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
    add = parser.add_argument
    add("--digits", nargs=2, metavar=("FROM", "TO"), help="two classes (default: 3 8, or the first and last)")
    add("--index", type=int, nargs=2, metavar=("A", "B"), help="two test images, instead of --digits")
    add("--steps", type=flags.number(int, at_least=2), default=10, help="decoded images in a row")
    add("--method", choices=["linear", "slerp"], default="slerp", help="the way between two points")
    add("--rows", type=flags.count, default=1, help="how many pairs of the two classes")
    add("--generated", action="store_true", help="start and end at samples of --digits: needs no data")
    add("--out", type=flags.file_of(".png"), default="outputs/interpolation.png", help="strip; GIF beside it")
    flags.add_shared(parser, "--checkpoint", "--data-dir", "--images", "--seed", "--device")
    args = parser.parse_args()
    if args.index and (args.digits or args.generated or args.rows > 1):
        parser.error("--index names two test images: --digits, --generated and --rows do not go with it")
    return args


def main():
    args = parse_args()
    gif = args.out.with_suffix(".gif")
    check_outputs(args.out, gif)
    model, run, path = open_model(args.checkpoint, pick_device(args.device), args.images)
    labels = end_labels(args.digits, run.classes)
    generator = torch.Generator().manual_seed(args.seed)
    if args.generated:
        mixture = mixture_of(run, path)
        za, zb = (sample_mixture(mixture, torch.full((args.rows,), y), generator=generator) for y in labels)
        a, b = (run.classes[label] if run.classes else "image" for label in labels)
        print(f"a generated {a} to a generated {b}, {args.method}")
    else:
        test = load_split(run, args.data_dir, "test")
        starts, ends = choose_pairs(args.index, labels, args.rows, test, generator)
        names = [f" ({run.classes[label]})" if run.classes else "" for label in test.labels]
        for a, b in zip(starts.tolist(), ends.tolist(), strict=True):
            print(f"test image {a}{names[a]} to test image {b}{names[b]}, {args.method}")
        x = to_float(test.images[torch.cat([starts, ends])])  # (2 * rows, 1, 28, 28)
        x = draw_pixels(x, run.settings.binarize, generator)
        mu, _ = model.encode_all(x.split(EVAL_BATCH))
        za, zb = mu.chunk(2)

    rows = decode_walk(model, za, zb, args.steps, args.method)
    if not args.generated:  # each row: original, decoded walk, original
        xa, xb = x.chunk(2)
        rows = torch.cat([xa[:, None], rows, xb[:, None]], dim=1)
    pictures.save_png(args.out, pictures.grid(rows.flatten(0, 1), nrow=rows.shape[1], scale=3))
    save_film(gif, decode_walk(model, za, zb, GIF_FRAMES, args.method))
    beside = "" if args.generated else "originals at the far ends, "
    print(f"wrote {args.out}: {beside}{args.steps} decoded images in a row\nwrote {gif}")
    print(next_step(args.checkpoint, args.data_dir, "tsne", images=args.images))


def end_labels(digits, classes):
    """The labels of the two classes to walk between. Raises UserError."""
    if digits:
        return [flags.class_number(text, classes, "--digits") for text in digits]
    return [3, 8] if len(classes) > 8 else [0, max(0, len(classes) - 1)]


def choose_pairs(index, labels, rows, test, generator):
    """Indices of the test images to start and to end at: two tensors (rows,)."""
    if index:
        for i in index:
            if not 0 <= i < len(test.images):
                raise UserError(f"there is no test image {i}: --index goes from 0 to {len(test.images) - 1}")
        return torch.tensor(index).split(1)
    chosen = []
    for label in labels:
        members = (test.labels == label).nonzero().flatten()
        if len(members) == 0:
            raise UserError(f"the test images have no {test.classes[label]}: choose another of --digits")
        # with replacement, so that any number of rows can be had
        chosen.append(members[torch.randint(len(members), (rows,), generator=generator)])
    return chosen


def decode_walk(model, za, zb, steps, method):
    """The images on the way from za to zb, both (rows, latent_dim): (rows, steps, 1, 28, 28)."""
    images = model.decode_all(walk(za, zb, steps, method).flatten(0, 1))
    return images.unflatten(0, (len(za), steps))


def walk(za, zb, steps, method):
    """Points from za to zb, both (rows, latent_dim), ends included: (rows, steps, latent_dim)."""
    t = torch.linspace(0, 1, steps, device=za.device)[None, :, None]
    za, zb = za[:, None], zb[:, None]
    line = torch.lerp(za, zb, t)  # the same point throughout between equal ends
    if method == "linear":
        return line
    cosine = torch.nn.functional.cosine_similarity(za, zb, dim=-1)[..., None]
    angle = torch.acos(cosine.clamp(-1, 1))
    arc = (((1 - t) * angle).sin() * za + (t * angle).sin() * zb) / angle.sin()
    return arc.where(angle.sin() > 1e-3, line)  # between parallel ends slerp is the straight line


def save_film(path, rows):
    """Write a GIF of images (rows, GIF_FRAMES, 1, 28, 28) that goes there and back."""
    frames = [pictures.grid(images, nrow=5, scale=5).quantize(16) for images in rows.unbind(1)]
    times = [HOLD, *[STEP] * (GIF_FRAMES - 2)]  # one way, without its last frame
    pictures.save_gif(path, frames + frames[-2:0:-1], times + times)


if __name__ == "__main__":
    with user_errors(less_memory=["--rows", "--steps"]):
        main()
