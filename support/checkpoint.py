"""What a checkpoint holds: a model and the run that trained it, written whole and read safely."""

import contextlib
import copy
import io
import math
import os
import pickle
import secrets
import zipfile
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch

from data import checksum
from mixture import is_mixture
from mnist import CLASS_NAMES
from model import ConvVAE
from settings import Settings
from support.errors import CheckpointError, Terminated, UserError
from support.files import short, write_file

FORMAT, VERSION = "conv-vae", 1
OPTIONAL = ("id", "images", "checksum", "out", "optimizer", "mixture")  # of a Run: not in every checkpoint


@dataclass
class Run:
    """A training and how far it is: all that a checkpoint says besides the model."""

    settings: Settings
    source: str = ""  # of its images: "full", "sample" or "folder", once they have been read
    classes: list = field(default_factory=list)  # their names; none where images have no classes
    history: list = field(default_factory=list)  # for every epoch its metrics, {name: number}
    id: str = field(default_factory=lambda: secrets.token_hex(8))  # of this run and its folder, of no other
    images: int | None = None  # how many it trains on,
    checksum: int | None = None  # and data.checksum of them: a resumed run must find the same
    out: str | None = None  # the folder of its pictures and metrics, until it is finished
    optimizer: dict | None = None  # the optimiser's state, until it is finished
    mixture: dict | None = None  # the latent mixture, once it is finished
    saved: int | None = None  # not in the file: how many epochs are, or None if nothing is yet

    def finished(self, mixture):
        """What to keep of this run at its end: its mixture, and nothing that only going on needs.

        Others may get the file, which need not tell them where on this machine its folder and the
        model that it started from were.
        """
        dataset, origin = self.settings.dataset, Path(self.settings.from_).name
        if self.settings.of_folder and len(Path(dataset).parts) > 1:
            seen_from_here = str(short(dataset))
            if (
                seen_from_here != "." and seen_from_here not in CLASS_NAMES
            ):  # which would mean another data set
                dataset = seen_from_here
        settings = replace(self.settings, dataset=dataset, from_=origin)
        return replace(self, settings=settings, out=None, optimizer=None, mixture=mixture)


def save_checkpoint(path, model, run):
    """Write the model and its run to ``path``, atomically, as one dict of tensors and plain values.

    ``format``, ``version``: which file this is; ``config``: the arguments of ConvVAE;
    ``model``: its state dict; ``args``: the Settings, but for those that ``config`` has;
    ``source``, ``classes``, ``history`` and, where the run has them, ``id``, ``images``,
    ``checksum``, ``out``, ``optimizer``, ``mixture``: as in Run.
    Raises OSError if that fails; an earlier checkpoint is then still in place.
    """
    settings = asdict(run.settings)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": model.config,
        "model": model.state_dict(),
        "args": {name: value for name, value in settings.items() if name not in model.config},
        "source": run.source,
        "classes": run.classes,
        "history": run.history,
    }
    for name in OPTIONAL:
        if getattr(run, name) is not None:
            content[name] = getattr(run, name)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_file(path, buffer.getbuffer())
    run.saved = len(run.history)


def in_half(model):
    """The model with float16 weights: half the file. If one of them overflows, the model as it is."""
    half = copy.deepcopy(model).half()
    return half if is_finite(half) else model


def is_finite(model):
    """Whether every weight is a number: a model that is not can draw nothing."""
    return all(value.isfinite().all() for value in model.state_dict().values())


def load_checkpoint(path, device="cpu"):
    """Rebuild what is in ``path``: ``(model, run)``, the model in eval mode on ``device``.

    Nothing in the file is executed and nothing larger than the file is allocated.
    Raises CheckpointError if the file is missing, damaged, not such a checkpoint, or of another network.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would wait for ever
        raise CheckpointError(f"{path} is not a file: copy the checkpoint into one")
    try:
        content = _read(path)
    except (CheckpointError, IsADirectoryError, PermissionError):
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"no checkpoint at {path}: train one with python train.py") from None
    except Exception as error:  # a damaged or hostile file can raise anything
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}): restore it or train again"
        ) from None
    try:
        model = _model_in(content)
    except Exception:  # whatever torch raises, and a hostile file can make that anything, too
        raise CheckpointError(
            f"{path} does not fit the network in model.py: use the one it was trained with, or train again"
        ) from None
    if not is_finite(model):
        raise CheckpointError(
            f"{path} has weights that are infinite or no numbers: restore it or train again"
        )
    try:
        run = _run_in(content, model.config)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise CheckpointError(
            f"{path} does not say how it was trained, or is of another version of train.py: train again"
        ) from None
    return model.to(device).eval(), run


def _read(path):
    """The dict in a checkpoint file, after every check that needs no model."""
    size = os.path.getsize(path)
    foreign = CheckpointError(f"{path} is not a checkpoint of this project, or is truncated: train again")
    try:
        # Complete, uncompressed and with intact check-sums, before torch reads a byte of it.
        with zipfile.ZipFile(path) as archive:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            if not stored or archive.testzip():
                raise foreign
        # Mapped, not read: a tensor that claims more than the file has cannot reach past its end.
        content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, UnicodeError, NotImplementedError):
        raise foreign from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise foreign
    if content["version"] != VERSION:
        raise CheckpointError(
            f"{path} has format version {content['version']} and this code reads {VERSION}: update the code"
        )
    # A tensor may be of a kind, or claim more elements than the file holds (a stride of zero
    # repeats one), that only a file made to do harm has.
    tensors = content["model"].values()
    if not all(type(t) is torch.Tensor and t.is_cpu and t.layout == torch.strided for t in tensors):
        raise foreign
    if sum(t.nbytes for t in tensors) > size:
        raise foreign
    return content


def _model_in(content):
    """The model of a checkpoint's dict. Raises whatever a dict that does not fit makes torch raise."""
    with torch.device("meta"):  # shapes without memory: a wrong config cannot cost any
        model = ConvVAE(**content["config"])
    weights = {}
    for name, expected in model.state_dict().items():
        value = content["model"][name]
        if value.is_floating_point() != expected.is_floating_point():
            raise TypeError("integers for floats")
        weights[name] = value.to(expected.dtype, copy=True)
    if len(weights) != len(content["model"]):
        raise ValueError("more weights than the network has")
    model.load_state_dict(weights, assign=True)  # refuses other shapes
    return model.requires_grad_()


def _run_in(content, config):
    """The Run of a checkpoint's dict, checked. Raises ValueError, KeyError, … where it is none."""
    names = {field.name for field in fields(Settings)}
    settings = Settings(**(content["args"] | {name: config[name] for name in names & set(config)}))
    run = Run(
        settings=settings,
        source=content["source"],
        classes=content["classes"] if "classes" in content else CLASS_NAMES[settings.dataset],
        history=content["history"],
        **{name: content[name] for name in OPTIONAL if name in content},
    )
    for item in fields(Settings):
        if type(getattr(settings, item.name)) is not type(item.default):
            raise TypeError(item.name)
    if min(settings.epochs, settings.batch_size, settings.importance_samples) < 1 or not settings.lr > 0:
        raise ValueError("settings")
    if type(run.source) is not str or type(run.classes) is not list:
        raise TypeError("source or classes")
    if settings.of_folder != (run.source == "folder"):  # a name that is neither a data set's nor a folder's
        raise ValueError("data set")
    if not all(type(name) is str and name.isprintable() for name in [settings.dataset, *run.classes]):
        raise ValueError("names")
    if type(run.history) is not list:
        raise TypeError("history")
    for name, kind in (("id", str), ("images", int), ("checksum", int), ("out", str)):
        if type(getattr(run, name)) not in (kind, type(None)):
            raise TypeError(name)
    for row in run.history:
        if type(row["test_bce"]) is not float or type(row["test_kld"]) is not float:
            raise TypeError("history")
        if not math.isfinite(row["test_bce"] + row["test_kld"]):
            raise ValueError("history")
    if run.mixture is not None:
        fits = is_mixture(run.mixture, settings.latent_dim)
        if not fits or len(run.mixture["share"]) != max(1, len(run.classes)):
            raise ValueError("mixture")
    return run


def check_same_images(run, split):
    """See that the run goes on with the training images it began with; a new one takes note of them.

    Raises UserError.
    """
    source, count, content = split.source, len(split.images), checksum(split.images, split.labels)
    differs = None
    if run.source not in ("", source):
        differs = f"on the {run.source} data set and found the {source} one"
    elif run.images not in (None, count):
        differs = f"on {run.images:,} images and found {count:,}"
    elif run.checksum not in (None, content):
        differs = f"on {count:,} images and found others, or other labels"
    if differs:
        flag = "--dataset" if run.settings.of_folder else "--data-dir"
        raise UserError(f"this run trained {differs}: check {flag}")
    run.source, run.classes, run.images, run.checksum = source, split.classes, count, content


@contextlib.contextmanager
def stops_can_be_resumed(path, run):
    """When the training is stopped, say what ``path`` holds by then and how to go on.

    The user can stop it, also by piping its output into ``head``, a BrokenPipeError, and so can a full disk.
    """
    try:
        yield
    except (KeyboardInterrupt, Terminated, BrokenPipeError) as stop:
        if run.saved is None or getattr(stop, "filename", None):
            raise
        raise type(stop)(f"stopped; {_saved_so_far(path, run)}") from None
    except OSError as error:
        if run.saved is None or not error.filename:
            raise
        raise UserError(f"{error.filename}: {error.strerror}; {_saved_so_far(path, run)}") from None


def _saved_so_far(path, run):
    what = f"{path} holds epoch {run.saved} of {run.settings.epochs}"
    return f"{what}: pass --resume, and no --overwrite, to go on"


def restore_optimizer(optimizer, run, path):
    """Give the optimiser the state it had when the run was saved to ``path``, if it was."""
    if run.optimizer is None:
        return
    try:
        # The run may have begun on another device, and how to step is a matter of this one.
        for group, saved in zip(optimizer.param_groups, run.optimizer["param_groups"], strict=True):
            saved.update(fused=group["fused"], capturable=group["capturable"])
        optimizer.load_state_dict(run.optimizer)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        raise CheckpointError(f"{path} is damaged: its optimiser state does not fit") from None
