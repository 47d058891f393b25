"""Training on several processes with torchrun: who this one is, who goes first, what they add up.

Started without torchrun, a process is the first and only one, and nothing here does anything.
"""

import contextlib
import itertools
import os
import warnings

import torch
import torch.distributed as dist
from torch import nn

from support.errors import UserError

SAVED = "saved"  # torchrun's store has this key once the run that it started has saved something

_store = None  # what torchrun's processes share; it outlives them


def join(device):
    """Join the processes that torchrun started, if it did; returns this one's device. Raises UserError."""
    global _store
    if "LOCAL_RANK" not in os.environ:
        return device
    if device.type == "mps":
        raise UserError("several processes cannot train on MPS together: add --device cpu")
    if device.type == "cuda":
        index, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if index >= count:
            raise UserError(f"a CUDA device for each process is needed and {count} are here: start fewer")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    # torchrun keeps one store through all restarts, with the addresses of the dead still in it
    # (pytorch/pytorch#135712): give every attempt keys of its own.
    _store, rank, world = next(dist.rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    keys = dist.PrefixStore(f"attempt{attempt}", _store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=keys, rank=rank, world_size=world)
    return device


def leave():
    """Leave the group of processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def get_rank():
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def get_world_size():
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first():
    """Whether this is the one process that writes and prints."""
    return get_rank() == 0


def was_restarted():
    """Whether torchrun started this process to replace one that died in a run that has saved something."""
    return _store is not None and _store.check([SAVED])


def mark_saved():
    """Remember, beyond this process's death, that the run has saved something to go on from."""
    if _store is not None:
        _store.set(SAVED, "yes")


@contextlib.contextmanager
def first_on_its_machine():
    """One process of each machine goes ahead, the others follow once it is through, even if it failed."""
    ahead = os.environ.get("LOCAL_RANK", "0") == "0"
    if not ahead:
        dist.barrier()
    try:
        yield
    finally:
        if ahead and dist.is_initialized():
            dist.barrier()


def in_step(model, batch_size):
    """The model wrapped so that all processes train the same one; alone, the model. Raises UserError."""
    world = get_world_size()
    if world == 1:
        return model
    if batch_size < world:
        raise UserError(f"--batch-size {batch_size} gives {world} processes less than an image each")
    if next(model.parameters()).device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place
    # Said of a weight with a dimension of size 1, whose stride means nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return nn.parallel.DistributedDataParallel(model)


def shares(order, batch_size):
    """Yield this process's part of every batch of indices, and the scale of its gradient.

    The processes' gradients are averaged, so each is scaled by its share of the batch. A last
    batch too small to give every process an image is left out.
    """
    rank, world = get_rank(), get_world_size()
    for batch in order.split(batch_size):
        if len(batch) >= world:
            mine = batch[rank::world]
            yield mine, len(mine) * world / len(batch)


def share_of(items):
    """This process's part of a sequence that all of them have: each takes its turn."""
    return itertools.islice(items, get_rank(), None, get_world_size())


def take_buffers_of_first(model):
    """Give every process the first one's batch-norm statistics, which are the ones that are saved."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def sum_type(device):
    """The type to add up an epoch's losses in: float64, but for MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


class Means:
    """Means of a few losses over images, added up on the device and in the end over all processes."""

    def __init__(self, count, device):
        self.sums = torch.zeros(count + 1, dtype=sum_type(device), device=device)  # losses, and images

    def add(self, losses, images):
        """Add the means (a sequence of scalar tensors) over that many images."""
        self.sums += torch.stack([*losses, torch.ones_like(losses[0])]) * images

    def over_all(self):
        """The means over the images of all processes, as floats."""
        if dist.is_initialized():
            dist.all_reduce(self.sums)
        *sums, images = self.sums.tolist()
        return [total / images for total in sums]
