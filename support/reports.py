"""What a run says and shows of itself: lines on the terminal, metrics.csv, pictures."""

import math
from pathlib import Path

import torch

from model import RECON
from support import distributed, pictures
from support.checkpoint import is_finite
from support.errors import UserError
from support.files import write_table

FEW_IMAGES, FEW_EPOCHS = 10_000, 50  # below both there is advice


def describe(model, run, device, train, test):
    """What was found, in a line: device, precision, data, network; then what was read of one's own images,
    and what to do where they are few.
    """
    settings, world_size = run.settings, distributed.get_world_size()
    images = Path(settings.dataset).resolve() if settings.own_images else settings.dataset
    line = (
        f"{device.type}{f' x {world_size}' if world_size > 1 else ''}, {settings.precision}; "
        f"{images} ({run.source}), {len(train.images):,} training and {len(test.images):,} "
        f"{settings.test_split} images; {sum(p.numel() for p in model.parameters()):,} parameters"
    )
    return "\n".join([line, *train.notes, *advice(run, len(train.images))])


def advice(run, images):
    """A line for a new run that is too short for its few images; nothing for others."""
    settings = run.settings
    if run.history or settings.from_ or images >= FEW_IMAGES or settings.epochs >= FEW_EPOCHS:
        return []
    epochs, size = (200, 6) if images < 2000 else (150, 3)  # measured on 500 and on 4,000: STUDY.md
    line = f"--epochs {settings.epochs} is little for {images:,} images: try --epochs {epochs}"
    return [line if settings.augment else f"{line}, and --augment {size} so that it learns none by heart"]


def metrics(epoch, train_loss, test_loss, images, seconds):
    """An epoch's row of metrics.csv and of the checkpoint's history."""
    row = {"epoch": epoch}
    for split, (loss, bce, kld) in (("train", train_loss), ("test", test_loss)):
        row |= {f"{split}_loss": loss, f"{split}_bce": bce, f"{split}_kld": kld}
    return row | {"images_per_s": images / seconds, "seconds": seconds}


def check_finite(row, model, settings, path):
    """End a run whose loss or weights are no longer numbers: going on would overwrite the last good epoch."""
    wrong = [f"{name} became {value}" for name, value in row.items() if not math.isfinite(value)]
    if not is_finite(model):
        wrong.append("weights became inf or nan")
    if wrong:
        raise UserError(
            f"{wrong[0]} in epoch {row['epoch']}: try a lower --lr than {settings.lr}, or a "
            f"lower --weight-decay; {path} still holds epoch {row['epoch'] - 1}"
        )


def report(row, settings):
    """An epoch's line on the terminal."""
    weight = "" if settings.beta == 1 else f" x {settings.beta:g}"

    def terms(split):
        loss, bce, kld = (row[f"{split}_{name}"] for name in ("loss", "bce", "kld"))
        return f"{loss:7.2f} ({RECON} {bce:7.2f}, KL {kld:6.2f}{weight})"

    return (
        f"epoch {row['epoch']:3d}   train {terms('train')}   {settings.test_split} {terms('test')}"
        f"   {row['images_per_s']:8,.0f} img/s"
    )


@torch.no_grad()
def save_reports(model, run, x):
    """The grids of an epoch, of samples and of images x above their reconstructions, and all metrics."""
    model.eval()
    out, epoch = Path(run.out), len(run.history)
    fixed = torch.Generator().manual_seed(run.settings.seed)  # the same z every epoch
    samples = model.sample(64, generator=fixed)
    pictures.save_png(out / f"img_from_epoch{epoch}.png", pictures.grid(samples, nrow=8))
    recon = model.decode(model.encode(x)[0])
    pictures.save_png(out / f"recon_from_epoch{epoch}.png", pictures.pairs(x, recon))
    if run.history:
        columns = dict.fromkeys(name for row in run.history for name in row)  # those of older code are fewer
        rows = [[row.get(name, "") for name in columns] for row in run.history]
        write_table(out / "metrics.csv", [columns, *rows])
        pictures.save_figure(
            out / "loss_curves.png", pictures.loss_curves(run.history, run.settings.test_split), dpi=150
        )


def save_film(run):
    """Its grids of samples, epoch after epoch, as a GIF; those that are not there any more are left out."""
    out = Path(run.out)
    grids = [out / f"img_from_epoch{epoch}.png" for epoch in range(run.settings.epochs + 1)]
    pictures.save_film(out / "film.gif", [grid for grid in grids if grid.exists()])
