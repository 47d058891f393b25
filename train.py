"""Train a ConvVAE: minimise the negative ELBO, BCE + KL, and after every epoch save all that came of it.

    python train.py                                      # 20 epochs on the best device found
    python train.py --epochs 100 --binarize-epochs 80    # the first of the three runs of the README's model
    python train.py --epochs 100 --device cuda           # on an NVIDIA GPU
    python train.py --dataset FOLDER                     # on your own images: FOLDER/<class>/*, or FOLDER/*
    python train.py --resume                             # go on after a stop, as if there had been none
    torchrun --nproc-per-node=2 train.py                 # on several processes or GPUs

Every epoch writes the checkpoint and, under outputs/training/, a grid of samples from
the same fixed z, a grid of reconstructions, metrics.csv and the loss curves.
"""

import argparse
import dataclasses
import functools
import math
import time
from pathlib import Path

import numpy as np
import torch

from data import batches, draw_pixels, move, to_float
from importance import ImportanceWeighted, iw_loss
from mixture import fit_mixture
from model import EVAL_BATCH, vae_loss
from optimizer import make_optimizer
from settings import Settings
from support import cli, distributed, pictures
from support.checkpoint import in_half, restore_optimizer, save_checkpoint
from support.cuda_graph import replayed
from support.errors import UserError, user_errors
from support.reports import check_finite, describe, metrics, report, save_reports, take_folder
from support.runs import load_images, open_or_start

WARMUP_STEPS = 200  # of linear learning-rate warm-up; a tenth of the run where that is less
FINAL_LR = 0.01  # the cosine ends at this fraction of the peak


def parse_args():
    """The flags. A setting that was not typed is None, so that --resume can tell it from one that was.

    Its namespace has these Nones before argparse begins, which then fills in no default: the defaults
    below are for --help to show, and Settings has their values. The precision depends on the device.
    """
    parser = cli.Parser(__doc__)
    add_settings(parser)
    add = parser.add_argument
    cli.add_data_dir(parser)
    cli.add_device(parser)
    add("--checkpoint", type=cli.user_path, default=cli.TRAINED, help="the file to train into")
    add("--out", type=cli.user_path, default=cli.OUT, help="folder of pictures and metrics")
    add("--resume", action="store_true", help="go on from the checkpoint, with its settings, into its --out")
    add("--overwrite", action="store_true", help="start anew over an earlier run's files")
    names = [field.name for field in dataclasses.fields(Settings)]
    args = parser.parse_args(namespace=argparse.Namespace(**dict.fromkeys([*names, "out"])))
    if args.resume and args.overwrite:
        parser.error("--resume goes on with a run, and --overwrite starts anew: leave one of them out")
    if args.importance_samples and args.importance_samples > 1 and args.beta not in (None, 1.0):
        parser.error("--beta weighs the ELBO's KL, and --importance-samples trains on another bound")
    return args


def add_settings(parser):
    """A flag for every setting of a run."""
    add = parser.add_argument
    positive, not_negative = cli.number(float, above=0), cli.number(float, at_least=0)
    fraction = cli.number(float, at_least=0, below=1)
    count = cli.number(int, at_least=1)
    add("--epochs", type=count, default=Settings.epochs, help="passes over the training images")
    add("--batch-size", type=count, default=Settings.batch_size, help="images per step")
    add("--lr", type=positive, default=Settings.lr, help="peak learning rate")
    add(
        "--weight-decay",
        type=not_negative,
        default=Settings.weight_decay,
        help="AdamW's, of the fully connected weights",
    )
    add("--latent-dim", type=count, default=Settings.latent_dim, help="size of the latent z")
    add("--beta", type=not_negative, default=Settings.beta, help="weight of the KL")
    add(
        "--importance-samples",
        type=count,
        default=Settings.importance_samples,
        metavar="K",
        help="samples of z for each image; above 1, train on the importance-weighted bound, not the ELBO",
    )
    add(
        "--dropout",
        type=fraction,
        default=Settings.dropout,
        help="probability of dropping a feature map or hidden unit of the encoder",
    )
    add(
        "--binarize",
        action="store_true",
        help="draw black or white pixels from the gray levels, anew every batch",
    )
    add(
        "--binarize-epochs",
        type=cli.number(int, at_least=0),
        default=Settings.binarize_epochs,
        metavar="N",
        help="draw such pixels in the first N epochs alone: noise, so that images are not learnt by heart",
    )
    add(
        "--move-epochs",
        type=cli.number(int, at_least=0),
        default=Settings.move_epochs,
        metavar="N",
        help="turn, scale, shear and shift the images a little in the first N epochs, for the same reason",
    )
    add(
        "--validate",
        action="store_true",
        help="to choose settings: hold out a sixth of the training images, test on these instead",
    )
    cli.add_dataset(parser)
    cli.add_precision(parser)
    cli.add_seed(parser)
    add(
        "--from",
        dest="from_",
        type=cli.user_path,
        metavar="CHECKPOINT",
        help="start a new run from this trained model, on what it was trained on",
    )


def main():
    args = parse_args()
    device = distributed.join(cli.pick_device(args.device))
    with open_or_start(args, device) as (model, run):  # a ConvVAE; its settings and history so far
        settings = run.settings
        train, test = load_images(run, args.data_dir)
        train_images, test_images = train.images.to(device), test.images.to(device)

        model.to(device, memory_format=torch.channels_last)
        samples = settings.importance_samples  # of z for each image
        network = ImportanceWeighted(model, samples) if samples > 1 else model  # gives the loss its inputs
        replica = distributed.in_step(network, settings.batch_size)  # the same; under torchrun, in DDP
        optimizer = make_optimizer(model, settings.lr, settings.weight_decay)
        restore_optimizer(optimizer, run, args.checkpoint)
        step = functools.partial(train_step, replica, optimizer, settings)  # step(x, lr, scale)
        step = replayed(step, device)

        if distributed.is_first():
            take_folder(run)
            print(describe(model, run, device, len(train_images), len(test_images)))
            # epoch 0; in a run that goes on, the pictures that a kill may have left undrawn
            save_epoch(args.checkpoint, model, optimizer, run, test_images)
        for epoch in range(len(run.history) + 1, settings.epochs + 1):
            start = time.perf_counter()  # a clock that never jumps
            train_loss = train_epoch(replica, step, train_images, epoch, settings)
            seconds = time.perf_counter() - start
            test_loss = loss_on(network, test_images, settings)
            row = metrics(epoch, train_loss, test_loss, len(train_images), seconds)
            check_finite(row, model, settings, args.checkpoint)
            run.history.append(row)
            if distributed.is_first():
                save_epoch(args.checkpoint, model, optimizer, run, test_images)
                print(report(row, settings), flush=True)
        if distributed.is_first():
            mixture = mixture_of_training_images(model, train_images, train.labels, settings)
            finish(args.checkpoint, model, run, mixture, args.data_dir)
    distributed.leave()


# The training itself


def train_epoch(network, step, images, epoch, settings):
    """One pass over the images (N, 1, 28, 28), uint8: their mean ``(loss, bce, kld)`` in nats per image.

    ``step(x, lr, scale)`` is train_step with this network, its optimiser and the settings filled in.
    Everything random follows from the seed, the epoch's number and the process, so an epoch
    is the same whether or not the ones before it ran in this process.
    """
    network.train()
    same_for_all = torch.Generator().manual_seed(mix_seed(settings.seed, epoch, 0))
    order = torch.randperm(len(images), generator=same_for_all).to(images.device)
    torch.manual_seed(mix_seed(settings.seed, epoch, 1 + distributed.get_rank()))
    steps = math.ceil(len(images) / settings.batch_size)
    means = distributed.Means(3, images.device)
    with cli.progress(desc=f"epoch {epoch}/{settings.epochs}", total=steps, unit="step") as bar:
        for number, (indices, scale) in enumerate(distributed.shares(order, settings.batch_size)):
            x = to_float(images[indices])  # (B, 1, 28, 28)
            x = draw_pixels(move(x) if settings.moves(epoch) else x, settings.binarizes(epoch))
            lr = learning_rate((epoch - 1) * steps + number, settings.epochs * steps, settings.lr)
            loss, bce, kld = step(x, lr, scale)
            means.add((loss, bce, kld), len(x))
            bar.update()
            if number % 50 == 0:  # asking a GPU for a number makes it wait
                bar.set_postfix_str(f"loss {loss.item():.2f}")
    return means.over_all()


def train_step(network, optimizer, settings, x, lr, scale):
    """One step on images x (B, 1, 28, 28) in [0, 1]: the ``(loss, bce, kld)`` before it.

    ``scale`` makes up for unequal shares of a batch among processes: 1 where one trains alone. On a CUDA
    GPU a step is recorded once and repeated with another x and lr: nothing in it may ask for a number, with
    .item(), print or if, and any other number that changes would stay what it was.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss, bce, kld = loss_of_batch(network, x, settings)
    optimizer.zero_grad()
    (scale * loss).backward()
    optimizer.step()
    return loss.detach(), bce.detach(), kld.detach()  # whoever keeps them does not keep what led to them


def loss_of_batch(network, x, settings, generator=None):
    """The ``(loss, bce, kld)`` that is minimised, on images x (B, 1, 28, 28) in [0, 1]."""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        outputs = network(x, generator)
    if settings.importance_samples > 1:
        logits, mu, logvar, z = outputs
        return iw_loss(logits, x, mu, logvar, z)
    logits, mu, logvar = outputs
    return vae_loss(logits, x, mu, logvar, settings.beta)


@torch.no_grad()
def loss_on(network, images, settings):
    """Mean ``(loss, bce, kld)`` over images that are not trained on, z sampled: the same draw every epoch."""
    network.eval()
    distributed.take_buffers_of_first(network)
    means = distributed.Means(3, images.device)
    batch_size = max(1, EVAL_BATCH // settings.importance_samples)
    for number, x in distributed.share_of(enumerate(batches(images, batch_size))):
        generator = torch.Generator(images.device).manual_seed(mix_seed(settings.seed, 0, number))
        x = draw_pixels(x, settings.binarize, generator)
        means.add(loss_of_batch(network, x, settings, generator), len(x))
    return means.over_all()


def learning_rate(step, total_steps, peak):
    """Linear warm-up to ``peak``, then a cosine down to FINAL_LR of it at the last step."""
    warmup = min(WARMUP_STEPS, total_steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (total_steps - warmup)
    return peak * (FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * progress)))


def mix_seed(*numbers):
    """One seed from several numbers: 32 bits, since PyTorch's CPU generator ignores any above them."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


# What a training leaves


def save_epoch(path, model, optimizer, run, test_images):
    """Write the checkpoint, then the pictures and metrics, which can be made again from it."""
    run.optimizer = optimizer.state_dict()
    save_checkpoint(path, model, run)
    distributed.mark_saved()
    save_reports(model, run, test_images)


@torch.no_grad()
def mixture_of_training_images(model, images, labels, settings):
    """The latent mixture of the encoded images (N, 1, 28, 28), uint8, and their labels (N,)."""
    model.eval()
    generator = torch.Generator(images.device).manual_seed(settings.seed)
    z = []
    for x in batches(images, EVAL_BATCH, settings.binarize, generator):
        z.append(model.reparameterize(*model.encode(x), generator))
    try:
        return fit_mixture(torch.cat(z).cpu(), labels, settings.seed)
    except (ValueError, torch.linalg.LinAlgError) as error:
        raise UserError(f"no mixture can be fitted to the encoder's z ({error}): try a lower --lr") from None


def finish(path, model, run, mixture, data_dir):
    """Write the film and the finished checkpoint: weights in half precision, the mixture, no optimiser."""
    settings, out = run.settings, Path(run.out)
    grids = [out / f"img_from_epoch{epoch}.png" for epoch in range(settings.epochs + 1)]
    grids = [grid for grid in grids if grid.exists()]
    if grids:
        pictures.save_film(out / "film.gif", grids)
    # Last of all: a run killed before this has not finished, and --resume does the above again.
    save_checkpoint(path, in_half(model), run.finished(mixture))
    print(
        f"wrote {path}\n"
        f"wrote {out}/: img_from_epoch0.png ... img_from_epoch{settings.epochs}.png, recon_from_epoch*.png, "
        f"metrics.csv, loss_curves.png, film.gif\n{cli.next_step(path, data_dir, 'generate', 'evaluate')}"
    )


if __name__ == "__main__":
    with user_errors("--batch-size", "--latent-dim", "--importance-samples"):
        main()
