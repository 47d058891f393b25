"""Several processes under torchrun: rank, world size, DDP, restarts. Without torchrun nothing here acts."""

import contextlib
import os
import warnings

import torch
import torch.distributed as dist
from torch import nn

from support.errors import UserError

_store = None  # torchrun's key-value store; it outlives the processes


def init(device):
    """Join the process group, if torchrun started one; returns this rank's device. Raises UserError."""
    global _store
    if "LOCAL_RANK" not in os.environ:
        return device
    if device.type == "mps":
        raise UserError("several processes cannot train on MPS together: add --device cpu")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise UserError("each process needs a CUDA device of its own: start fewer")
        torch.cuda.set_device(device)
    # torchrun keeps one store through all restarts, with the addresses of the dead still in it
    # (pytorch/pytorch#135712): give every attempt keys of its own.
    _store, rank, world_size = next(dist.rendezvous("env://"))
    keys = dist.PrefixStore(f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", _store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=keys, rank=rank, world_size=world_size)
    return device


def destroy():
    if dist.is_initialized():
        dist.destroy_process_group()


def get_rank():
    return dist.get_rank() if dist.is_initialized() else 0


def get_world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main_process():
    """Whether this is the one process that writes and prints."""
    return get_rank() == 0


def should_resume():
    """Whether torchrun started this process in place of one that died after its run had saved something."""
    return _store is not None and _store.check(["resumable"])


def set_resumable():
    if _store is not None:
        _store.set("resumable", "yes")


@contextlib.contextmanager
def local_main_process_first():
    """One process of each machine goes ahead; the others follow once it is through."""
    ahead = os.environ.get("LOCAL_RANK", "0") == "0"
    if not ahead:
        dist.barrier()
    yield
    if ahead and dist.is_initialized():
        dist.barrier()


def wrap(model, batch_size):
    """The model in DistributedDataParallel, or as it is where one process trains alone. Raises UserError."""
    world_size = get_world_size()
    if world_size == 1:
        return model
    if batch_size < world_size:
        raise UserError(f"--batch-size {batch_size} gives {world_size} processes less than an image each")
    if next(model.parameters()).device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place
    # Said of a weight with a dimension of size 1, whose stride means nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return nn.parallel.DistributedDataParallel(model)


def broadcast_buffers(model):
    """Give all ranks the batch-norm statistics of rank 0, which are the ones that are saved."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def rank_batches(order, batch_size):
    """Yield this rank's part of every batch of the indices ``order``, and the weight of its loss.

    DDP averages the ranks' gradients, so each is weighted by its part of the batch. A last batch too
    small to give every rank an image is left out.
    """
    rank, world_size = get_rank(), get_world_size()
    for batch in order.split(batch_size):
        if len(batch) >= world_size:
            part = batch[rank::world_size]
            yield part, len(part) * world_size / len(batch)
