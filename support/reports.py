"""What a training says and shows of itself: lines on the terminal, metrics.csv, pictures."""

import csv
import io
import math
import os
import re
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from data import draw_pixels, to_float
from model import RECON
from support import distributed, pictures
from support.checkpoint import is_finite
from support.errors import UserError
from support.files import write_file

OWN_FILES = re.compile(r"(img|recon)_from_epoch\d+\.png|metrics\.csv|loss_curves\.png|film\.gif")
MARK = ".run"  # a file in the folder of a run, with the run's id


def check_folder(run, checkpoint, resume, overwrite):
    """See that a run's folder is its own, before anything is written. Raises UserError."""
    out = Path(run.out)
    real, file = (Path(os.path.realpath(path)) for path in (out, checkpoint))
    if file in (real, *real.parents):
        raise UserError(
            f"--checkpoint {checkpoint} is a file and --out {out} a folder: one cannot be in the other"
        )
    if not _reports_in(out):
        return
    if resume and _mark_of(out) not in (None, run.id):
        raise UserError(f"{out} holds the pictures of another run by now: pass another --out")
    if not resume and not overwrite:
        raise UserError(
            f"{out} holds the pictures of an earlier run: pass another --out, or --overwrite to replace them"
        )


def take_folder(run):
    """Mark the run's folder as its own; what an earlier one left there goes when a run begins."""
    out = Path(run.out)
    if not run.history:
        for file in _reports_in(out):
            file.unlink()
    if _mark_of(out) != run.id:
        write_file(out / MARK, run.id.encode())


def _reports_in(folder):
    """The files in a folder that are of the names a training writes."""
    return [file for file in folder.glob("*") if OWN_FILES.fullmatch(file.name)]


def _mark_of(folder):
    """The id of the run that a folder belongs to, or None."""
    try:
        return (folder / MARK).read_text()
    except (OSError, UnicodeError):
        return None


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
def save_reports(model, run, test_images):
    """The epoch's two grids, of samples and of reconstructions under their originals, and all metrics."""
    model.eval()
    out, epoch = Path(run.out), len(run.history)
    fixed = torch.Generator().manual_seed(run.settings.seed)  # the same z every epoch
    samples = model.sample(64, generator=fixed)
    pictures.save_png(out / f"img_from_epoch{epoch}.png", pictures.grid(samples, nrow=8))
    generator = torch.Generator(test_images.device).manual_seed(run.settings.seed)
    x = draw_pixels(to_float(test_images[:32]), run.settings.binarize, generator)
    recon = model.decode(model.encode(x)[0])
    pictures.save_png(out / f"recon_from_epoch{epoch}.png", pictures.pairs(x, recon))
    if run.history:
        text = io.StringIO()
        writer = csv.DictWriter(text, run.history[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(run.history)
        write_file(out / "metrics.csv", text.getvalue().encode())
        pictures.save_figure(
            out / "loss_curves.png", pictures.loss_curves(run.history, run.settings.test_split), dpi=150
        )
