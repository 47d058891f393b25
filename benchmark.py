"""How fast training is: beside the usual way of writing it, and beside the machine's own limit.

    python benchmark.py                                 # ratios, in two minutes on two CPU cores
    python benchmark.py --profile                       # and where the time of a step goes
    python benchmark.py --time-to 105.6                 # and the seconds to that test -ELBO
    python benchmark.py --json outputs/benchmark.json   # the ratios for a machine, too

A machine's speed wanders, so absolute times mean little. Every round trains the same network on
the same number of images in both ways, one right after the other, and measures the peak between
them; what is compared are a round's own times, and the spread over the rounds is printed.

this repository: steps like train.py's, replayed on a CUDA GPU, with a schedule of their own
the usual way: a torchvision data set with ToTensor, a DataLoader, float32, NCHW, plain Adam,
    loss.item() in every step, the activation before the pooling: the same function
the peak: the fastest multiplication of large matrices in the precision of training

--time-to trains until the test -ELBO, in nats per image with z sampled, is below a figure: this
repository's network on a short schedule, and the VAE that most people start from,
pytorch/examples' (fully connected, 400 hidden units, 20 latents), in the usual way. They take
turns, a sixth of an epoch each, and the test images are measured after every turn. What is
compared is the time spent on training alone.
"""

import copy
import json
import math
import statistics

import torch

from data import batches, load_dataset, to_float
from model import EVAL_BATCH, ConvVAE, vae_loss
from optimizer import make_optimizer
from settings import Settings
from support import cli
from support.cuda_graph import replayed
from support.errors import user_errors
from support.files import check_outputs, write_file
from support.measures import elbo_terms
from support.timing import matmul_rate, profile_table, seconds, step_flops
from support.usual import Example, usual_layers, usual_way

# For so few steps a decay to zero in a straight line, and averages over fewer of them than train.py's
LR, BETAS = 5e-3, (0.8, 0.9)
EXAMPLE_LR = 1e-3
EXAMPLE_EPOCHS = 20  # it needs about ten to 105.6 nats
PARTS = 6  # of an epoch, each followed by a look at the test set
PROFILE_STEPS = 10


def parse_args():
    parser = cli.Parser(__doc__)
    count, positive = cli.number(int, at_least=1), cli.number(float, above=0)
    parser.add_argument("--rounds", type=count, default=5, help="how often to compare")
    parser.add_argument("--steps", type=count, default=60, help="steps each way in a round")
    parser.add_argument("--batch-size", type=count, default=Settings.batch_size, help="images per step")
    parser.add_argument("--profile", action="store_true", help="also print where a step's time goes")
    parser.add_argument(
        "--time-to", type=positive, metavar="NATS", help="also time training to this test -ELBO"
    )
    parser.add_argument(
        "--epochs",
        type=positive,
        default=0.5,
        help="length of this repository's schedule for --time-to, rounded to sixths of an epoch",
    )
    parser.add_argument(
        "--json", type=cli.user_path, metavar="FILE", help="also write the ratios to this file"
    )
    cli.add_data_dir(parser)
    cli.add_seed(parser)
    cli.add_device(parser)
    cli.add_precision(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    check_outputs(args.json)
    device = cli.pick_device(args.device)
    precision = cli.pick_precision(args.precision, device)
    train = load_dataset("mnist", args.data_dir, "train")
    count = min(len(train.images), args.steps * args.batch_size)
    some = train._replace(images=train.images[:count], labels=train.labels[:count])

    torch.manual_seed(args.seed)
    model = ConvVAE().to(device)
    batch = some.images[: args.batch_size].to(device)
    flops = step_flops(model, to_float(batch), precision) * count / len(batch)
    steps = (args.rounds + 1) * math.ceil(count / args.batch_size)
    ours = our_way(copy.deepcopy(model), some.images.to(device), args.batch_size, steps, precision)
    usual = usual_way(usual_layers(model), some, args.batch_size, Settings.lr)
    rounds = []
    for _ in cli.progress(range(args.rounds + 1), desc="rounds", unit="round"):
        rounds.append(
            {"ours": seconds(ours), "peak": matmul_rate(device, precision), "usual": seconds(usual)}
        )
    numbers = {
        "device": device.type,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "source": train.source,
        "batch_size": args.batch_size,
        "images_a_round": count,
        "rounds": args.rounds,
        "flops_per_image": flops / count,
    }
    numbers |= ratios(rounds[1:], flops, count)  # the first was to warm up
    print(table(numbers))
    if args.profile:
        images = train.images[: PROFILE_STEPS * args.batch_size].to(device)
        steps = math.ceil(len(images) / args.batch_size)
        # not replayed: a profile would not say which operators a graph's kernels are of
        run = our_way(copy.deepcopy(model), images, args.batch_size, 2 * steps, precision, replay=False)
        print(profile_table(run, steps, device.type == "cuda"))
    if args.time_to:
        numbers["time_to"] = time_to(args, train, device, precision)
        print(time_table(numbers["time_to"]))
    if args.json:
        write_file(args.json, (json.dumps(numbers, indent=2) + "\n").encode())
        print(f"wrote {args.json}")


def our_way(model, images, batch_size, steps, precision, replay=True):
    """A function that trains on a part of the images once, in steps like train.py's.

    ``steps`` is how many there will be in all: the learning rate rises and falls over them.
    """
    model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, LR, Settings.weight_decay, BETAS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, total_steps=steps + 1, pct_start=0.1, anneal_strategy="linear", cycle_momentum=False
    )

    def step(x, lr, scale):
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits, mu, logvar = model(x)
        loss, _, _ = vae_loss(logits, x, mu, logvar)
        optimizer.zero_grad()
        (scale * loss).backward()
        optimizer.step()

    if replay:
        step = replayed(step, images.device)

    def run(part=slice(None)):
        model.train()
        order = torch.arange(len(images))[part]
        order = order[torch.randperm(len(order))].to(images.device)
        for indices in order.split(batch_size):
            # the schedule has set the learning rate, but a graph knows of it only what it is told
            step(to_float(images[indices]), schedule.get_last_lr()[0], 1.0)
            schedule.step()

    return run


# What is measured


def time_to(args, train, device, precision):
    """Seconds of training to a test -ELBO below args.time_to, both ways; None where it never is."""
    test_images = load_dataset("mnist", args.data_dir, "test").images.to(device)
    torch.manual_seed(args.seed)
    networks = {"ours": ConvVAE().to(device), "example": Example().to(device)}
    turns = {"ours": max(1, round(args.epochs * PARTS)), "example": EXAMPLE_EPOCHS * PARTS}
    size = math.ceil(len(train.images) / PARTS)
    steps = turns["ours"] * math.ceil(size / args.batch_size)
    ways = {
        "ours": our_way(networks["ours"], train.images.to(device), args.batch_size, steps, precision),
        "example": usual_way(networks["example"], train, args.batch_size, EXAMPLE_LR),
    }
    spent, result = dict.fromkeys(ways, 0.0), {"nats": args.time_to, "epochs": args.epochs}
    for turn in cli.progress(range(max(turns.values())), desc="time to", unit="turn"):
        start = turn % PARTS * size
        for name in [name for name in ways if name not in result]:
            spent[name] += seconds(ways[name], slice(start, start + size))
            generator = torch.Generator(device).manual_seed(args.seed)
            model, x = networks[name].eval(), batches(test_images, EVAL_BATCH)
            bce, kld = elbo_terms(model, x, generator=generator)
            loss = (bce + kld).mean().item()
            if loss < args.time_to or turn + 1 == turns[name]:
                reached = spent[name] if loss < args.time_to else None
                result[name] = {"seconds": reached, "epochs": (turn + 1) / PARTS, "test_loss": loss}
    if result["ours"]["seconds"] and result["example"]["seconds"]:
        result["ratio"] = result["example"]["seconds"] / result["ours"]["seconds"]
    return result


def ratios(rounds, flops, images):
    """What the rounds come to: speed-up and share of the peak from each round's own times."""
    speedups = [r["usual"] / r["ours"] for r in rounds]
    shares = [flops / r["ours"] / r["peak"] for r in rounds]
    return {
        "speedup": statistics.median(speedups),
        "speedup_range": [min(speedups), max(speedups)],
        "peak_share": statistics.median(shares),
        "peak_share_range": [min(shares), max(shares)],
        "images_per_s": images / statistics.median(r["ours"] for r in rounds),
        "images_per_s_usual": images / statistics.median(r["usual"] for r in rounds),
        "peak_flops": statistics.median(r["peak"] for r in rounds),
    }


# What is printed


def table(n):
    return """\
{device}, {precision}, {threads} threads, torch {torch}; batches of {batch_size}, {rounds} rounds of \
{images_a_round:,} images each way
  this repository       {images_per_s:10,.0f} images/s
  the usual way         {images_per_s_usual:10,.0f} images/s
  speed-up              {speedup:10.2f} times      {speedup_range[0]:.2f} to {speedup_range[1]:.2f}
  matrix-multiply peak  {peak:10,.0f} GFLOP/s
  share of it in a step {peak_share:10.1%}            {peak_share_range[0]:.1%} to {peak_share_range[1]:.1%}\
""".format(**n, peak=n["peak_flops"] / 1e9)


def time_table(result):
    lines = [f"training until the test -ELBO is below {result['nats']:g} nats"]
    for key, name in (("ours", "this repository"), ("example", "pytorch/examples")):
        way = result[key]
        time = "not reached" if way["seconds"] is None else f"{way['seconds']:6.1f} s"
        schedule = f" of {result['epochs']:g}" if key == "ours" else ""
        lines.append(
            f"  {name:21} {time:>12}      {way['test_loss']:.2f} nats "
            f"after {way['epochs']:.3g}{schedule} epochs"
        )
    if "ratio" in result:
        lines.append(f"  ratio                 {result['ratio']:10.2f} times")
    return "\n".join(lines)


if __name__ == "__main__":
    with user_errors("--batch-size", "--steps"):
        main()
