"""What a run starts from: its flags, an earlier run in a checkpoint, a trained model, its data."""

import contextlib
import dataclasses
import inspect
from pathlib import Path

import torch

from folders import load_split
from model import ConvVAE
from settings import Settings
from support import cli, distributed
from support.checkpoint import Run, check_same_images, load_checkpoint, stops_can_be_resumed
from support.errors import UserError
from support.files import reserved
from support.reports import check_folder

NETWORK = [name for name in inspect.signature(ConvVAE).parameters if hasattr(Settings, name)]
# What a run that starts --from a trained model takes from it: what the model is and what it is for.
INHERITED = (*NETWORK, "dataset", "invert", "binarize", "validate")


@contextlib.contextmanager
def open_or_start(args, device):
    """The model and the run of these flags, new or to go on with: ``(model, run)``.

    Nobody else trains into its checkpoint or its folder meanwhile. Raises UserError.
    """
    with reserved(args.checkpoint, "--checkpoint"):
        resume = args.resume or distributed.was_restarted()
        model, run = open_run(args, device) if resume else new_run(args, device)
        check_folder(run, args.checkpoint, resume, args.overwrite)
        with reserved(Path(run.out), "--out", folder=True), stops_can_be_resumed(args.checkpoint, run):
            yield model, run


def load_images(run, data_dir):
    """The splits that a run trains on and is tested on. Raises UserError or DataError."""
    with distributed.first_on_its_machine():  # which may download: the others find it there
        train = load_split(run, data_dir, "train")
        test = load_split(run, data_dir, run.settings.test_split)
    check_same_images(run, train)
    check_counts(run, train)
    return train, test


def new_run(args, device):
    """A model and a run that have not begun: ``(model, run)``."""
    if args.checkpoint.exists() and not args.overwrite:
        raise UserError(
            f"{args.checkpoint} holds an earlier run: pass --resume to go on with it, "
            "--overwrite to replace it, or another --checkpoint"
        )
    chosen = typed_settings(args) | {"precision": cli.pick_precision(args.precision or "auto", device)}
    if args.from_:
        model, settings, source, classes = inherit(args.from_, chosen)
    else:
        source, classes = "", []  # the data will tell
        settings = Settings(**chosen)
        torch.manual_seed(settings.seed)
        model = ConvVAE(**{name: getattr(settings, name) for name in NETWORK})
    check_binarize_epochs(settings)
    return model, Run(settings, source, classes, out=str(args.out or cli.OUT))


def typed_settings(args):
    """The settings of a run that stand on the command line, {name: value}."""
    names = [field.name for field in dataclasses.fields(Settings)]
    typed = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.precision == "auto":  # which leaves it open
        del typed["precision"]
    if args.from_:
        typed["from_"] = str(args.from_)
    return typed


def open_run(args, device):
    """The model and the run in args.checkpoint, to go on with: ``(model, run)``. Raises UserError."""
    path = args.checkpoint
    if not path.exists():
        raise UserError(f"nothing to resume at {path}: leave out --resume to start a run")
    model, run = load_checkpoint(path)
    if run.mixture is not None:
        raise UserError(f"{path} holds a finished run, nothing to resume: pass --overwrite to train anew")
    typed = typed_settings(args)
    if cli.are_folders(typed.get("dataset", "mnist"), run.settings.dataset):
        # it may have moved: the images are compared
        run.settings = dataclasses.replace(run.settings, dataset=typed["dataset"])
    precision = typed.pop("precision", run.settings.precision)  # which may change, too
    refuse_others(typed, dataclasses.asdict(run.settings), path)
    precision = cli.resumed_precision(run.settings.precision, precision, device)
    run.settings = dataclasses.replace(run.settings, precision=precision)
    run.out = str(args.out or run.out or cli.OUT)
    return model, run


def inherit(path, chosen):
    """A trained model to start from, with what comes with it: ``(model, settings, source, classes)``.

    The settings are the chosen ones and those of INHERITED. Raises UserError if they disagree.
    """
    model, run = load_checkpoint(path)
    inherited = {name: getattr(run.settings, name) for name in INHERITED}
    if cli.are_folders(chosen.get("dataset", "mnist"), inherited["dataset"]):
        inherited["dataset"] = chosen["dataset"]  # it may have moved: the classes are compared
    refuse_others({name: chosen[name] for name in INHERITED if name in chosen}, inherited, path)
    return model, Settings(**(chosen | inherited)), run.source, run.classes


def refuse_others(typed, settings, path):
    """Refuse typed settings that differ from those of the run at ``path``."""
    for name, value in typed.items():
        if value != settings[name]:
            flag = "--" + name.strip("_").replace("_", "-")
            before = f"with {flag} {settings[name]}" if settings[name] != "" else f"without {flag}"
            raise UserError(f"{path} was trained {before}, not {value}: leave {flag} out")


def check_binarize_epochs(settings):
    """Refuse black and white pixels in the first epochs alone, if none with gray ones would follow."""
    first, epochs = settings.binarize_epochs, settings.epochs
    if first and settings.binarize:
        raise UserError("--binarize draws the pixels of every epoch: leave --binarize-epochs out")
    if first >= epochs:
        raise UserError(
            f"--binarize-epochs {first} leaves no gray pixels: pass fewer than --epochs, {epochs}"
        )


def check_counts(run, train):
    """Refuse training images that the run cannot be finished with: the mixture needs two of each class."""
    counts = torch.bincount(train.labels, minlength=max(1, len(train.classes)))
    rarest = counts.argmin()
    if counts[rarest] < 2:
        name = f"class {train.classes[rarest]}" if train.classes else "the folder"
        raise UserError(
            f"{name} has {counts[rarest]} of the training images and the latent mixture needs 2 of each: "
            f"check {'--dataset' if run.settings.of_folder else '--data-dir'}"
        )
