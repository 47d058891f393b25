"""Training steps on a CUDA GPU that Python does not hold up: recorded once, then replayed."""

import torch

from support import distributed

WARM_UP = 3  # steps before the recording, in which the libraries choose their kernels and take their memory


def replayed(step, device):
    """``step`` as a CUDA graph where one process trains on a CUDA GPU, and elsewhere as it is."""
    return Replayed(step) if device.type == "cuda" and distributed.get_world_size() == 1 else step


class Replayed:
    """A function of a batch x and a learning rate as a CUDA graph.

    A step of a network this small is some hundreds of kernels of a few microseconds each, which Python
    cannot start as fast as a GPU is done with them. A graph starts all of them at once, with the same
    memory and the same arguments; so x and the learning rate are copied to where the recording had
    them, and what it returns holds until the next call. Batches of another size than the first, as the
    last one of an epoch, are not replayed. https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def __init__(self, step):
        self.step, self.graph, self.shape, self.calls = step, None, None, 0

    def __call__(self, x, lr, weight):
        self.shape = self.shape or x.shape
        if x.shape != self.shape:
            return self.step(x, lr, weight)
        if self.calls < WARM_UP:
            self.calls += 1
            return self._aside(x, lr, weight)
        if self.graph is None:
            self.x, self.lr = x.clone(), torch.tensor(lr, device=x.device)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records, and computes nothing
                self.outputs = self.step(self.x, self.lr, weight)
        self.x.copy_(x)
        self.lr.fill_(lr)
        self.graph.replay()
        return self.outputs

    def _aside(self, *arguments):
        """A step on a stream of its own, so that nothing of it belongs to the stream PyTorch starts with."""
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            outputs = self.step(*arguments)
        current.wait_stream(side)
        return outputs
