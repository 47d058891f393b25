"""The training loop itself: one pass over the images, one evaluation. train.py repeats them.

One process is the one-rank case of several: ``rank`` of ``world`` is 0 of 1 then.
"""

import math
import time

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from data import batches
from model import vae_loss, vae_terms

PEAK_LR = 3e-3
WARMUP_STEPS = 200  # of linear learning-rate warm-up; a tenth of the run where that is less
FINAL_LR = 0.01  # the cosine ends at this share of the peak
WEIGHT_DECAY = 0.1
EVAL_BATCH = 1000


def choose_bf16(precision, device):
    """Whether to train in bf16: where asked for, or where the hardware has it in silicon."""
    if device.type == "cuda":
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Without these instructions a CPU emulates bf16, many times slower than float32.
        capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        capable = False
    return precision == "bf16" or (precision == "auto" and capable)


def make_optimizer(model, lr, weight_decay):
    """AdamW, fused into one kernel where the device has one; only the fully connected weights decay.

    Those are nearly all the weights there are, and the ones that overfit.
    """
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.ndim != 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, fused=groups[0]["params"][0].device.type != "mps")


def learning_rate(step, total_steps, peak):
    """Linear warm-up to ``peak``, then a cosine down to FINAL_LR of it at the last step."""
    warmup = min(WARMUP_STEPS, total_steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return peak * (FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * progress)))


def mix_seed(*numbers):
    """One seed from several numbers: 32 bits, since PyTorch's CPU generator ignores any above them."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def sum_type(device):
    """The type to add up an epoch's losses in: float64, but for MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def train_epoch(network, optimizer, images, args, epoch, bf16, rank, world):
    """One pass over the images; returns the mean ``(bce, kld)``, nats per image.

    Everything random follows from the seed, the epoch's number and the rank, so an epoch
    is the same whether or not the ones before it ran in this process.
    """
    network.train()
    generator = torch.Generator().manual_seed(mix_seed(args.seed, epoch, 0))  # one order in all processes
    order = torch.randperm(len(images), generator=generator).to(images.device)
    torch.manual_seed(mix_seed(args.seed, epoch, 1 + rank))
    steps = math.ceil(len(images) / args.batch_size)
    sums = torch.zeros(3, dtype=sum_type(images.device), device=images.device)  # bce, kld, images
    start = shown = time.perf_counter()
    # The rate is ours: tqdm's own follows the wall clock, which may jump.
    bar = tqdm(
        desc=f"epoch {epoch}/{args.epochs}",
        total=len(images),
        bar_format="{desc} {percentage:3.0f}% |{bar}| {postfix}",
        leave=False,
        disable=rank > 0,
    )
    with bar:
        for step, indices in enumerate(order.split(args.batch_size)):
            if len(indices) < world:  # a last batch too small to give every process an image
                break
            x = next(batches(images, args.batch_size, indices[rank::world]))
            if args.binarize:
                x = torch.bernoulli(x)
            lr = learning_rate((epoch - 1) * steps + step, args.epochs * steps, args.lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
                logits, mu, logvar = network(x)
            loss, bce, kld = vae_loss(logits, x, mu, logvar, args.beta)
            # The processes' gradients are averaged: weigh them by how many images each had.
            loss = loss * (len(x) * world / len(indices))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            sums += torch.stack([bce.detach(), kld.detach(), torch.ones_like(bce)]) * len(x)
            # The sums stay on the device: asking for them makes it wait, so once a second will do.
            if (now := time.perf_counter()) - shown > 1:
                bce_sum, kld_sum, seen = sums.tolist()
                bar.n = min((step + 1) * args.batch_size, len(images))
                loss_so_far, rate = (bce_sum + args.beta * kld_sum) / seen, bar.n / (now - start)
                bar.set_postfix_str(f"loss {loss_so_far:.2f}, {rate:,.0f} img/s")
                shown = now
    return mean_over_processes(sums, world)


@torch.no_grad()
def evaluate(model, images, args, bf16, rank, world):
    """Mean ``(bce, kld)`` over the images, z sampled: the same draw every epoch."""
    model.eval()
    if world > 1:  # each process has its own batch-norm statistics: measure the ones that are saved
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
    sums = torch.zeros(3, dtype=sum_type(images.device), device=images.device)
    for i, x in enumerate(batches(images, EVAL_BATCH)):
        if i % world != rank:
            continue
        generator = torch.Generator(images.device).manual_seed(mix_seed(args.seed, i))
        if args.binarize:
            x = torch.bernoulli(x, generator=generator)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits, mu, logvar = model(x, generator)
        bce, kld = vae_terms(logits, x, mu, logvar)
        sums += torch.stack([bce.sum(), kld.sum(), torch.full_like(bce[0], len(x))])
    return mean_over_processes(sums, world)


def mean_over_processes(sums, world):
    """``(bce, kld)`` per image from each process's sums of bce, kld and images."""
    if world > 1:
        dist.all_reduce(sums)
    bce, kld, images = sums.tolist()
    return bce / images, kld / images
