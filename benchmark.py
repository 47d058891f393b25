"""How fast training is: beside the usual way of writing it, and beside the machine's own limit.

    python benchmark.py                                 # ratios, in two minutes on two CPU cores
    python benchmark.py --profile                       # and where the time of a step goes
    python benchmark.py --json outputs/benchmark.json   # the ratios for a machine, too

A machine's speed wanders, so absolute times mean little. Every round trains the same network on
the same number of images in both ways, one right after the other, and measures the peak between
them; what is compared are a round's own times, and the spread over the rounds is printed.

this repository: loop.py's train_epoch, as train.py calls it
the usual way: a torchvision data set with ToTensor, a DataLoader, float32, NCHW, plain Adam,
    and loss.item() in every step
the peak: the fastest multiplication of two large square matrices in the precision of training
"""

import copy
import json
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import cli
from data import batches, load_dataset
from loop import choose_bf16, make_optimizer, train_epoch
from model import ConvVAE, vae_loss, write_file

LR = 2e-3
MATRIX = {"cpu": 2048, "mps": 4096, "cuda": 8192}  # side of the matrices that measure the peak
PROFILE_STEPS, PROFILE_ROWS = 10, 12


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument("--rounds", type=cli.positive_int, default=5, help="how often to compare")
    parser.add_argument("--steps", type=cli.positive_int, default=60, help="steps each way in a round")
    parser.add_argument("--batch-size", type=cli.positive_int, default=128, help="images per step")
    parser.add_argument("--profile", action="store_true", help="also print where a step's time goes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the ratios to this file")
    cli.add_data_dir(parser)
    cli.add_seed(parser)
    cli.add_device(parser)
    cli.add_precision(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    device = cli.pick_device(args.device)
    bf16 = choose_bf16(args.precision, device)
    images, labels, source = load_dataset("mnist", args.data_dir, train=True)
    count = min(len(images), args.steps * args.batch_size)
    images, labels = images[:count], labels[:count]

    torch.manual_seed(args.seed)
    model = ConvVAE().to(device)
    ours, usual = ours_way(model, images.to(device), args, bf16), usual_way(model, images, labels, args)
    flops = step_flops(model, images[: args.batch_size].to(device), bf16) * count / args.batch_size
    rounds = []
    for number in tqdm(range(args.rounds + 1), desc="rounds, the first to warm up", leave=False):
        times = {"ours": seconds(ours, number + 1), "peak": matmul_rate(device, bf16)}
        times["usual"] = seconds(usual)
        if number > 0:
            rounds.append(times)

    speedups = [r["usual"] / r["ours"] for r in rounds]
    shares = [flops / r["ours"] / r["peak"] for r in rounds]
    numbers = {
        "device": device.type,
        "precision": "bf16" if bf16 else "fp32",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "source": source,
        "batch_size": args.batch_size,
        "images_a_round": count,
        "rounds": args.rounds,
        "speedup": statistics.median(speedups),
        "speedup_range": [min(speedups), max(speedups)],
        "peak_share": statistics.median(shares),
        "peak_share_range": [min(shares), max(shares)],
        "images_per_s": count / statistics.median(r["ours"] for r in rounds),
        "images_per_s_usual": count / statistics.median(r["usual"] for r in rounds),
        "peak_flops": statistics.median(r["peak"] for r in rounds),
        "flops_per_image": flops / count,
    }
    print(table(numbers))
    if args.profile:
        print(profile_table(model, images[: PROFILE_STEPS * args.batch_size].to(device), args, bf16))
    if args.json:
        write_file(args.json, (json.dumps(numbers, indent=2) + "\n").encode())
        print(f"wrote {args.json}")


def ours_way(model, images, args, bf16):
    """A function of the epoch's number that trains a copy of the model on the images, as train.py does."""
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, LR)
    settings = SimpleNamespace(
        epochs=args.rounds + 1, batch_size=args.batch_size, lr=LR, beta=1.0, binarize=False, seed=args.seed
    )
    return lambda epoch: train_epoch(model, optimizer, images, settings, epoch, bf16, rank=0, world=1)


def usual_way(model, images, labels, args):
    """A function that trains a copy of the model on the images once, as most examples do."""
    from torchvision import datasets, transforms  # here, not above: --help should not wait for it

    class InMemory(datasets.MNIST):
        """torchvision's MNIST, reading an item as it always does, from images that are already here."""

        def __init__(self):
            datasets.VisionDataset.__init__(self, root="", transform=transforms.ToTensor())
            self.data, self.targets = images[:, 0], labels  # (N, 28, 28), (N,)

    model = copy.deepcopy(model).train()
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    loader = DataLoader(InMemory(), args.batch_size, shuffle=True)

    def run():
        total = 0.0
        for x, _ in loader:
            x = x.to(device)
            optimizer.zero_grad()
            logits, mu, logvar = model(x)
            loss, _, _ = vae_loss(logits, x, mu, logvar)
            loss.backward()
            total += loss.item()
            optimizer.step()
        return total / len(loader)

    return run


def seconds(function, *arguments):
    """How long a call takes. Both ways end by asking the device for a number, so nothing is left running."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def matmul_rate(device, bf16, tries=5):
    """The machine's best matrix multiplication: floating-point operations per second."""
    side = MATRIX[device.type]
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    (a @ b)[0, 0].item()  # warm up
    return 2 * side**3 / min(seconds(lambda: (a @ b)[0, 0].item()) for _ in range(tries))


def step_flops(model, images, bf16):
    """Floating-point operations of one training step, forward and backward, as torch counts them."""
    x = next(batches(images, len(images)))
    with FlopCounterMode(display=False) as counter:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            logits, mu, logvar = model(x)
        vae_loss(logits, x, mu, logvar)[0].backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


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


def profile_table(model, images, args, bf16):
    """Where a step's time goes, by operator, the slowest first."""
    run = ours_way(model, images, args, bf16)
    run(1)  # warm up
    cuda = images.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiler:
        run(2)
    steps = -(-len(images) // args.batch_size)
    name = "self_device_time_total" if cuda else "self_cpu_time_total"  # microseconds
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, name))
    total = sum(getattr(row, name) for row in rows)
    lines = ["where a step's time goes       ms   share   calls"]
    for row in rows[:PROFILE_ROWS]:
        spent = getattr(row, name)
        lines.append(
            f"  {row.key[:24]:24} {spent / steps / 1000:7.2f} {spent / total:7.1%} {row.count / steps:7.1f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    with cli.user_errors():
        main()
