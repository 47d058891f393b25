"""What a run starts from and keeps to itself: its settings, its images, its checkpoint and its folder."""

import contextlib
import functools
import inspect
import re
import shlex
import zipfile
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import torch

from data_sets import DATASETS
from settings import Settings
from support.checkpoint import Run, load_checkpoint
from support.device import pick_precision
from support.errors import Terminated, UserError, shown
from support.files import check_outputs, from_here, is_elsewhere, locked, write_file
from support.flags import flag_of, typed_settings
from support.images import needs_inverting, on_light_ground
from support.terminal import CHECKPOINT, listed, warn

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "pretrained.pt"
# What a run that starts --from a trained model takes from it: what the model is and what it is for.
INHERITED = (*Settings().network_arguments, "dataset", "invert", "binarize", "validate")
REPORTS = re.compile(r"((img|recon)_from_epoch\d+\.png|metrics\.csv|loss_curves\.png|film\.gif)(\.\d+\.tmp)?")
MARK = ".run"  # a file in the folder of a run, with the run's id


# Its settings


def new_run(args, device, parent=None):
    """A run of the typed settings that has not begun, with ``parent``, one that its model was trained in."""
    path = args.checkpoint
    if path.is_file() and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is there and no checkpoint: pass another --checkpoint")
    if path.exists() and not args.overwrite:
        raise UserError(
            f"{path} holds an earlier run: pass --resume to go on with it, --overwrite to replace it, "
            "or another --checkpoint"
        )
    typed = typed_settings(args)
    begun = {}
    if parent:
        begun = {"source": parent.source, "classes": parent.classes, **_known_images(parent, typed)}
        inherited = _moved({name: getattr(parent.settings, name) for name in INHERITED}, typed)
        _refuse_others({name: typed[name] for name in INHERITED if name in typed}, inherited, args.from_)
        typed |= inherited
    try:
        settings = Settings(**typed)
    except ValueError as error:
        raise UserError(str(error)) from None
    settings = replace(settings, precision=pick_precision(settings.precision, device))
    out = str(args.out or Path("outputs") / path.stem)  # one name for both
    return Run(settings, out=out, **begun)


def resume_run(run, args, device):
    """The run as it goes on: as it began, but for its folder, precision and images, which may have moved."""
    if run.mixture is not None:
        raise UserError(
            f"{args.checkpoint} holds a finished run, nothing to resume: pass --overwrite to train anew"
        )
    typed, before = typed_settings(args), _moved(asdict(run.settings), typed_settings(args))
    precision = typed.pop("precision", "auto")
    _refuse_others(typed, before, args.checkpoint)
    if precision not in ("auto", before["precision"]):
        was = before["precision"]
        warn(f"going on in {precision} after {was}: no longer to the bit what one go would have given")
        before["precision"] = precision
    elif before["precision"] == "bf16" and pick_precision("auto", device) != "bf16":
        warn("this run is in bf16, which is many times slower than float32 here: --precision fp32 is not")
    out = str(args.out or run.out or Path("outputs") / args.checkpoint.stem)
    if not args.out and run.out and is_elsewhere(out) and not _is_marked(out, run):
        raise _elsewhere(out, "--out")
    return replace(run, settings=Settings(**before), out=out, **_known_images(run, typed))


def _elsewhere(folder, flag):
    """The error of a folder that a checkpoint, which may be anybody's, names, and that has neither the run's
    mark nor images with its checksum, which nobody knows who has never had them.
    """
    where = Path(folder).resolve()
    return UserError(f"{where} is outside the working folder and not known as this run's: name it by {flag}")


def _known_images(run, typed):
    """What is to be found in a folder elsewhere that only a checkpoint names."""
    if "dataset" in typed or not images_elsewhere(run):
        return {}
    if run.checksum is None:
        raise _elsewhere(run.settings.dataset, "--dataset")
    return {"images": run.images, "checksum": run.checksum}


def _moved(settings, typed):
    """The settings with the folder of images where it is said to be now: the images are compared."""
    there = typed.get("dataset", "mnist")
    return settings | {"dataset": there} if not {there, settings["dataset"]} & set(DATASETS) else settings


def _refuse_others(typed, settings, path):
    """Refuse typed settings that differ from those of the run at ``path``."""
    for name, value in typed.items():
        before, flag = settings[name], flag_of(name)
        if value != before:
            how = f"with {flag} {before}" if before not in ("", False) else f"without {flag}"
            asked = "" if value is True else f", not {value}"
            raise UserError(f"{path} was trained {how}{asked}: leave {flag} out, or start another run")


# Its images


def check_images(run, train, test):
    """See that a run goes on with the training split that it began with; a new one takes note of it.

    Raises UserError, also where the run could not be finished: the mixture needs two images of each class.
    """
    flag = "--dataset" if run.settings.own_images else "--data-dir"
    count, content = len(train.images), checksum(train.images, train.labels)
    differs = None
    if run.source not in ("", train.source):
        differs = f"on the {run.source} data set and found the {train.source} one"
    elif run.images not in (None, count):
        differs = f"on {run.images:,} images and found {count:,}"
    elif run.checksum not in (None, content):
        differs = f"on {count:,} images and found others, or other labels"
    if differs:
        raise UserError(f"the model was trained {differs}: check {flag}")
    counts = torch.bincount(train.labels, minlength=max(1, len(train.classes)))
    rarest = counts.argmin()
    if counts[rarest] < 2:
        name = f"class {train.classes[rarest]}" if train.classes else "the folder"
        raise UserError(
            f"{name} has {counts[rarest]} of the training images and the latent mixture needs 2 of each: "
            f"check {flag}"
        )
    if run.settings.own_images:
        _tell_of_own_images(run, train, test)
    run.source, run.classes, run.images, run.checksum = train.source, train.classes, count, content


def _tell_of_own_images(run, train, test):
    """Warn of images that look inverted, all or some, and of those that are in both splits."""
    light = on_light_ground(train.images).float()
    dark_ink = needs_inverting(train.files[:100]) if train.files else light.mean() > 0.5
    if dark_ink and not run.source and not run.settings.invert:
        warn("these look like dark ink on light paper: start again with --invert to turn them")
    ground = {name: light[train.labels == label].mean() for label, name in enumerate(train.classes)}
    on_light = [name for name, share in ground.items() if share > 0.9]
    if not run.source and on_light and min(ground.values()) < 0.1:
        warn(f"the images of {listed(on_light)} are on light ground, unlike others: turn them all one way")
    known = {image.numpy().tobytes() for image in train.images}
    files = test.files or [f"image {number}" for number in range(len(test.images))]
    twice = [file for image, file in zip(test.images, files, strict=True) if image.numpy().tobytes() in known]
    if twice:
        warn(f"{len(twice):,} of the test images are among the training images, {twice[0]} for one")


def tell_other_images(run, train):
    """Say so, or raise UserError, where the training images are not those a finished run was trained on."""
    if run.checksum == checksum(train.images, train.labels):
        return
    if not run.typed and images_elsewhere(run):
        raise _elsewhere(run.settings.dataset, "--images")
    if run.checksum is not None and run.source == train.source:
        warn(
            f"these {len(train.images):,} training images are not the {run.images:,} that the model began "
            "with, and test images may be among the latter"
        )


def checksum(images, labels):
    """A number that tells these images and labels, in this order, from others."""
    return zlib.crc32(labels.cpu().numpy(), zlib.crc32(images.cpu().numpy()))


def images_elsewhere(run):
    """Where the run's own images are, if that is outside the working folder, else None."""
    path = run.settings.dataset
    return path if run.settings.own_images and is_elsewhere(path) else None


# Its checkpoint and its folder


@contextlib.contextmanager
def lock_checkpoint(run, path):
    """Keep other runs from the checkpoint at ``path``; a stop says what it holds by then and how to go on.

    The user can stop a run, also by piping its output into ``head``, and so can a full disk.
    """
    with locked(path):
        try:
            yield
        except (KeyboardInterrupt, Terminated, OSError) as stop:
            if run.saved is None:
                raise
            what = f"{path} holds epoch {run.saved} of {run.settings.epochs}"
            how = f"{what}: pass --resume, and no --overwrite, to go on"
            if getattr(stop, "filename", None):  # a full disk
                raise UserError(f"{stop.filename}: {stop.strerror}; {how}") from None
            if isinstance(stop, OSError) and not isinstance(stop, BrokenPipeError):
                raise
            raise type(stop)(f"stopped; {how}") from None


def _is_marked(out, run):
    """Whether the folder ``out`` has the mark of this run, whose id nobody else knows."""
    mark = Path(out, MARK)
    return mark.is_file() and mark.read_bytes() == run.id.encode()


def claim_folder(run, overwrite):
    """Mark the run's folder as its own; an earlier run's pictures go with ``overwrite``. Raises UserError."""
    out, mark = Path(run.out), Path(run.out, MARK)
    check_outputs(mark)
    if mark.exists() and not re.fullmatch(b"[0-9a-f]{16}", mark.read_bytes()):
        raise UserError(f"{mark} is no run's mark, but somebody's own file: move it, or pass another --out")
    reports = [file for file in out.glob("*") if REPORTS.fullmatch(file.name)]
    ours = _is_marked(out, run)
    if reports and not ours and not overwrite:
        raise UserError(
            f"{out} holds the pictures of another run: pass another --out, or, to start anew, --overwrite"
        )
    for file in [*reports, *out.glob(f"{MARK}.*.tmp")]:
        if not ours or file.suffix == ".tmp":  # which a process that died had not finished
            file.unlink()
    write_file(mark, run.id.encode())


# A finished one


def open_model(path, device, images=None):
    """Load the checkpoint a script should use, say in one line which it is: ``(model, run, path)``.

    ``images`` is a folder, to be read instead of the one that the run names.
    """
    path = path or (CHECKPOINT if CHECKPOINT.exists() else SHIPPED)
    model, run = load_checkpoint(path, device)
    for name in ("encode", "decode_logits", "decode_all"):
        setattr(model, name, insist(getattr(model, name)))
    name = from_here(path)
    settings = run.settings
    if images is not None:
        if not settings.own_images:
            raise UserError(f"--images is for a model of one's own, and {name} is of {settings.dataset_name}")
        run.settings, run.typed = replace(settings, dataset=images), True
    elif run.mixture is None and images_elsewhere(run):
        run.settings = replace(settings, dataset=f"./{settings.dataset_name}")  # nothing compares its images
    folder = Path(run.settings.dataset).resolve()
    what = folder if settings.own_images and folder.exists() else settings.dataset_name
    line = f"using {name}: {len(run.history)} of {settings.epochs} epochs on {what}"
    if run.source == "sample":
        line += " (5,000-digit sample)"
    if settings.importance_samples > 1:
        line += f", {settings.importance_samples} importance samples"
    if settings.from_:
        line += f", started from {shown(settings.from_)}"
    if run.history:
        last = run.history[-1]
        line += f", {settings.test_split} -ELBO {last['test_bce'] + last['test_kld']:.2f} nats"
    print(line)
    return model, run, path


def insist(method):
    """The method of a network, but it raises UserError where it is not given all that it asks for.

    As encode(x, y) and decode_logits(z, y=None) do in a script that knows of x and z alone.
    """
    parameters = inspect.signature(method).parameters.values()
    asked = [item.name for item in parameters if item.default in (inspect.Parameter.empty, None)]

    @functools.wraps(method)
    def complete(*args, **kwargs):
        missing = [name for name in asked[len(args) :] if name not in kwargs]
        if missing:
            what = f"{method.__name__}() needs {', '.join(missing)}"
            raise UserError(f"this network's {what}, which this script does not pass on")
        return method(*args, **kwargs)

    return complete


def mixture_of(run, path):
    """The latent mixture of a run from the checkpoint at ``path``. Raises UserError if it has none."""
    if run.mixture is None:
        raise UserError(
            f"{path} has no latent mixture: finish its training with "
            f"python train.py --resume --checkpoint {shlex.quote(str(path))}"
        )
    return run.mixture
