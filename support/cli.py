"""What the scripts' command lines share: flags, devices, the checkpoint to use, progress."""

import argparse
import dataclasses
import functools
import math
import shlex
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from mnist import CLASS_NAMES
from settings import Settings
from support import distributed
from support.checkpoint import load_checkpoint
from support.errors import UserError
from support.files import short

TRAINED = Path("checkpoints/vae.pt")  # what train.py writes by default
OUT = Path("outputs/training")  # and where its pictures and metrics go
DATA = Path("data")
SHIPPED = Path(__file__).parents[1] / "checkpoints" / "pretrained.pt"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help shows every default and whose errors are one line."""

    def __init__(self, doc):
        super().__init__(description=doc, formatter_class=_HelpFormatter)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see python {self.prog} --help)\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action):
        # "(default: None)" says nothing: where there is more to say, the help itself does
        return action.help if action.default is None else super()._get_help_string(action)


def number(kind, at_least=None, above=None, below=None):
    """An argparse type: a number of ``kind`` (int or float) within these bounds, and never infinite."""
    limit = below or (2**31 if kind is int else math.inf)

    def parse(text):
        value = kind(text)  # where this raises ValueError, argparse names the flag
        if not (value >= at_least if above is None else value > above):  # "not", so that NaN is refused
            bound = f"at least {at_least}" if above is None else f"above {above}"
            raise argparse.ArgumentTypeError(f"{text} is not {bound}")
        if value >= limit:
            raise argparse.ArgumentTypeError(f"{text} is not below {limit}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"  # argparse says "invalid … value"
    return parse


def user_path(text):
    """An argparse type: a path, with ~ for the home folder, which no shell expands after --flag=."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name is no path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text} is in the home folder of nobody known here") from None


def png_file(text, suffix=".png"):
    """An argparse type: the path of a PNG file to write."""
    file = user_path(text)
    if file.suffix.lower() != suffix:
        raise argparse.ArgumentTypeError(f"{text} is not the name of a {suffix} file")
    return file


csv_file = functools.partial(png_file, suffix=".csv")
html_file = functools.partial(png_file, suffix=".html")


def data_set(text):
    """An argparse type: the name of a data set, or a folder of images, whose full path it becomes."""
    if text in CLASS_NAMES:
        return text
    if not user_path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is neither one of {', '.join(CLASS_NAMES)} nor a folder")
    return image_folder(text)


def image_folder(text):
    """An argparse type: a folder of images, whose full path it becomes."""
    path = user_path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    if not str(path).isprintable():  # which what is not UTF-8 is not, either
        raise argparse.ArgumentTypeError(f"{text!a} has a name that is not printable text: rename it")
    return str(path)


def are_folders(*datasets):
    """Whether all of these values of --dataset are folders."""
    return not set(datasets) & set(CLASS_NAMES)


def image_size(text):
    """An argparse type: a side that the network can halve twice."""
    size = number(int, at_least=16, below=65)(text)
    if size % 4:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 4")
    return size


image_size.__name__ = "whole number"


def add_dataset(parser):
    """--dataset, and the flags that say how to read a folder of images."""
    add = parser.add_argument
    add(
        "--dataset",
        type=data_set,
        metavar=f"{{{','.join(CLASS_NAMES)},FOLDER}}",
        default=Settings.dataset,
        help="what to train on; a folder has a folder of images for each class, or images without classes",
    )
    add(
        "--image-size",
        type=image_size,
        metavar="N",
        default=Settings.image_size,
        help="side of a folder's images in pixels: a multiple of 4, from 16 to 64",
    )
    add("--invert", action="store_true", help="a folder's images are dark ink on light paper")
    add("--skip-bad", action="store_true", help="leave out a folder's files that cannot be read")


def add_device(parser):
    parser.add_argument(
        "--device",
        default="auto",
        metavar="{auto,cpu,cuda,cuda:N,mps}",
        help="auto: CUDA, then MPS, then CPU",
    )


def add_precision(parser):
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default="auto",
        help="auto: bf16 autocast where the hardware has bf16 instructions, else fp32",
    )


def add_seed(parser):
    # PyTorch's CPU generator ignores all but 32 bits
    kind = number(int, at_least=0, below=2**32)
    parser.add_argument("--seed", type=kind, default=0, help="where all random numbers start")


def add_checkpoint(parser):
    parser.add_argument(
        "--checkpoint",
        type=user_path,
        help=f"the model to use; without it {TRAINED} if it exists, else the pretrained one",
    )


def add_data_dir(parser):
    parser.add_argument(
        "--data-dir",
        type=user_path,
        default=DATA,
        help="folder of the data sets, downloaded there when missing; without a network, "
        "5,000 packaged digits stand in for MNIST",
    )


def add_images(parser):
    parser.add_argument(
        "--images",
        type=image_folder,
        metavar="FOLDER",
        help="for a model of a folder of images: where they are now, if not where it was trained on them",
    )


def pick_device(name):
    """The torch.device called ``name``; ``"auto"`` is CUDA, then MPS, then CPU. Raises UserError."""
    if name == "auto":
        found = [kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available()]
        name = found[0] if found else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"unknown device '{name}': use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(f"device '{name}' is not here ({count} CUDA devices found): use --device cpu")
        if device.index:
            torch.cuda.set_device(device)  # streams, graphs and waiting are the current device's
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not here: use --device cpu")
    return device


def pick_precision(name, device):
    """``"bf16"`` or ``"fp32"``: what ``name`` says, or for ``"auto"`` what the hardware is fast at."""
    if name != "auto":
        return name
    if device.type == "cuda":
        capable = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        # Without these instructions a CPU emulates bf16, many times slower than float32.
        capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        capable = False
    return "bf16" if capable else "fp32"


def generators(seed, device):
    """Two generators: one on the CPU, for what is to be the same on every device, and one on the device."""
    on_cpu = torch.Generator().manual_seed(seed)
    return on_cpu, on_cpu if device.type == "cpu" else torch.Generator(device).manual_seed(seed)


def resumed_precision(before, asked, device):
    """The precision to go on in, for a run that was in ``before``; a warning where that has a price."""
    warning = None
    if asked != before:
        warning = f"going on in {asked} after {before}: no longer to the bit what one go would have given"
    elif before == "bf16" and pick_precision("auto", device) != "bf16":
        warning = "this run is in bf16, which is many times slower than float32 here: --precision fp32 is not"
    if warning and distributed.is_first():
        print(f"warning: {warning}", file=sys.stderr)
    return asked


def open_model(path, device, images=None):
    """Load the checkpoint a script should use, say in one line which it is: ``(model, run, path)``.

    ``images`` is a folder, to be read instead of the one that the run names.
    """
    path = path or (TRAINED if TRAINED.exists() else SHIPPED)
    model, run = load_checkpoint(path, device)
    shown = short(path)
    settings = run.settings
    if images is not None:
        if not settings.of_folder:
            raise UserError(f"--images is for a model of a folder, and {shown} is of {settings.dataset_name}")
        run.settings = dataclasses.replace(settings, dataset=images)
    line = f"using {shown}: {len(run.history)} of {settings.epochs} epochs on {settings.dataset_name}"
    if run.source == "sample":
        line += " (5,000-digit sample)"
    if settings.importance_samples > 1:
        line += f", {settings.importance_samples} importance samples"
    if settings.from_:
        line += f", started from {settings.from_}"
    if run.history:
        last = run.history[-1]
        line += f", {settings.test_split} -ELBO {last['test_bce'] + last['test_kld']:.2f} nats"
    print(line)
    return model, run, path


def mixture_of(run, path):
    """The latent mixture of a run from the checkpoint at ``path``. Raises UserError if it has none."""
    if run.mixture is None:
        raise UserError(
            f"{path} has no latent mixture: finish its training with "
            f"python train.py --resume --checkpoint {shlex.quote(str(path))}"
        )
    return run.mixture


def class_number(text, classes, flag):
    """The number of the class that ``text``, the value of ``flag``, names or numbers. Raises UserError."""
    if not classes:
        raise UserError(f"{flag} names classes, and this model's images have none: leave {flag} out")
    names = [name.lower() for name in classes]
    numbers = [str(number) for number in range(len(classes))]
    if text.lower() in names:
        return names.index(text.lower())
    if text in numbers and not set(names) & set(numbers):  # else a number is a name, or none
        return numbers.index(text)
    choices = [f"0 to {numbers[-1]}"] if names == numbers or not set(names) & set(numbers) else []
    choices += [listed(classes)] if names != numbers else []
    raise UserError(f"{flag} {text} is not one of {' or of '.join(choices)}")


def listed(names, most=12):
    """The names in one line, no more than the first ``most`` of them."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def warn(message):
    """A warning on stderr, from the first process only."""
    if distributed.is_first():
        print(f"warning: {message}", file=sys.stderr)


def progress(*args, **options):
    """A tqdm bar, in the first process only, and only where stderr is a terminal; it goes when it is full."""
    return tqdm(*args, leave=False, disable=None if distributed.is_first() else True, **options)


def next_step(checkpoint, data_dir, *scripts, images=None):
    """The last line of a script's output: what to try next, with the same model and the same images."""
    commands = []
    for script in scripts:
        command = f"python {script}.py"
        if checkpoint not in (None, TRAINED):  # which the scripts take without being told
            command += f" --checkpoint {shlex.quote(str(checkpoint))}"
        if data_dir != DATA and script != "generate":  # which needs no data
            command += f" --data-dir {shlex.quote(str(data_dir))}"
        if images and script != "generate":
            command += f" --images {shlex.quote(images)}"
        commands.append(command)
    return "next: " + "   ".join(commands)
