"""Where and how to compute: devices, precision, random generators, a clock, and CUDA graphs of steps."""

import contextlib
import os
import time
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist

from support.errors import UserError
from support.terminal import warn

BUSY = 0.8  # of its threads' time: with less, for so many seconds, training shares its cores
LONG_ENOUGH = 10
STEPS_BEFORE = 3  # are made as they come: libraries choose their kernels, the optimiser makes its state


def pick_device(name):
    """The torch.device called ``name``; ``"auto"`` is CUDA, then MPS, then CPU. Raises UserError."""
    if name == "auto":
        found = [kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available()]
        name = found[0] if found else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"unknown device '{name}': use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(f"device '{name}' is not here ({count} CUDA devices found): use --device cpu")
        if device.index:
            torch.cuda.set_device(device)  # streams, graphs and waiting are the current device's
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not here: use --device cpu")
    return device


def pick_precision(name, device):
    """``"bf16"`` or ``"fp32"``: what ``name`` says, or for ``"auto"`` what the hardware is fast at."""
    if name != "auto":
        return name
    if device.type == "cuda":
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Without these instructions a CPU emulates bf16, many times slower than float32.
        capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        capable = False
    return "bf16" if capable else "fp32"


def generators(seed, device):
    """Two generators: one on the CPU, for what is to be the same on every device, and one on the device."""
    on_cpu = torch.Generator().manual_seed(seed)
    return on_cpu, on_cpu if device.type == "cpu" else torch.Generator(device).manual_seed(seed)


def mix_seed(*numbers):
    """One seed from several numbers: 32 bits, since PyTorch's CPU generator ignores any above them."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextlib.contextmanager
def timed(device):
    """Times what is done in it, in ``seconds``; says so where other programs have taken a CPU's cores.

    Threads wait for one another many times in a step, and spin meanwhile: where there are fewer cores than
    threads, they burn the time slices that the one they wait for could have had.
    """
    clock, start, start_cpu = SimpleNamespace(seconds=None), time.perf_counter(), time.process_time()
    yield clock
    clock.seconds = time.perf_counter() - start
    threads = torch.get_num_threads()
    share = (time.process_time() - start_cpu) / (clock.seconds * threads)
    told = device.type != "cpu" or threads == 1 or "OMP_WAIT_POLICY" in os.environ
    if share < BUSY and clock.seconds >= LONG_ENOUGH and not told:
        fewer = max(1, int(share * threads))
        warn(
            f"other programs keep the cores busy, this one had {share:.0%} of the time of its {threads} "
            f"threads: beside them it is faster as OMP_NUM_THREADS={fewer} python train.py --resume"
        )


def graphed(step, optimizer, device):
    """``step`` as a CUDA graph where a single process trains on a CUDA GPU, and elsewhere as it is.

    As it is, too, with an optimiser that was not made with ``capturable=True``.
    """
    capturable = all(group.get("capturable") for group in optimizer.param_groups)
    return GraphedStep(step) if device.type == "cuda" and capturable and not dist.is_initialized() else step


class GraphedStep:
    """A training step as a CUDA graph: recorded once, then replayed with other inputs.

    A step of a network this small is some hundreds of kernels of a few microseconds each, which Python
    cannot start as fast as a GPU is done with them. A graph starts all of them at once, with the memory
    that they were recorded with; so every input, tensor or number, is copied to where the recording had
    it, and in a recording a number is a float32 scalar tensor. What a step returns holds until the next
    one. Steps whose tensors have other shapes than the first, as the last batch of an epoch, are made as
    they come. https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, step):
        self.step, self.graph, self.shapes, self.steps_made = step, None, None, 0

    def __call__(self, *inputs):
        shapes = [value.shape for value in inputs if isinstance(value, torch.Tensor)]
        self.shapes = self.shapes or shapes
        if shapes != self.shapes:
            return self.step(*inputs)
        if self.steps_made < STEPS_BEFORE:
            self.steps_made += 1
            return self._on_another_stream(*inputs)
        if self.graph is None:
            self._record(inputs)
        for recorded, value in zip(self.inputs, inputs, strict=True):
            recorded.copy_(value) if isinstance(value, torch.Tensor) else recorded.fill_(value)
        self.graph.replay()
        return self.outputs

    def _record(self, inputs):
        device = next(value.device for value in inputs if isinstance(value, torch.Tensor))
        self.inputs = [
            value.clone() if isinstance(value, torch.Tensor) else torch.tensor(float(value), device=device)
            for value in inputs
        ]
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):  # records, and computes nothing
            self.outputs = self.step(*self.inputs)

    def _on_another_stream(self, *inputs):
        """A step as it comes; those before a recording must not be on the stream that PyTorch starts with."""
        current, other = torch.cuda.current_stream(), torch.cuda.Stream()
        other.wait_stream(current)
        with torch.cuda.stream(other):
            outputs = self.step(*inputs)
        current.wait_stream(other)
        return outputs
