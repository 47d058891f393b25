"""Measure a model on the test images: every number the README reports.

    python evaluate.py                                  # one table
    python evaluate.py --samples                        # and how good its samples are
    python evaluate.py --iw-samples 5000 --checkpoint checkpoints/pretrained_binarized.pt   # and -log p(x)
    python evaluate.py --json outputs/numbers.json      # all of it for a machine, too

All losses are in nats per image: summed over pixels and latents, averaged over images,
with z sampled from q(z|x). A model trained with --binarize is measured on pixels drawn
once from the test images' gray levels, with a fixed seed; one trained with --validate,
on the training images that it held out.
"""

import json
import math
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F
from tqdm import tqdm

import cli
from data import CLASS_NAMES, batches, hold_out, load_dataset
from judge import assess, frechet_distance, load_judge
from mixture import TEMPERATURE, sample_labels, sample_mixture
from model import vae_terms, write_file

BATCH = 1000
IW_IMAGES, IW_CHUNK = 20, 100  # images, and samples of z for each, decoded at a time
ACTIVE = 0.01  # a latent unit is active if the variance of its mu over images exceeds this
NEIGHBORS = 10


def parse_args():
    parser = cli.Parser(__doc__)
    cli.add_checkpoint(parser)
    parser.add_argument(
        "--draws", type=cli.positive_int, default=10, help="how often z is sampled for each image"
    )
    parser.add_argument(
        "--iw-samples",
        type=cli.positive_int,
        metavar="K",
        help="also estimate -log p(x) from K samples of z; "
        "gray pixels have no likelihood, so that a bound tighter than the ELBO is all it is for them",
    )
    parser.add_argument(
        "--samples",
        action="store_true",
        help="also judge samples, with a classifier trained for it in a minute",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    cli.add_data_dir(parser)
    parser.add_argument(
        "--iw-precision",
        choices=["fp32", "bf16"],
        default="fp32",
        help="of the decoder in --iw-samples: bf16 halves the time where the hardware has it, and moves the "
        "estimate by some thousandths of a nat",
    )
    cli.add_seed(parser)
    cli.add_device(parser)
    return parser.parse_args()


@torch.no_grad()
def main():
    args = parse_args()
    device = cli.pick_device(args.device)
    model, state, path = cli.open_model(args.checkpoint, device)
    dataset, binarized = state["args"]["dataset"], state["args"]["binarize"]
    split = cli.split_of(state["args"])
    mixture = cli.mixture_of(state, path) if args.samples else None  # no reason to find out in an hour
    train_images, train_labels, source = load_dataset(dataset, args.data_dir, train=True)
    if split == "validation":
        (train_images, train_labels), (images, labels) = hold_out(train_images, train_labels)
    else:
        images, labels, _ = load_dataset(dataset, args.data_dir, train=False)
    check_source(path, state["source"], source, split)
    images, train_images = images.to(device), train_images.to(device)
    generator = torch.Generator(device).manual_seed(args.seed)

    def seen(part):  # as the model saw images in its training
        return torch.bernoulli(part, generator=generator) if binarized else part

    gray = torch.cat(list(batches(images, BATCH)))  # (N, 1, 28, 28)
    x = seen(gray)

    bce, kld = elbo_terms(model, x, args.draws, generator)
    mu = torch.cat([model.encode(part)[0] for part in x.split(BATCH)])
    recon_bce = F.binary_cross_entropy(model.decode_all(mu), x.cpu(), reduction="sum")
    train_mu = torch.cat([model.encode(seen(part))[0] for part in batches(train_images, BATCH)])
    numbers = {
        "checkpoint": str(path),
        "dataset": dataset,
        "source": source,
        "split": split,
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
    if args.iw_samples:
        numbers |= iw_numbers(model, x, args.iw_samples, generator, args.iw_precision == "bf16")
        label = f"{'-log p(x)' if binarized else 'IW bound'}, K = {args.iw_samples:,}"
        line = "  {:24} {nll:8.2f}  standard error {nll_se:.2f}; {iw_precision}, {iw_seconds:,.0f} s"
        print(line.format(label, **numbers))
    if args.samples:
        judge = load_judge("outputs", train_images, train_labels)
        recon = model.decode_all(
            torch.cat([model.reparameterize(*model.encode(part), generator) for part in x.split(BATCH)])
        )
        numbers["samples"] = sample_numbers(
            model, mixture, judge, train_images, gray, labels, recon, args.seed
        )
        print(sample_table(numbers["samples"], CLASS_NAMES[dataset], split))
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


def iw_numbers(model, x, k, generator, bf16=False):
    """-log p(x) estimated from k importance samples of q(z|x) for each image, and its standard error.

    A lower bound on log p(x) on average, tighter for larger k: Burda et al., "Importance
    Weighted Autoencoders", 2016 (arXiv:1509.00519).
    """
    start = time.perf_counter()
    log_p = []
    with tqdm(desc=f"-log p(x), K = {k:,}", total=len(x), unit="img", leave=False) as bar:
        for part in x.split(IW_IMAGES):
            log_p.append(iw_log_likelihood(model, part, k, generator, bf16))
            bar.update(len(part))
    log_p = torch.cat(log_p)
    return {
        "iw_samples": k,
        "iw_precision": "bf16" if bf16 else "fp32",
        "nll": -log_p.mean().item(),
        "nll_se": standard_error(log_p),
        "iw_seconds": time.perf_counter() - start,
    }


def iw_log_likelihood(model, x, k, generator, bf16=False):
    """log 1/k sum_i p(x, z_i) / q(z_i|x) for images x (B, 1, 28, 28), z_i ~ q(z|x): (B,) nats.

    bf16 concerns the decoder's layers alone: densities and sums are float32 whatever it is.
    """
    mu, logvar = model.encode(x)  # once, whatever k
    total = torch.full((len(x),), -math.inf, device=x.device)
    for n in [IW_CHUNK] * (k // IW_CHUNK) + [k % IW_CHUNK] * (k % IW_CHUNK > 0):
        eps = torch.randn(n, *mu.shape, generator=generator, device=x.device)  # (n, B, latent_dim)
        z = mu + (0.5 * logvar).exp() * eps
        # log p(z) - log q(z|x); the two Gaussians' constants cancel
        log_ratio = 0.5 * (eps.square() - z.square() + logvar).sum(2)  # (n, B)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            logits = model.decode_logits(z.flatten(0, 1))  # (n * B, 1, 28, 28)
        logits = logits.float().view(n, len(x), -1)  # -> (n, B, 784)
        # log p(x|z) = sum of x * logit - log(1 + exp(logit)), without a copy of x for every z
        log_px = torch.einsum("nbp,bp->nb", logits, x.flatten(1)) - F.softplus(logits).sum(2)
        total = torch.logaddexp(total, (log_px + log_ratio).logsumexp(0))
    return total - math.log(k)


def check_source(path, trained_on, found, split):
    """Say what would make the numbers wrong: images the model knows, called those it has not seen."""
    if split == "validation" and found != trained_on:
        raise cli.UserError(
            f"{path} held out images of the {trained_on} data set and found the {found} one: check --data-dir"
        )
    if found == "sample" and trained_on == "full":
        print(
            f"warning: the packaged digits are among the training images of {path}: no test results",
            file=sys.stderr,
        )


def sample_numbers(model, mixture, judge, train_images, images, labels, recon, seed):
    """Quality of samples, as many as there are test images, by the judge.

    images, their labels and their reconstructions recon: (N, 1, 28, 28) in [0, 1], gray even
    for a model of black and white pixels, whose decoder answers with their means.
    """
    n, cpu = len(images), torch.Generator().manual_seed(seed)
    real, seen = assess(judge, images)
    subset = torch.randperm(len(train_images), generator=cpu)[:n].to(train_images.device)
    classes = torch.arange(10).repeat_interleave(max(1, n // 10))
    sources = {
        "train": next(batches(train_images, n, subset)),
        "recon": recon,
        "prior": model.sample(n, generator=cpu),
        "mixture": model.decode_all(sample_mixture(mixture, sample_labels(mixture, n, cpu), generator=cpu)),
    }
    result = {
        "n": n,
        "seed": seed,
        "temperature": TEMPERATURE,
        "judge_accuracy": (seen.argmax(1) == labels).float().mean().item(),
    }
    for name, drawn in sources.items():
        features, probabilities = assess(judge, drawn)
        result[name] = {
            "frechet": frechet_distance(features, real),
            "confidence": probabilities.max(1).values.mean().item(),
            "share": (torch.bincount(probabilities.argmax(1), minlength=10) / len(drawn)).tolist(),
        }
    asked = assess(judge, model.decode_all(sample_mixture(mixture, classes, generator=cpu)))[1].argmax(1)
    result["asked_for"] = (asked == classes).float().mean().item()
    return result


def sample_table(s, names, split):
    lines = [
        f"{s['n']:,} samples of each kind, seed {s['seed']}, the mixture's at temperature {s['temperature']};"
        f" the judge is right on {s['judge_accuracy']:.2%} of the {split} images",
        "                   Frechet distance   confidence   share of each class, %: " + " ".join(names),
    ]
    kinds = {
        "train": "training images",
        "recon": "reconstructions",
        "prior": "N(0, I)",
        "mixture": "latent mixture",
    }
    for key, name in kinds.items():
        share = " ".join(f"{100 * value:.1f}" for value in s[key]["share"])
        lines.append(f"  {name:16} {s[key]['frechet']:12.2f} {s[key]['confidence']:16.1%}     {share}")
    return "\n".join([*lines, f"  --digit d is seen as d {s['asked_for']:.1%} of the time"])


def standard_error(values):
    return (values.cpu().double().std() / math.sqrt(len(values))).item()


def entropy(x):
    """Mean entropy of the pixels as Bernoulli variables, nats per image: no BCE can be lower."""
    return F.binary_cross_entropy(x, x, reduction="sum") / len(x)


def knn_accuracy(train_mu, train_labels, mu, labels):
    """How well the 10 nearest training images in the latent space vote for a test image's class."""
    from sklearn.neighbors import KNeighborsClassifier  # here, not above: --help should not wait for it

    knn = KNeighborsClassifier(min(NEIGHBORS, len(train_mu)), algorithm="brute").fit(
        train_mu.cpu().numpy(), train_labels.numpy()
    )
    return float(knn.score(mu.cpu().numpy(), labels.numpy()))


def table(numbers):
    n = dict(numbers, elbo=f"{numbers['split']} -ELBO")
    n["sample"] = " (packaged sample)" if n["source"] == "sample" else ""
    n["pixels"] = "pixels binarized with a fixed seed" if n["pixels"] == "binarized" else "gray pixels"
    return """\
{images:,} {split} images of {dataset}{sample}, {pixels}, z sampled {draws} times, seed {seed}; nats per image
  {elbo:26}{negative_elbo:8.2f}  standard error {negative_elbo_se:.2f}
    = BCE                   {bce:8.2f}  no lower than {bce_floor:.2f}, the entropy of the pixels
    + KL                    {kld:8.2f}
  reconstruction at z = mu  {bce_at_mu:8.2f}  BCE alone; not an ELBO
  active latent units       {active_units:5d} of {latent_dim}
  10-NN accuracy of mu      {knn_accuracy:8.2%}  neighbours among the training images""".format(**n)


if __name__ == "__main__":
    with cli.user_errors():
        main()
