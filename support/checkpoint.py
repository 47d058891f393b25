"""What a checkpoint holds: a model and the run that trained it, written whole and read safely."""

import copy
import io
import os
import secrets
import zipfile
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch

from augmentation import MoveConditioned
from data_sets import DATASETS
from model import RECON, ConvVAE
from settings import Settings
from support.errors import CheckpointError, UserError
from support.files import from_here, write_file

FORMAT, VERSION = "conv-vae", 1
COLUMNS = ("train_loss", "test_loss", "test_bce", "test_kld")  # of a history's rows, which are read again
# what of a Run is not in every checkpoint
OPTIONAL = ("id", "images", "checksum", "out", "optimizer", "moves", "mixture")


@dataclass
class Run:
    """A run and how far it is: all that a checkpoint says besides the model."""

    settings: Settings
    source: str = ""  # of its images: "full", "sample", "folder" or "file", once they have been read
    classes: list = field(default_factory=list)  # their names; none where images have no classes
    history: list = field(default_factory=list)  # for every epoch its metrics, {name: number}
    id: str = field(default_factory=lambda: secrets.token_hex(8))  # of this run and its folder, till its end
    images: int | None = None  # how many it trains on,
    checksum: int | None = None  # and runs.checksum of them: a resumed run must find the same
    out: str | None = None  # the folder of its pictures and metrics, until it is finished
    optimizer: dict | None = None  # the optimiser's state, until it is finished
    moves: dict | None = None  # the weights of MoveConditioned's own layers, until it is finished
    mixture: dict | None = None  # the latent mixture, once it is finished
    saved: int | None = None  # not in the file: how many epochs are, or None if nothing is yet
    typed: bool = False  # nor this: whether the command line says where its images are

    def finished(self, mixture):
        """What to keep of this run at its end: its mixture, and nothing that only going on needs.

        Others may get the file. Of the machine that made it they learn the name of the model that it started
        from, and from_here of its images; no id, with which they could have its folder written to.
        """
        settings = replace(self.settings, from_=Path(self.settings.from_).name)
        if settings.own_images:
            folder = from_here(settings.dataset)
            settings = replace(settings, dataset=f"./{folder}" if folder in DATASETS else folder)
        only_to_go_on = dict.fromkeys(["id", "out", "optimizer", "moves"])  # all None
        return replace(self, settings=settings, mixture=mixture, **only_to_go_on)


def save_checkpoint(path, model, run):
    """Write the model and its run to ``path``, atomically, as one dict of tensors and plain values.

    ``format``, ``version``: which file this is; ``config``: the arguments of ConvVAE;
    ``model``: its state dict, contiguous; ``args``: the Settings, but for those that ``config`` has;
    ``recon``: the likelihood, as model.RECON; ``source``, ``classes``, ``history`` and, where the run
    has them, ``id``, ``images``, ``checksum``, ``out``, ``optimizer``, ``moves``, ``mixture``: as in Run.
    Raises OSError if that fails; an earlier checkpoint is then still in place.
    """
    settings = asdict(run.settings)
    missing = run.settings.network_arguments.keys() - model.config.keys()
    if missing:
        raise ValueError(f"ConvVAE's config lacks {', '.join(missing)}: no model could be rebuilt from it")
    # plain numbers, whatever a column of metrics was made of: no other type could be loaded again
    run.history = [
        {name: value if isinstance(value, int) else float(value) for name, value in row.items()}
        for row in run.history
    ]
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": model.config,
        "model": {name: value.contiguous() for name, value in model.state_dict().items()},
        "args": {name: value for name, value in settings.items() if name not in model.config},
        "recon": RECON,
        "source": run.source,
        "classes": run.classes,
        "history": run.history,
    }
    content |= {name: getattr(run, name) for name in OPTIONAL if getattr(run, name) is not None}
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

    Nothing in the file is executed. Raises CheckpointError if the file is missing, damaged, not such a
    checkpoint, or of another network.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}: train one with python train.py")
    if not path.is_file():  # a pipe would wait for ever
        raise CheckpointError(f"{path} is not a file: name a checkpoint")
    try:
        content = _read(path)
    except (CheckpointError, PermissionError):
        raise
    except Exception as error:  # a damaged or hostile file can raise anything
        raise CheckpointError(
            f"{path} is damaged, or no checkpoint of this project ({type(error).__name__}): train again"
        ) from None
    try:
        model = _model_in(content)
    except Exception:  # whatever torch raises
        raise CheckpointError(
            f"{path} does not fit the network in model.py: use the one it was trained with, or train again"
        ) from None
    if not is_finite(model):
        raise CheckpointError(f"{path} has weights that are infinite or no numbers: train again")
    try:
        run = _run_in(content, model.config)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise CheckpointError(
            f"{path} does not say how it was trained, or is of another version of train.py: train again"
        ) from None
    return model.to(device).eval(), run


def _read(path):
    """The dict in a checkpoint file, after every check that needs no model."""
    # Complete, uncompressed and with intact checksums, before torch reads a byte of it.
    with zipfile.ZipFile(path) as archive:
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        if archive.testzip() or not stored:
            raise zipfile.BadZipFile
    # Mapped, not read: a tensor that claims more than the file has cannot reach past its end.
    content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    if content["format"] != FORMAT:
        raise ValueError
    if content["version"] != VERSION:
        raise CheckpointError(
            f"{path} has format version {content['version']} and this code reads {VERSION}: update the code"
        )
    if content.get("recon", "BCE") != RECON:
        raise CheckpointError(
            f"{path} was trained with {content.get('recon', 'BCE')} and model.py has {RECON}: train again"
        )
    # A stride of zero repeats a number: such a tensor claims more than the file holds.
    tensors = _tensors_in(content)
    plain = all(value.is_cpu and value.layout == torch.strided for value in tensors)
    if not plain or sum(value.nbytes for value in tensors) > os.path.getsize(path):
        raise ValueError
    return content


def _tensors_in(content):
    """Every tensor in a dict of dicts, lists and tensors, once, whatever else holds it, or itself."""
    found, left = {}, [content]
    while left:
        value = left.pop()
        if id(value) not in found:
            found[id(value)] = value
            if isinstance(value, (dict, list, tuple, set)):
                left += value.values() if isinstance(value, dict) else value
    return [value for value in found.values() if isinstance(value, torch.Tensor)]


def _model_in(content):
    """The model of a checkpoint's dict. Raises whatever a dict that does not fit makes torch raise."""
    with torch.device("meta"):  # shapes without memory: a wrong config cannot cost any
        model = ConvVAE(**content["config"])
    weights = {}
    for name, expected in model.state_dict().items():
        value = content["model"][name]
        if type(value) is not torch.Tensor or value.is_floating_point() != expected.is_floating_point():
            raise TypeError("no tensor, or integers for floats")
        weights[name] = value.to(expected.dtype, copy=True)
    if len(weights) != len(content["model"]):
        raise ValueError("more weights than the network has")
    model.load_state_dict(weights, assign=True)  # refuses other shapes
    return model.requires_grad_()


def _run_in(content, config):
    """The Run of a checkpoint's dict, checked. Raises ValueError, KeyError, … where it is none."""
    names = {item.name for item in fields(Settings)}
    settings = Settings(**(content["args"] | {name: config[name] for name in names & set(config)}))
    run = Run(
        settings=settings,
        source=content["source"],
        classes=content["classes"] if "classes" in content else DATASETS[settings.dataset].classes,
        history=content["history"],
        **{name: content[name] for name in OPTIONAL if name in content},
    )
    exact = all(type(getattr(settings, item.name)) is item.type for item in fields(settings))
    if not exact or not all(isinstance(getattr(run, item.name), item.type) for item in fields(run)):
        raise TypeError
    if settings.own_images != (run.source in ("folder", "file")):  # no data set's name, nor a folder's
        raise ValueError("data set")
    columns = [name for row in run.history for name in row]
    names = [settings.dataset, run.source, run.id, run.out or "", *run.classes, *columns]
    if not all(type(name) is str and name.isprintable() for name in names):
        raise ValueError("names")
    if len(run.id) != 16 or len(run.history) > settings.epochs:  # an empty file is no run's mark
        raise ValueError("id, or epochs")
    for epoch, row in enumerate(run.history, 1):
        numbers = all(type(v) is float or (type(v) in (bool, int) and abs(v) < 2**63) for v in row.values())
        if not numbers or row["epoch"] != epoch or not all(abs(row[name]) < 1e99 for name in COLUMNS):
            raise ValueError("history")  # NaN, too, is not below
    if run.mixture is not None:
        fits = is_mixture(run.mixture, settings.latent_dim)
        if not fits or len(run.mixture["share"]) != max(1, len(run.classes)):
            raise ValueError("mixture")
    return run


def is_mixture(value, latent_dim):
    """Whether ``value`` can be sampled from: what fit_mixture returns, whole and finite."""
    try:
        classes, components = value["weights"].shape
        shapes = {
            "share": (classes,),
            "weights": (classes, components),
            "means": (classes, components, latent_dim),
            "cholesky": (classes, components, latent_dim, latent_dim),
        }
        if value.keys() != shapes.keys():
            return False
        for name, shape in shapes.items():
            tensor = value[name]
            if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.isfinite().all():
                return False
        share, weights = value["share"], value["weights"]
        return bool(share.min() >= 0 and share.sum() > 0 and weights.min() >= 0 and weights.sum(1).min() > 0)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return False


def optimizer_state(optimizer):
    """What a run keeps of its optimiser until it is finished."""
    return {"name": type(optimizer).__name__, **optimizer.state_dict()}


def restore_training(run, network, optimizer):
    """Give the optimiser, and MoveConditioned's layers, what they had when the run was saved, if it was.

    From then on ``run.moves`` is those layers' own weights, as they change. Raises UserError.
    """
    saved = run.moves
    if isinstance(network, MoveConditioned):
        run.moves = dict(network.embeddings.state_dict())
    if run.optimizer is None:
        return
    now, before = type(optimizer).__name__, run.optimizer.get("name", "MuonAdamW")
    if now != before:
        raise UserError(f"this run was trained with {before}, and this code makes {now}: start a new run")
    try:
        if isinstance(network, MoveConditioned):
            network.embeddings.load_state_dict(saved)
        # How to step is a matter of this device and of this code, and not of those that began the run.
        groups = optimizer.state_dict()["param_groups"]
        for group, begun in zip(groups, run.optimizer["param_groups"], strict=True):
            if begun["params"] != group["params"]:
                raise ValueError("other weights")
            begun.update({name: value for name, value in group.items() if name != "params"})
        optimizer.load_state_dict(run.optimizer)
        for parameter, state in optimizer.state.items():
            if not all(value.shape in (parameter.shape, ()) for value in state.values()):
                raise ValueError("state of another shape")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):
        raise UserError(
            f"this run's {before} had other groups of weights than this code makes: start a new run"
        ) from None
