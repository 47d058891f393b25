"""What a run starts from: its flags, an earlier run in a checkpoint, a trained model, its data."""

import dataclasses

import torch

from support import cli
from support.checkpoint import Settings, load_checkpoint
from support.errors import UserError

# What a run that starts --from a trained model takes from it: what the model is and what it is for.
INHERITED = ("latent_dim", "dropout", "dataset", "image_size", "invert", "binarize", "validate")


def typed_settings(args):
    """The settings of a run that stand on the command line, {name: value}."""
    names = [field.name for field in dataclasses.fields(Settings)]
    typed = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.precision == "auto":  # which leaves it open
        del typed["precision"]
    return typed


def open_run(args):
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
    refuse_others(typed, dataclasses.asdict(run.settings), path)
    run.out = str(args.out or run.out or cli.OUT)
    return model, run


def inherit(path, typed):
    """A trained model to start from, and the settings that come with it, {name: value}. Raises UserError."""
    model, run = load_checkpoint(path)
    inherited = {name: getattr(run.settings, name) for name in INHERITED}
    refuse_others({name: typed[name] for name in INHERITED if name in typed}, inherited, path)
    return model, inherited


def refuse_others(typed, settings, path):
    """Refuse typed settings that differ from those of the run at ``path``."""
    for name, value in typed.items():
        if value != settings[name]:
            flag = "--" + name.strip("_").replace("_", "-")
            raise UserError(f"{path} was trained with {flag} {settings[name]}, not {value}: leave {flag} out")


def check_data(run, train):
    """Refuse training images that the run cannot go on with, or not be finished with."""
    if not run.source:
        run.source, run.classes = train.source, train.classes
    if run.source != train.source:
        raise UserError(
            f"this run trained on the {run.source} data set and found the {train.source} one: "
            "check --data-dir"
        )
    counts = torch.bincount(train.labels, minlength=max(1, len(train.classes)))
    rarest = counts.argmin()
    if counts[rarest] < 2:
        name = f"class {train.classes[rarest]}" if train.classes else "the folder"
        raise UserError(
            f"{name} has {counts[rarest]} of the training images and the latent mixture needs 2 of each: "
            f"check {'--dataset' if run.settings.of_folder else '--data-dir'}"
        )
