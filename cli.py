"""What the scripts' command lines share: flags, devices, checkpoints and one-line errors."""

import argparse
import contextlib
import errno
import shlex
import signal
import sys
from pathlib import Path

import torch

from data import TORCHVISION_NAMES, DataError
from mixture import is_mixture
from model import CheckpointError, load_checkpoint

TRAINED = Path("checkpoints/vae.pt")  # what train.py writes by default
SHIPPED = Path(__file__).parent / "checkpoints" / "pretrained.pt"


class UserError(Exception):
    """Something the user can mend; the message says what is wrong and what to do."""


class Terminated(BaseException):
    """SIGTERM: what cluster schedulers and container managers send before they take a machine away."""


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


def positive_int(text):
    value = int(text)
    if not 0 < value < 2**31:
        raise argparse.ArgumentTypeError(f"{value} is not between 1 and {2**31 - 1}")
    return value


def positive_float(text):
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def non_negative_float(text):
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not zero or a positive number")
    return value


def probability(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and below 1")
    return value


def natural(text):
    """A whole number from 0 to 2^32 - 1: what every random generator here accepts."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and {2**32 - 1}")
    return value


def png_file(text):
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text} is not the name of a .png file")
    return path


# argparse names a type in "invalid … value"
positive_int.__name__ = natural.__name__ = "whole number"
positive_float.__name__ = non_negative_float.__name__ = probability.__name__ = "number"


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
    parser.add_argument("--seed", type=natural, default=0, help="where all random numbers start")


def add_checkpoint(parser):
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help=f"the model to use; without it {TRAINED} if it exists, else the pretrained one",
    )


def add_data_dir(parser):
    parser.add_argument(
        "--data-dir",
        default="data",
        help="folder of the data sets, downloaded there when missing; without a network, "
        "5,000 packaged digits stand in for MNIST",
    )


def pick_device(name):
    """The torch.device called ``name``; ``"auto"`` is CUDA, then MPS, then CPU. Raises UserError."""
    if name == "auto":
        found = [kind for kind in ("cuda", "mps") if getattr(torch, kind).is_available()]
        name = (*found, "cpu")[0]
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
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not here: use --device cpu")
    return device


def open_model(path, device):
    """Load the checkpoint a script should use, say in one line which it is: ``(model, state, path)``."""
    path = path or (TRAINED if TRAINED.exists() else SHIPPED)
    model, state = load_run(path, device)
    args, history = state["args"], state["history"]
    sample = " (5,000-digit sample)" if state["source"] == "sample" else ""
    loss = ""
    if history:
        loss = f", {split_of(args)} -ELBO {history[-1]['test_bce'] + history[-1]['test_kld']:.2f} nats"
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    print(f"using {shown}: {len(history)} of {args['epochs']} epochs on {args['dataset']}{sample}{loss}")
    return model, state, path


def split_of(args):
    """What a run with these settings was measured on: ``"validation"`` or ``"test"`` images."""
    return "validation" if args.get("validate") is True else "test"  # an older file does not say


def load_run(path, device):
    """``load_checkpoint`` of a file that also says how it was trained; raises CheckpointError."""
    model, state = load_checkpoint(path, device)
    try:
        args, history = state["args"], state["history"]
        good = args["dataset"] in TORCHVISION_NAMES and isinstance(state["source"], str)
        good &= isinstance(args["epochs"], int) and isinstance(args["binarize"], bool)
        good &= args["latent_dim"] == model.config["latent_dim"]
        good &= all(isinstance(row[name], float) for row in history for name in ("test_bce", "test_kld"))
    except (KeyError, TypeError, IndexError, AttributeError):
        good = False
    if not good:
        raise CheckpointError(f"{path} does not say how it was trained: train one with python train.py")
    return model, state


def mixture_of(state, path):
    """The latent mixture of a checkpoint; raises UserError without one, CheckpointError if damaged."""
    if "mixture" not in state:
        raise UserError(
            f"{path} has no latent mixture: finish its training, or add one, with "
            f"python train.py --resume --checkpoint {path}"
        )
    if not is_mixture(state["mixture"], state["args"]["latent_dim"]):
        raise CheckpointError(f"the latent mixture in {path} is damaged: restore the file or train again")
    return state["mixture"]


def next_step(checkpoint, *scripts):
    """The last line of a script's output: what to try next, with the same --checkpoint."""
    use = f" --checkpoint {shlex.quote(str(checkpoint))}" if checkpoint else ""
    return "next: " + "   ".join(f"python {script}.py{use}" for script in scripts)


@contextlib.contextmanager
def user_errors():
    """Turn what a user can cause into one line on stderr and a non-zero exit."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except (UserError, DataError, CheckpointError) as error:
        _leave(f"error: {error}", 1)
    except OSError as error:  # a folder that cannot be written, a full disk, …
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; what was there before is untouched: free some space and run again" if full else ""
        _leave(f"error: {where}{error.strerror or error}{advice}", 1)
    except (MemoryError, RuntimeError) as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = (str(error).splitlines() or [""])[0]
            _leave(f"error: torch.compile does not work here ({reason}): leave --compile out", 1)
        # CUDA says so in the type of the error, the CPU only in its words
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        _leave("error: out of memory: lower --batch-size, --n or --latent-dim, or try --device cpu", 1)
    except (KeyboardInterrupt, Terminated) as stop:
        signum = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        _leave(str(stop) or "stopped", 128 + signum)


def _terminate(signum, frame):
    raise Terminated


def _leave(message, code):
    print(message, file=sys.stderr)
    raise SystemExit(code)
