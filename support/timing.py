"""Seconds, floating-point operations and profiles, for benchmark.py."""

import copy
import time

import torch
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from model import vae_loss

MATRIX = {"cpu": 2048, "mps": 4096, "cuda": 8192}  # side of the matrices that measure the peak
MAPS = 256  # of the convolution that measures it, too
PROFILE_ROWS = 12


def seconds(function, *arguments):
    """How long a call takes, until a GPU is done with it."""
    start = time.perf_counter()
    function(*arguments)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def matmul_rate(device, precision, tries=5):
    """The machine's best matrix multiplication: floating-point operations per second.

    On a CPU also the one inside a convolution: some libraries multiply float32 matrices at half the speed
    of an AMD processor, and convolve at the whole.
    """
    side = MATRIX[device.type]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    rate = _best_rate(lambda: (a @ b)[0, 0].item(), 2 * side**3, tries)
    if device.type == "cpu":
        x, weight = torch.randn(64, MAPS, 14, 14, dtype=dtype), torch.randn(MAPS, MAPS, 3, 3, dtype=dtype)
        x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
        flops = 2 * 9 * MAPS * x.numel()
        rate = max(rate, _best_rate(lambda: F.conv2d(x, weight, padding=1), flops, tries))
    return rate


def _best_rate(function, flops, tries):
    function()  # warm up
    return flops / min(seconds(function) for _ in range(tries))


def step_flops(model, x, precision):
    """Floating-point operations of one training step on x, forward and backward, as torch counts them."""
    model = copy.deepcopy(model)
    with FlopCounterMode(display=False) as counter:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits, mu, logvar = model(x)
        vae_loss(logits, x, mu, logvar)[0].backward()
    return counter.get_total_flops()


def profile_table(run, steps, cuda):
    """Where the time of a step goes, by operator, the slowest first; ``run()`` makes that many steps."""
    run()  # warm up
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        run()
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
