"""Measure a model on the test images: every number the README reports.

    python evaluate.py                                  # one table
    python evaluate.py --json outputs/numbers.json      # and the same for a machine

All losses are in nats per image: summed over pixels and latents, averaged over images,
with z sampled from q(z|x). A model trained with --binarize is measured on pixels drawn
once from the test images' gray levels, with a fixed seed.
"""

import json
import math
from pathlib import Path

import torch
from torch.nn import functional as F
from tqdm import tqdm

import cli
from data import batches, load_dataset
from model import vae_terms, write_file

BATCH = 1000
ACTIVE = 0.01  # a latent unit is active if the variance of its mu over images exceeds this
NEIGHBORS = 10


def parse_args():
    parser = cli.Parser(__doc__)
    cli.add_checkpoint(parser)
    parser.add_argument(
        "--draws", type=cli.positive_int, default=10, help="how often z is sampled for each image"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    cli.add_data_dir(parser)
    cli.add_seed(parser)
    cli.add_device(parser)
    return parser.parse_args()


@torch.no_grad()
def main():
    args = parse_args()
    device = cli.pick_device(args.device)
    model, state, path = cli.open_model(args.checkpoint, device)
    dataset, binarized = state["args"]["dataset"], state["args"]["binarize"]
    images, labels, source = load_dataset(dataset, args.data_dir, train=False)
    train_images, train_labels, _ = load_dataset(dataset, args.data_dir, train=True)
    images, train_images = images.to(device), train_images.to(device)
    generator = torch.Generator(device).manual_seed(args.seed)
    x = torch.cat(list(batches(images, BATCH)))  # (N, 1, 28, 28)
    if binarized:
        x = torch.bernoulli(x, generator=generator)

    bce, kld = elbo_terms(model, x, args.draws, generator)
    mu = torch.cat([model.encode(part)[0] for part in x.split(BATCH)])
    recon_bce = F.binary_cross_entropy(
        torch.cat([model.decode(m) for m in mu.split(BATCH)]), x, reduction="sum"
    )
    train_mu = torch.cat([model.encode(part)[0] for part in batches(train_images, BATCH)])
    numbers = {
        "checkpoint": str(path),
        "dataset": dataset,
        "source": source,
        "pixels": "binarized" if binarized else "gray",
        "images": len(x),
        "draws": args.draws,
        "seed": args.seed,
        "device": device.type,
        "torch": torch.__version__,
        "negative_elbo": (bce + kld).mean().item(),
        "negative_elbo_se": standard_error(bce + kld),
        "bce": bce.mean().item(),
        "kld": kld.mean().item(),
        "bce_floor": entropy(x).item(),
        "bce_at_mu": recon_bce.item() / len(x),
        "active_units": int((mu.var(0) > ACTIVE).sum()),
        "latent_dim": mu.shape[1],
        "knn_accuracy": knn_accuracy(train_mu, train_labels, mu, labels),
    }
    print(table(numbers))
    if args.json:
        write_file(args.json, (json.dumps(numbers, indent=2) + "\n").encode())
        print(f"wrote {args.json}")


def elbo_terms(model, x, draws, generator):
    """bce and kld of every image, (N,) nats each, z sampled ``draws`` times and averaged over them."""
    bce, kld = [], []
    for part in tqdm(x.split(BATCH), desc="ELBO", unit="batch", leave=False):
        mu, logvar = model.encode(part)
        terms = [
            vae_terms(model.decode_logits(model.reparameterize(mu, logvar, generator)), part, mu, logvar)
            for _ in range(draws)
        ]
        bce.append(torch.stack([b for b, _ in terms]).mean(0))
        kld.append(terms[0][1])  # in closed form: it does not depend on the draw
    return torch.cat(bce), torch.cat(kld)


def standard_error(values):
    return (values.double().std() / math.sqrt(len(values))).item()


def entropy(x):
    """Mean entropy of the pixels as Bernoulli variables, nats per image: no BCE can be lower."""
    return F.binary_cross_entropy(x, x, reduction="sum") / len(x)


def knn_accuracy(train_mu, train_labels, mu, labels):
    """How well the 10 nearest training images in the latent space vote for a test image's class."""
    from sklearn.neighbors import KNeighborsClassifier  # here, not above: --help should not wait for it

    knn = KNeighborsClassifier(NEIGHBORS, algorithm="brute").fit(train_mu.cpu().numpy(), train_labels.numpy())
    return float(knn.score(mu.cpu().numpy(), labels.numpy()))


def table(numbers):
    n = dict(numbers)
    n["sample"] = " (packaged sample)" if n["source"] == "sample" else ""
    n["pixels"] = "pixels binarized with a fixed seed" if n["pixels"] == "binarized" else "gray pixels"
    return """\
{images:,} test images of {dataset}{sample}, {pixels}, z sampled {draws} times, seed {seed}; nats per image
  test -ELBO                {negative_elbo:8.2f}  standard error {negative_elbo_se:.2f}
    = BCE                   {bce:8.2f}  no lower than {bce_floor:.2f}, the entropy of the pixels
    + KL                    {kld:8.2f}
  reconstruction at z = mu  {bce_at_mu:8.2f}  BCE alone; not an ELBO
  active latent units       {active_units:5d} of {latent_dim}
  10-NN accuracy of mu      {knn_accuracy:8.2%}  neighbours among the training images""".format(**n)


if __name__ == "__main__":
    with cli.user_errors():
        main()
