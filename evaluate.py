"""Measure a model on the test images: likelihood, latents, and on demand how good its samples are.

    python evaluate.py                                  # one table
    python evaluate.py --samples                        # and how good its samples are
    python evaluate.py --iw-samples 5000 --checkpoint checkpoints/pretrained_binarized.pt   # and -log p(x)
    python evaluate.py --json outputs/numbers.json      # and all numbers as JSON

All losses are in nats per image: summed over pixels and latents, averaged over images,
with z sampled from q(z|x). A model trained with --binarize is measured on pixels drawn
once from the test images' gray levels, with --seed, alike on every device. One trained
with --validate is measured on the training images that it held out.
"""

import json
import time

import torch

from data import EVAL_BATCH, batches, draw_pixels, load_split, to_float
from mixture import TEMPERATURE, sample_labels, sample_mixture
from model import RECON
from support import flags, judge, measures
from support.device import generators, pick_device, pick_precision
from support.errors import UserError, user_errors
from support.files import check_outputs, from_here, write_file
from support.runs import mixture_of, open_model
from support.terminal import progress, warn

IW_IMAGES = 20  # at a time, with many z each
ACTIVE = 0.01  # a latent unit is active if the variance of its mu over images exceeds this


def parse_args():
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    add("--draws", type=flags.count, default=10, help="how often z is sampled for each image")
    add("--iw-samples", type=flags.count, metavar="K", help="also estimate -log p(x) from K samples of z")
    spread = flags.number(float, at_least=1)
    add("--iw-spread", type=spread, default=1.0, help="widen q(z|x) by this factor, no std beyond 1")
    add("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="of the decoder of sampled z")
    add("--samples", action="store_true", help="also judge samples, by a classifier trained in a minute")
    add("--json", type=flags.user_path, metavar="FILE", help="also write the numbers to this file")
    flags.add_shared(parser, "--checkpoint", "--data-dir", "--images", "--seed", "--device")
    return parser.parse_args()


@torch.no_grad()
def main():
    args = parse_args()
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    model, run, path = open_model(args.checkpoint, device, args.images)
    model.to(memory_format=torch.channels_last)  # faster on a CPU
    check_outputs(args.json, spare=[path])
    settings = run.settings
    mixture = mixture_of(run, path) if args.samples else None  # if missing, say so now, not in an hour
    if args.samples and len(run.classes) < 2:
        raise UserError("--samples asks a classifier, and there are no classes to tell apart: leave it out")
    train = load_split(run, args.data_dir, "train")
    test = load_split(run, args.data_dir, settings.test_split)
    check_data(path, run, test)
    on_cpu, generator = generators(args.seed, device)
    gray, train_images = to_float(test.images), train.images.to(device)  # (N, 1, 28, 28)
    x = draw_pixels(gray, settings.binarize, on_cpu).to(device)

    numbers = {
        "checkpoint": from_here(path),
        "dataset": settings.dataset_name,
        "source": test.source,
        "split": settings.test_split,
        "pixels": "binarized" if settings.binarize else "gray",
        "images": len(x),
        "draws": args.draws,
        "seed": args.seed,
        "device": device.type,
        "precision": precision,
        "torch": torch.__version__,
    }
    elbo, mu, logvar = elbo_numbers(model, x, args.draws, generator, precision)
    numbers |= elbo
    if run.classes:
        train_mu, _ = model.encode_all(batches(train_images, EVAL_BATCH, settings.binarize, generator))
        numbers["knn_accuracy"] = measures.neighbor_accuracy(train_mu, train.labels, mu.cpu(), test.labels)
    print(table(numbers))
    if args.iw_samples:
        numbers |= iw_numbers(model, x, args.iw_samples, generator, precision, args.iw_spread)
        print(iw_line(numbers))
    if args.samples:
        classifier = judge.load_judge("outputs", train_images, train.labels)
        recon = model.decode_all(model.reparameterize(mu, logvar, generator))
        kinds = draw_images(model, mixture, train_images, recon, args.seed)
        samples = judge.sample_numbers(classifier, kinds, gray.to(device), test.labels)
        numbers["samples"] = {"n": len(x), "seed": args.seed, "temperature": TEMPERATURE} | samples
        print(judge.sample_table(numbers["samples"], run.classes, settings.test_split))
    if args.json:
        write_file(args.json, (json.dumps(numbers, indent=2) + "\n").encode())
        print(f"wrote {args.json}")


def check_data(path, run, test):
    """Refuse, or warn of, images that give no test results: a single one, or some that were trained on."""
    if len(test.images) < 2:
        raise UserError("one test image has no spread to measure: give more with --data-dir or --images")
    if run.settings.validate and test.source != run.source:
        raise UserError(f"{path} held out {run.source} images and found {test.source} ones: check --data-dir")
    if test.source == "sample" and run.source == "full":
        warn(f"the packaged digits are among the training images of {path}: no test results")


def elbo_numbers(model, x, draws, generator, precision):
    """Figures of the negative ELBO of images x (N, 1, 28, 28); their mu and logvar, (N, latent_dim) each."""
    parts = progress(x.split(EVAL_BATCH), desc="ELBO", unit="batch")
    bce, kld, mu, logvar = measures.elbo_terms(model, parts, draws, generator, precision)
    parts = zip(mu.split(EVAL_BATCH), x.split(EVAL_BATCH), strict=True)
    bce_at_mu = torch.cat([measures.recon_of(model, z, part) for z, part in parts])
    numbers = {
        "negative_elbo": (bce + kld).mean().item(),
        "negative_elbo_se": measures.standard_error(bce + kld),
        "bce": bce.mean().item(),
        "kld": kld.mean().item(),
        "bce_floor": measures.entropy(x).item(),
        "bce_at_mu": bce_at_mu.mean().item(),
        "active_units": int((mu.var(0) > ACTIVE).sum()),
        "latent_dim": mu.shape[1],
    }
    return numbers, mu, logvar


def iw_numbers(model, x, k, generator, precision, spread):
    """-log p(x) estimated from k importance samples for each image, and its standard error."""
    start = time.perf_counter()
    parts = progress(x.split(IW_IMAGES), desc=f"-log p(x), K = {k:,}", unit="batch")
    log_p = [measures.iw_log_likelihood(model, part, k, generator, precision, spread) for part in parts]
    log_p = torch.cat(log_p)
    return {
        "iw_samples": k,
        "iw_spread": spread,
        "nll": -log_p.mean().item(),
        "nll_se": measures.standard_error(log_p),
        "iw_seconds": time.perf_counter() - start,
    }


def draw_images(model, mixture, train_images, recon, seed):
    """As many images of each kind as there are reconstructions (N, 1, 28, 28), for the judge: {kind: images}.

    Gray even for a model of black and white pixels, whose decoder answers with their means.
    """
    n, classes, generator = len(recon), len(mixture["share"]), torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train_images), generator=generator).to(train_images.device)
    asked = torch.arange(classes).repeat_interleave(max(1, n // classes))  # in equal numbers, in order

    def draw(labels):
        return model.decode_all(sample_mixture(mixture, labels, generator=generator))

    return {
        "train": to_float(train_images[order[:n]]),
        "halves": [to_float(train_images[half]) for half in order[: 2 * n].chunk(2)],  # for the floor
        "recon": recon,
        "prior": model.sample(n, generator=generator),
        "mixture": draw(sample_labels(mixture, n, generator)),
        "asked": draw(asked),
    }


# What is printed


def table(n):
    sample = " (packaged sample)" if n["source"] == "sample" else ""
    pixels = "pixels binarized once" if n["pixels"] == "binarized" else "gray pixels"
    draws = "once" if n["draws"] == 1 else f"{n['draws']} times"
    floor = f"  no lower than {n['bce_floor']:.2f}, the entropy of the pixels" if RECON == "BCE" else ""
    lines = [
        f"{n['images']:,} {n['split']} images of {n['dataset']}{sample}, {pixels}, "
        f"z sampled {draws}, seed {n['seed']}; nats per image",
        f"  {n['split'] + ' -ELBO':26}{n['negative_elbo']:8.2f}  standard error {n['negative_elbo_se']:.2f}",
        f"    = {RECON:22}{n['bce']:8.2f}{floor}",
        f"    + KL                    {n['kld']:8.2f}",
        f"  reconstruction at z = mu  {n['bce_at_mu']:8.2f}  {RECON} alone; not an ELBO",
        f"  active latent units       {n['active_units']:5d} of {n['latent_dim']}",
    ]
    if "knn_accuracy" in n:
        knn = f"{n['knn_accuracy']:8.2%}"
        lines.append(f"  10-NN accuracy of mu      {knn}  neighbours among the training images")
    return "\n".join(lines)


def iw_line(n):
    bound = "-log p(x)" if n["pixels"] == "binarized" else "IW bound"  # gray pixels have no likelihood
    label = f"{bound}, K = {n['iw_samples']:,}"
    wider = "" if n["iw_spread"] == 1 else f"z {n['iw_spread']:g} times as wide; "
    how = f"{wider}{n['precision']}, {n['iw_seconds']:,.0f} s"
    return f"  {label:24} {n['nll']:8.2f}  standard error {n['nll_se']:.2f}; {how}"


if __name__ == "__main__":
    with user_errors():
        main()
