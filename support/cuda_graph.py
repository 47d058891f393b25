"""Training steps on a CUDA GPU that Python does not hold up: recorded once, then replayed."""

import torch
import torch.distributed as dist

STEPS_BEFORE = 3  # are made as they come: libraries choose their kernels, the optimiser makes its state


def replayed(step, device):
    """``step`` as a CUDA graph where a single process trains on a CUDA GPU, and elsewhere as it is."""
    return Replayed(step) if device.type == "cuda" and not dist.is_initialized() else step


class Replayed:
    """A training step of a batch x and a learning rate, as a CUDA graph.

    A step of a network this small is some hundreds of kernels of a few microseconds each, which Python
    cannot start as fast as a GPU is done with them. A graph starts all of them at once, with the memory
    and the arguments that they were recorded with; so x and the learning rate are copied to where the
    recording had them, the scale stays what it was, and what a step returns holds until the next one.
    Batches of another size than the first, as the last one of an epoch, are not replayed.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, step):
        self.step, self.graph, self.shape, self.steps_made = step, None, None, 0

    def __call__(self, x, lr, scale):
        self.shape = self.shape or x.shape
        if x.shape != self.shape:
            return self.step(x, lr, scale)
        if self.steps_made < STEPS_BEFORE:
            self.steps_made += 1
            return self._on_another_stream(x, lr, scale)
        if self.graph is None:
            self.x, self.lr = x.clone(), torch.tensor(lr, device=x.device)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records, and computes nothing
                self.outputs = self.step(self.x, self.lr, scale)
        self.x.copy_(x)
        self.lr.fill_(lr)
        self.graph.replay()
        return self.outputs

    def _on_another_stream(self, *arguments):
        """A step as it comes; those before a recording must not be on the stream that PyTorch starts with."""
        current, other = torch.cuda.current_stream(), torch.cuda.Stream()
        other.wait_stream(current)
        with torch.cuda.stream(other):
            outputs = self.step(*arguments)
        current.wait_stream(other)
        return outputs
