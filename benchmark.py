"""How fast training is, beside the usual way of writing it: ratios, since a machine's speed wanders.

    python benchmark.py                                 # in two minutes on two CPU cores
    python benchmark.py --time-to 105.6                 # and the seconds to that test -ELBO
    python benchmark.py --time-to 105.6 --flax          # also those of the fastest peer that we know of
    python benchmark.py --json outputs/benchmark.json   # the ratios for a machine, too

Every round trains the same network on the same number of images in both ways, one right after the
other; what is compared are a round's own times, and the spread over the rounds is printed.

this repository: steps like train.py's, replayed on a CUDA GPU, with a schedule of their own
the usual way: a torchvision data set with ToTensor, a DataLoader, float32, NCHW, plain Adam,
    loss.item() in every step, the activation before the pooling: the same function

--time-to trains until the test -ELBO, in nats per image with z sampled, is below a figure: this
repository's network on a short schedule, pytorch/examples' VAE (fully connected, 400 hidden units,
20 latents) in the usual way, and with --flax that of flax's examples (500 hidden units), compiled by
JAX. They take turns, a sixth of an epoch each, and the test images are measured after every turn.
What is compared is the time spent on training alone, without JAX's second of compiling.
"""

import copy
import importlib.util
import json
import math
import statistics
import time

import numpy as np
import torch

from data import batches, load_split, to_float
from model import ConvVAE, vae_loss
from optimizer import make_optimizer
from settings import Settings
from support import flags
from support.checkpoint import Run
from support.device import graphed, pick_device, pick_precision
from support.errors import user_errors
from support.files import check_outputs, write_file
from support.measures import elbo_terms
from support.terminal import progress
from support.usual import Example, usual_layers, usual_way

# For so few steps a decay to zero in a straight line, and averages over fewer of them than train.py's
LR, BETAS = 5e-3, (0.8, 0.9)
EXAMPLE_LR = 1e-3
EXAMPLE_EPOCHS = 20  # it needs about ten to 105.6 nats
PARTS = 6  # of an epoch, each followed by a look at the test set


def parse_args():
    parser = flags.Parser(__doc__)
    add = parser.add_argument
    count, positive = flags.count, flags.positive
    add("--rounds", type=count, default=5, help="how often to compare")
    add("--steps", type=count, default=60, help="steps each way in a round")
    add("--batch-size", type=count, default=Settings.batch_size, help="images per step")
    add("--time-to", type=positive, metavar="NATS", help="also time training to this test -ELBO")
    add("--epochs", type=positive, default=0.5, help="of this repository's schedule for --time-to, in sixths")
    add("--flax", action="store_true", help="also time flax's example VAE: pip install jax flax optax")
    add("--json", type=flags.user_path, metavar="FILE", help="also write the ratios to this file")
    add("--precision", choices=["auto", "fp32", "bf16"], default="auto", help="of this repository's steps")
    flags.add_shared(parser, "--data-dir", "--seed", "--device")
    args = parser.parse_args()
    if args.flax and not (importlib.util.find_spec("flax") and importlib.util.find_spec("optax")):
        parser.error("--flax needs JAX, which is not here: pip install jax flax optax")
    return args


def main():
    args = parse_args()
    check_outputs(args.json)
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    train, test = (load_split(Run(Settings()), args.data_dir, split) for split in ("train", "test"))
    count = min(len(train.images), args.steps * args.batch_size)
    some = train._replace(images=train.images[:count], labels=train.labels[:count])

    torch.manual_seed(args.seed)
    model = ConvVAE().to(device)
    steps = (args.rounds + 1) * math.ceil(count / args.batch_size)
    ours = our_way(copy.deepcopy(model), some.images.to(device), args.batch_size, steps, precision)
    usual = usual_way(usual_layers(model), some, args.batch_size, Settings.lr)
    rounds = progress(range(args.rounds + 1), desc="rounds", unit="round")
    times = [(seconds(ours), seconds(usual)) for _ in rounds][1:]  # the first was to warm up
    speedups = [usual_time / our_time for our_time, usual_time in times]
    our_median, usual_median = (statistics.median(column) for column in zip(*times, strict=True))
    numbers = {
        "device": device.type,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "source": train.source,
        "batch_size": args.batch_size,
        "images_a_round": count,
        "rounds": args.rounds,
        "speedup": statistics.median(speedups),
        "speedup_range": [min(speedups), max(speedups)],
        "images_per_s": count / our_median,
        "images_per_s_usual": count / usual_median,
    }
    print(table(numbers))
    if args.time_to:
        numbers["time_to"] = time_to(args, train, test.images.to(device), precision)
        print(time_table(numbers["time_to"]))
    if args.json:
        write_file(args.json, (json.dumps(numbers, indent=2) + "\n").encode())
        print(f"wrote {args.json}")


def seconds(function, *arguments):
    """How long a call takes, until a GPU is done with it."""
    start = time.perf_counter()
    function(*arguments)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def our_way(model, images, batch_size, steps, precision):
    """A function that trains on a part of the images once, in steps like train.py's.

    ``steps`` is how many there will be in all: the learning rate rises and falls over them.
    """
    model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, LR, Settings.weight_decay, BETAS)
    # up to LR in a tenth of the steps, then down to zero
    rates = iter(np.interp(range(steps), [0, 0.1 * steps, steps], [LR / 25, LR, 0]))

    def step(x, lr):
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits, mu, logvar = model(x)
        loss, _, _ = vae_loss(logits, x, mu, logvar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step = graphed(step, optimizer, images.device)

    def run(part=slice(None)):
        model.train()
        order = torch.arange(len(images))[part]
        order = order[torch.randperm(len(order))].to(images.device)
        for indices in order.split(batch_size):
            step(to_float(images[indices]), next(rates))

    return run


def time_to(args, train, test_images, precision):
    """Seconds of training to a test -ELBO below args.time_to, each way; None where it never is."""
    device = test_images.device
    torch.manual_seed(args.seed)
    networks = {"ours": ConvVAE().to(device), "example": Example().to(device)}
    turns = {"ours": max(1, round(args.epochs * PARTS)), "example": EXAMPLE_EPOCHS * PARTS}
    size = math.ceil(len(train.images) / PARTS)
    steps = turns["ours"] * math.ceil(size / args.batch_size)
    ways = {
        "ours": our_way(networks["ours"], train.images.to(device), args.batch_size, steps, precision),
        "example": usual_way(networks["example"], train, args.batch_size, EXAMPLE_LR),
    }
    if args.flax:
        from support.flax_way import flax_way  # here, not above: JAX is not among the requirements

        networks["flax"], turns["flax"] = Example(hidden=500), EXAMPLE_EPOCHS * PARTS
        ways["flax"] = flax_way(networks["flax"], train.images, args.batch_size, EXAMPLE_LR, args.seed)
    spent, result = dict.fromkeys(ways, 0.0), {"nats": args.time_to, "epochs": args.epochs}
    for turn in progress(range(max(turns.values())), desc="time to", unit="turn"):
        start = turn % PARTS * size
        for name in [name for name in ways if name not in result]:
            spent[name] += seconds(ways[name], slice(start, start + size))
            where = next(networks[name].parameters()).device  # JAX's network is measured on the CPU
            generator = torch.Generator(where).manual_seed(args.seed)
            parts = batches(test_images.to(where))
            bce, kld, *_ = elbo_terms(networks[name].eval(), parts, generator=generator)
            loss = (bce + kld).mean().item()
            if loss < args.time_to or turn + 1 == turns[name]:
                reached = spent[name] if loss < args.time_to else None
                result[name] = {"seconds": reached, "epochs": (turn + 1) / PARTS, "test_loss": loss}
    for name in ways:
        if name != "ours" and result["ours"]["seconds"] and result[name]["seconds"]:
            result[name]["ratio"] = result[name]["seconds"] / result["ours"]["seconds"]
    return result


# What is printed


def table(n):
    return """\
{device}, {precision}, {threads} threads, torch {torch}; batches of {batch_size}, {rounds} rounds of \
{images_a_round:,} images each way
  this repository       {images_per_s:10,.0f} images/s
  the usual way         {images_per_s_usual:10,.0f} images/s
  speed-up              {speedup:10.2f} times      {speedup_range[0]:.2f} to {speedup_range[1]:.2f}""".format(
        **n
    )


def time_table(result):
    lines = [f"training until the test -ELBO is below {result['nats']:g} nats"]
    names = {"ours": "this repository", "example": "pytorch/examples", "flax": "flax's example"}
    for key in [key for key in names if key in result]:
        way = result[key]
        time = "not reached" if way["seconds"] is None else f"{way['seconds']:6.1f} s"
        schedule = f" of {result['epochs']:g}" if key == "ours" else ""
        ratio = f", {way['ratio']:.2f} times as long" if "ratio" in way else ""
        lines.append(
            f"  {names[key]:21} {time:>12}      {way['test_loss']:.2f} nats "
            f"after {way['epochs']:.3g}{schedule} epochs{ratio}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    with user_errors(less_memory=["--batch-size", "--steps"]):
        main()
