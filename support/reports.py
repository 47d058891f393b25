"""What a training says and shows of itself: lines on the terminal, metrics.csv, pictures."""

import csv
import io
import math
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from data import to_float
from model import RECON
from support import distributed, pictures
from support.errors import UserError
from support.files import write_file


def describe(model, run, device, train_size, test_size):
    """One line on what was found: device, precision, data, network."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        size = run.settings.image_size
        model.eval()(torch.zeros(1, 1, size, size, device=device))
    processes = distributed.get_world_size()
    settings, parameters = run.settings, sum(p.numel() for p in model.parameters())
    return (
        f"{device.type}{f' x {processes}' if processes > 1 else ''}, {settings.precision}; "
        f"{settings.dataset_name} ({run.source}), {train_size:,} training and {test_size:,} "
        f"{settings.test_split} images; {parameters:,} parameters, "
        f"{counter.get_total_flops() / 1e6:.1f} MFLOP per image forward"
    )


def metrics(epoch, train_loss, test_loss, images, seconds):
    """An epoch's row of metrics.csv and of the checkpoint's history."""
    row = {"epoch": epoch}
    for split, (loss, bce, kld) in (("train", train_loss), ("test", test_loss)):
        row |= {f"{split}_loss": loss, f"{split}_bce": bce, f"{split}_kld": kld}
    return row | {"images_per_s": images / seconds, "seconds": seconds}


def check_finite(row, settings, path):
    """End a run whose loss is no longer a number: going on would overwrite the last good epoch."""
    for name, value in row.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} became {value} in epoch {row['epoch']}: try a lower --lr than {settings.lr}, or a "
                f"lower --weight-decay; {path} still holds epoch {row['epoch'] - 1}"
            )


def report(row):
    """An epoch's line on the terminal."""
    return (
        f"epoch {row['epoch']:3d}"
        f"   train {row['train_loss']:7.2f} = {RECON} {row['train_bce']:7.2f} + KL {row['train_kld']:6.2f}"
        f"   test {row['test_loss']:7.2f} = {RECON} {row['test_bce']:7.2f} + KL {row['test_kld']:6.2f}"
        f"   {row['images_per_s']:8,.0f} img/s"
    )


@torch.no_grad()
def save_reports(model, run, test_images):
    """The epoch's two grids, of samples and of reconstructions under their originals, and all metrics."""
    model.eval()
    out, epoch = Path(run.out), len(run.history)
    fixed = torch.Generator().manual_seed(run.settings.seed)  # the same z every epoch
    samples = model.sample(64, generator=fixed)
    pictures.save_png(out / f"img_from_epoch{epoch}.png", pictures.grid(samples, nrow=8))
    x = to_float(test_images[:32])
    recon = model.decode(model.encode(x)[0])
    pictures.save_png(out / f"recon_from_epoch{epoch}.png", pictures.pairs(x, recon))
    if run.history:
        text = io.StringIO()
        writer = csv.DictWriter(text, run.history[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(run.history)
        write_file(out / "metrics.csv", text.getvalue().encode())
        pictures.save_figure(out / "loss_curves.png", pictures.loss_curves(run.history), dpi=150)
