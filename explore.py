"""Write a page to touch the latent space with: one HTML file that holds the model.

    python explore.py                                    # outputs/explore.html
    python explore.py --checkpoint checkpoints/pretrained_binarized.pt --out outputs/binarized.html

Open it with a double click, on a laptop or a phone: it needs no server, no network and no
other file. Move over the map of the test digits, drag every latent or two at once, ask for a
digit, write one of your own, walk from one to another, save what you see.
"""

import base64
import json
import re
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from data import EVAL_BATCH, draw_pixels, load_split, to_float
from mixture import TEMPERATURE
from model import LOGVAR_RANGE, RECON
from support import flags, pictures
from support.device import pick_device
from support.errors import UserError, user_errors
from support.files import check_outputs, from_here, is_elsewhere, write_file
from support.layers import network_layers
from support.measures import embed
from support.runs import open_model
from support.terminal import next_step

TEMPLATE = Path(__file__).parent / "support" / "explore.html"
PARTS = Path(__file__).parent / "support" / "page"
DIGITS = 2000  # on the map: as many as t-SNE places in ten seconds or so
PIECE = 300_000  # bytes, a multiple of 3: WebKit takes half a minute for all of them in one script


def parse_args():
    parser = flags.Parser(__doc__)
    parser.add_argument("--out", type=flags.file_of(".html"), default="outputs/explore.html", help="the page")
    flags.add_shared(parser, "--checkpoint", "--data-dir", "--images", "--seed", "--device")
    return parser.parse_args()


def main():
    args = parse_args()
    model, run, path = open_model(args.checkpoint, pick_device(args.device), args.images)
    check_outputs(args.out, spare=[path])
    test = load_split(run, args.data_dir, "test")
    generator = torch.Generator().manual_seed(args.seed)
    indices = torch.randperm(len(test.images), generator=generator)[:DIGITS]
    x = draw_pixels(to_float(test.images[indices]), run.settings.binarize, generator)  # (N, 1, 28, 28)
    mu, logvar = model.encode_all(x.split(EVAL_BATCH))
    network = network_layers(model.cpu(), x[:2])
    points = embed(mu, path, args.seed)
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
            "tsne": numbers.pack(points),
        },
        "plane": {"center": center.tolist(), "directions": directions.tolist()},
        "latents": {"low": z.amin(0).tolist(), "high": z.amax(0).tolist(), "variance": mu.var(0).tolist()},
    }
    grays = zlib.compress(pictures.to_pixels(x).tobytes(), 9)  # a PNG not every browser decodes everywhere
    content = fill(page, numbers, grays)
    write_file(args.out, content)
    print(f"wrote {args.out}: {len(content) / 1e6:.1f} MB; open it in a browser")
    print(next_step(args.checkpoint, args.data_dir, "tsne", "interpolate", images=args.images))


def about(model, run, path, digits, source):
    """What the page says of its model, of its training and of the images on its map."""
    settings = run.settings
    from_sample = " of the packaged sample, all from MNIST's training set" if source == "sample" else ""
    facts = {
        "checkpoint": path.name if is_elsewhere(path) else from_here(path),  # other folders are private
        "dataset": settings.dataset_name + (" (5,000-digit sample)" if run.source == "sample" else ""),
        "epochs": f"{len(run.history)} of {settings.epochs}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "digits": f"{digits:,}{from_sample}",
        "recon": RECON,
        "split": settings.test_split,
        "settings": {k: value for k, value in asdict(settings).items() if k not in ("dataset", "from_")},
    }
    if run.history:
        facts |= {"bce": run.history[-1]["test_bce"], "kld": run.history[-1]["test_kld"]}
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


class Numbers:
    """All large tensors of the page in two arrays: half precision for most, single for the few."""

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
        kind, dtype = ("half", "<f2") if half and value.ndim > 1 else ("single", "<f4")
        with np.errstate(over="ignore"):
            array = value.detach().numpy().astype(dtype)
        if not np.isfinite(array).all():
            raise UserError("the model has weights too large for half precision: train another model")
        store = getattr(self, kind)
        start = sum(part.size for part in store)
        store.append(array.ravel())
        return {"store": kind, "start": start, "shape": list(value.shape)}


def fill(page, numbers, grays):
    """The page as bytes: the template with what belongs at its marks, a file of PARTS or one of these.

    All at once: what is put in is not searched for marks.
    """
    contents = {"page": json.dumps(page, allow_nan=False).replace("<", "\\u003c")}  # no name ends the script
    stores = {"half": np.concatenate(numbers.half), "single": np.concatenate(numbers.single), "grays": grays}
    contents |= {name: pieces(name, bytes(store)) for name, store in stores.items()}

    def content(mark):
        return contents.get(mark[1]) or (PARTS / mark[1]).read_text(encoding="utf-8")

    return re.sub(r"\{\{([\w.]+)\}\}", content, TEMPLATE.read_text(encoding="utf-8")).encode()


def pieces(name, content):
    """Bytes as script elements of the class ``name``, in base64."""
    starts = range(0, len(content), PIECE)
    texts = [base64.b64encode(content[start : start + PIECE]).decode() for start in starts]
    return "\n".join(f'<script type="text/plain" class="{name}">{text}</script>' for text in texts)


if __name__ == "__main__":
    with user_errors():
        main()
