"""How fast training is: beside the usual way of writing it, and beside the machine's own limit.

    python benchmark.py                                 # ratios, in two minutes on two CPU cores
    python benchmark.py --profile                       # and where the time of a step goes
    python benchmark.py --time-to 105.6                 # and the seconds to that test -ELBO
    python benchmark.py --json outputs/benchmark.json   # the ratios for a machine, too

A machine's speed wanders, so absolute times mean little. Every round trains the same network on
the same number of images in both ways, one right after the other, and measures the peak between
them; what is compared are a round's own times, and the spread over the rounds is printed.

this repository: loop.py's train_epoch, as train.py calls it
the usual way: a torchvision data set with ToTensor, a DataLoader, float32, NCHW, plain Adam,
    loss.item() in every step, the activation before the pooling and nn.ConvTranspose2d: the same function
the peak: the fastest multiplication of two large square matrices in the precision of training

--time-to trains until the test -ELBO, in nats per image with z sampled, is below a figure: this
repository's network in its loop on a short schedule, and the VAE that most people start from,
pytorch/examples' (fully connected, 400 hidden units, 20 latents), in the usual way. Both are
looked at six times an epoch. What is compared is the time spent on training, without the looking.
"""

import copy
import json
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import cli
from data import batches, load_dataset
from loop import PEAK_LR, WEIGHT_DECAY, choose_bf16, evaluate, make_optimizer, train_epoch
from model import ConvVAE, vae_loss, write_file

EXAMPLE_LR = 1e-3
EXAMPLE_EPOCHS = 20  # it needs about ten to 105.6 nats
PARTS = 6  # of an epoch, each followed by a look at the test set
MATRIX = {"cpu": 2048, "mps": 4096, "cuda": 8192}  # side of the matrices that measure the peak
PROFILE_STEPS, PROFILE_ROWS = 10, 12


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument("--rounds", type=cli.positive_int, default=5, help="how often to compare")
    parser.add_argument("--steps", type=cli.positive_int, default=60, help="steps each way in a round")
    parser.add_argument("--batch-size", type=cli.positive_int, default=128, help="images per step")
    parser.add_argument("--profile", action="store_true", help="also print where a step's time goes")
    parser.add_argument(
        "--time-to", type=cli.positive_float, metavar="NATS", help="also time training to this test -ELBO"
    )
    parser.add_argument(
        "--epochs",
        type=cli.positive_float,
        default=2.0,
        help="of this repository's schedule for --time-to, rounded to sixths of one",
    )
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
    some = images[:count]

    torch.manual_seed(args.seed)
    model = ConvVAE().to(device)
    ours = our_way(copy.deepcopy(model), some.to(device), args, args.rounds + 1, bf16)
    usual = usual_way(usual_layers(model), some, labels[:count], args.batch_size, PEAK_LR)
    batch = some[: args.batch_size].to(device)
    flops = step_flops(model, batch, bf16) * count / len(batch)
    rounds = []
    for number in range(args.rounds + 1):  # the first to warm up
        times = {"ours": seconds(ours, number + 1), "peak": matmul_rate(device, bf16)}
        times["usual"] = seconds(usual, number + 1)
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
    if args.time_to:
        numbers["time_to"] = time_to(args, images, labels, device, bf16)
        print(time_table(numbers["time_to"]))
    if args.json:
        write_file(args.json, (json.dumps(numbers, indent=2) + "\n").encode())
        print(f"wrote {args.json}")


def our_way(model, images, args, epochs, bf16):
    """A function ``run(epoch, part)``: one pass over that part of the images, as train.py does it."""
    model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, PEAK_LR, WEIGHT_DECAY)
    settings = settings_of(args, epochs)

    def run(epoch, part=slice(None)):
        return train_epoch(model, optimizer, images[part], settings, epoch, bf16, rank=0, world=1)

    return run


def settings_of(args, epochs):
    """What loop.py wants to know of a run."""
    return SimpleNamespace(
        epochs=epochs, batch_size=args.batch_size, lr=PEAK_LR, beta=1.0, binarize=False, seed=args.seed
    )


def usual_layers(model):
    """A copy of the ConvVAE as most would write it: the same function, more work.

    Every LeakyReLU comes before its max-pooling, and the transposed convolution is torch's.
    """
    model = copy.deepcopy(model)
    layers = list(model.encoder)
    for i in [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]:
        layers[i : i + 2] = layers[i + 1], layers[i]
    model.encoder = nn.Sequential(*layers)
    last = nn.ConvTranspose2d(model.decoder[-1].in_channels, 1, 4, stride=2, padding=1)
    last.load_state_dict(model.decoder[-1].state_dict())
    model.decoder[-1] = last
    return model


def usual_way(model, images, labels, batch_size, lr):
    """A function ``run(epoch, part)``: one pass over that part of the images, as most examples do it."""
    from torchvision import datasets, transforms  # here, not above: --help should not wait for it

    class InMemory(datasets.MNIST):
        """torchvision's MNIST, reading an item as it always does, from images that are already here."""

        def __init__(self, part):
            datasets.VisionDataset.__init__(self, root="", transform=transforms.ToTensor())
            self.data, self.targets = images[part, 0], labels[part]  # (N, 28, 28), (N,)

    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def run(epoch, part=slice(None)):
        loader = DataLoader(InMemory(part), batch_size, shuffle=True)
        model.train()
        total = 0.0
        for x, _ in tqdm(loader, desc=f"the usual way, epoch {epoch}", leave=False):
            x = x.to(device)
            optimizer.zero_grad()
            logits, mu, logvar = model(x)
            loss, _, _ = vae_loss(logits, x, mu, logvar)
            loss.backward()
            total += loss.item()
            optimizer.step()
        return total / len(loader)

    return run


class Example(nn.Module):
    """pytorch/examples' VAE, that of Kingma & Welling 2013 with ReLU: called like ConvVAE, same shapes."""

    reparameterize = ConvVAE.reparameterize

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU())
        self.mu_head, self.logvar_head = nn.Linear(400, 20), nn.Linear(400, 20)
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))

    def forward(self, x, generator=None):
        h = self.encoder(x)  # (B, 1, 28, 28) -> (B, 400)
        mu, logvar = self.mu_head(h), self.logvar_head(h)
        return self.decoder(self.reparameterize(mu, logvar, generator)).view_as(x), mu, logvar


def time_to(args, images, labels, device, bf16):
    """Seconds of training to a test -ELBO below args.time_to, both ways; None where it never is."""
    test_images = load_dataset("mnist", args.data_dir, train=False)[0].to(device)
    settings = settings_of(args, args.epochs)
    parts = {"ours": max(1, round(args.epochs * PARTS)), "example": EXAMPLE_EPOCHS * PARTS}
    torch.manual_seed(args.seed)
    ours, example = ConvVAE().to(device), Example().to(device)
    ways = {
        "ours": (ours, our_way(ours, images.to(device), args, parts["ours"], bf16)),
        "example": (example, usual_way(example, images, labels, args.batch_size, EXAMPLE_LR)),
    }
    part_of = [slice(len(images) * i // PARTS, len(images) * (i + 1) // PARTS) for i in range(PARTS)]
    result = {"nats": args.time_to, "epochs": args.epochs}
    for name, (network, run) in ways.items():
        total = 0.0
        for number in range(parts[name]):
            total += seconds(run, number + 1, part_of[number % PARTS])
            loss = sum(evaluate(network, test_images, settings, False, rank=0, world=1))
            if reached := loss < args.time_to:
                break
        epochs = (number + 1) / PARTS
        result[name] = {"seconds": total if reached else None, "epochs": epochs, "test_loss": loss}
    if None not in (times := [result[name]["seconds"] for name in ways]):
        result["ratio"] = times[1] / times[0]
    return result


def seconds(function, *arguments):
    """How long a call takes, until a GPU is done with it."""
    start = time.perf_counter()
    function(*arguments)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def matmul_rate(device, bf16, tries=5):
    """The machine's best matrix multiplication: floating-point operations per second."""
    side = MATRIX[device.type]
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    (a @ b)[0, 0].item()  # warm up
    return 2 * side**3 / min(seconds(lambda: (a @ b)[0, 0].item()) for _ in range(tries))


def step_flops(model, images, bf16):
    """Floating-point operations of one training step, forward and backward, as torch counts them."""
    model = copy.deepcopy(model)
    x = next(batches(images, len(images)))
    with FlopCounterMode(display=False) as counter:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            logits, mu, logvar = model(x)
        vae_loss(logits, x, mu, logvar)[0].backward()
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


def time_table(result):
    lines = [f"training until the test -ELBO is below {result['nats']:g} nats"]
    for key, name in (("ours", "this repository"), ("example", "pytorch/examples")):
        way = result[key]
        time = "not reached" if way["seconds"] is None else f"{way['seconds']:6.1f} s"
        epochs = f"{way['epochs']:.3g}" + f" of {result['epochs']:g}" * (key == "ours")
        lines.append(f"  {name:21} {time:>12}      {way['test_loss']:.2f} nats after {epochs} epochs")
    if "ratio" in result:
        lines.append(f"  ratio                 {result['ratio']:10.2f} times")
    return "\n".join(lines)


def profile_table(model, images, args, bf16):
    """Where a step's time goes, by operator, the slowest first."""
    run = our_way(copy.deepcopy(model), images, args, 2, bf16)
    run(1)  # warm up
    cuda = images.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiler:
        run(2)
    steps = -(-len(images) // args.batch_size)
    name = "self_device_time_total" if cuda else "self_cpu_time_total"  # microseconds
    # a GPU's kernels have rows of their own, and count in those of the operators that started them, too
    rows = [row for row in profiler.key_averages() if row.device_type == DeviceType.CPU]
    rows.sort(key=lambda row: -getattr(row, name))
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
