"""Write a page to touch the latent space with: one HTML file that holds the model.

    python explore.py                                    # outputs/explore.html
    python explore.py --checkpoint checkpoints/pretrained_binarized.pt --out outputs/binarized.html

Open it with a double click, on a laptop or a phone: it needs no server, no network and no
other file. Move over the map of the test digits, drag every latent, ask for a digit, write
one of your own, walk from one to another.
"""

import base64
import io
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data import EVAL_BATCH, draw_pixels, load_split, to_float
from mixture import TEMPERATURE
from model import LOGVAR_RANGE, RECON
from support import flags, pictures
from support.device import pick_device
from support.errors import UserError, user_errors
from support.files import check_outputs, write_file
from support.layers import network_layers
from support.measures import check_differs, embed, usual_perplexity
from support.runs import open_model
from support.terminal import next_step

TEMPLATE = Path(__file__).parent / "support" / "explore.html"
DIGITS = 2000  # on the map: as many as t-SNE places in ten seconds or so
SPRITE_COLUMNS = 50


def parse_args():
    parser = flags.Parser(__doc__)
    flags.add_checkpoint(parser)
    parser.add_argument(
        "--out", type=flags.file_of(".html"), default=Path("outputs/explore.html"), help="the page"
    )
    flags.add_data(parser)
    flags.add_seed(parser)
    flags.add_device(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    model, run, path = open_model(args.checkpoint, pick_device(args.device), args.images)
    check_outputs(args.out, spare=[path])
    generator = torch.Generator().manual_seed(args.seed)
    test = load_split(run, args.data_dir, "test")
    indices, x = choose_digits(test.images, run.settings.binarize, generator)
    mu, logvar = model.encode_all(x.split(EVAL_BATCH))
    check_differs(mu, path)
    network = network_layers(model.cpu(), x[:2])

    print(f"t-SNE of {len(x):,} test images", flush=True)
    center, directions = leading_plane(mu)
    z = model.reparameterize(mu, logvar, generator)
    numbers = Numbers()
    page = {
        "about": about(model, run, path, len(x), test.source),
        "size": list(x.shape[2:]),
        "latentDim": mu.shape[1],
        "logvarRange": LOGVAR_RANGE,
        "binarize": run.settings.binarize,
        "classes": run.classes,
        "palette": pictures.palette(max(1, len(run.classes))),
        "network": numbers.pack(network),
        "mixture": numbers.pack(run.mixture, half=False),
        "temperature": TEMPERATURE,
        "digits": {
            "indices": indices.tolist(),
            "labels": test.labels[indices].tolist(),
            "mu": numbers.pack(mu),
            "tsne": numbers.pack(embed(mu, usual_perplexity(len(mu)), args.seed)),
            "columns": SPRITE_COLUMNS,
        },
        "plane": {"center": center.tolist(), "directions": directions.tolist()},
        "latents": {"low": z.amin(0).tolist(), "high": z.amax(0).tolist(), "variance": mu.var(0).tolist()},
    }
    content = fill(TEMPLATE.read_text(encoding="utf-8"), page, numbers, sprite(x))
    write_file(args.out, content)
    print(f"wrote {args.out}: {len(content) / 1e6:.1f} MB; open it in a browser")
    print(next_step(args.checkpoint, args.data_dir, "tsne", "interpolate", images=args.images))


def choose_digits(images, binarize, generator):
    """Which test images are on the map, (N,), and these as the model sees them, (N, 1, H, W) in [0, 1].

    A model of black and white pixels is given some that are drawn once, as evaluate.py does.
    """
    if len(images) < 2:
        raise UserError("a map needs at least 2 test images, and there is only one: give it more")
    indices = torch.randperm(len(images), generator=generator)[:DIGITS]
    x = to_float(images[indices])
    return indices, draw_pixels(x, binarize, generator)


def about(model, run, path, digits, source):
    """What the page says of its model, of its training and of the images on its map."""
    settings = run.settings
    from_sample = " of the packaged sample, all from MNIST's training set" if source == "sample" else ""
    facts = {
        "checkpoint": "/".join(path.parts[-2:]),  # the folders above are nobody's business
        "dataset": settings.dataset_name + (" (5,000-digit sample)" if run.source == "sample" else ""),
        "epochs": f"{len(run.history)} of {settings.epochs}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "digits": f"{digits:,}{from_sample}",
        "recon": RECON,
        "split": settings.test_split,
        "settings": {
            name: value for name, value in asdict(settings).items() if name not in ("dataset", "from_")
        },
    }
    if run.history:
        last = run.history[-1]
        facts |= {"bce": last["test_bce"], "kld": last["test_kld"]}
    return facts


def leading_plane(mu):
    """The plane in which mu (N, D) varies most: its center (D,) and two directions (2, D), or one of D = 1.

    Two latents are a plane themselves, a single one is a line.
    """
    dimensions = mu.shape[1]
    if dimensions <= 2:
        return torch.zeros(dimensions), torch.eye(dimensions)
    _, directions = torch.linalg.eigh(mu.T.cov())  # ascending variances
    return mu.mean(0), directions[:, -2:].flip(1).T


def sprite(x):
    """The images (N, 1, H, W) as one PNG, SPRITE_COLUMNS in a row."""
    _, _, height, width = x.shape
    rows = math.ceil(len(x) / SPRITE_COLUMNS)
    canvas = np.zeros((rows * SPRITE_COLUMNS, height, width), np.uint8)
    canvas[: len(x)] = pictures.to_pixels(x)
    canvas = canvas.reshape(rows, SPRITE_COLUMNS, height, width).swapaxes(1, 2)
    buffer = io.BytesIO()
    Image.fromarray(canvas.reshape(rows * height, -1)).save(buffer, "png", optimize=True)
    return buffer.getvalue()


class Numbers:
    """All large tensors of the page in two runs of bytes: half precision for most, single for the few."""

    def __init__(self):
        self.half, self.single = [], []

    def pack(self, value, half=True):
        """``value`` with each tensor in it put away, and in its place where it is and its shape.

        Vectors are in single precision, as is everything without ``half``: they are few, and
        biases are what all else is added to.
        """
        if isinstance(value, dict):
            return {name: self.pack(item, half) for name, item in value.items()}
        if isinstance(value, list):
            return [self.pack(item, half) for item in value]
        if not isinstance(value, torch.Tensor):
            return value
        kind = "half" if half and value.ndim > 1 else "single"
        store, dtype = getattr(self, kind), {"half": "<f2", "single": "<f4"}[kind]
        with np.errstate(over="ignore"):
            array = value.detach().numpy().astype(dtype)
        if not np.isfinite(array).all():
            raise UserError("the model has weights too large for half precision: train another model")
        start = sum(part.size for part in store)
        store.append(array.ravel())
        return {"store": kind, "start": start, "shape": list(value.shape)}


def fill(template, page, numbers, png):
    """The page as bytes: the template with what belongs at its four marks."""
    text = json.dumps(page, allow_nan=False).replace("<", "\\u003c")  # no name can end the script element
    marks = {
        "{{page}}": text,
        "{{half}}": base64.b64encode(np.concatenate(numbers.half).tobytes()).decode(),
        "{{single}}": base64.b64encode(np.concatenate(numbers.single).tobytes()).decode(),
        "{{sprite}}": base64.b64encode(png).decode(),
    }
    for mark, content in marks.items():
        template = template.replace(mark, content)
    return template.encode()


if __name__ == "__main__":
    with user_errors():
        main()
