"""What the scripts say on the terminal: warnings, progress, and what to run next."""

import functools
import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from support import distributed
from support.errors import shown

CHECKPOINT = Path("checkpoints/vae.pt")  # what train.py writes by default, and the scripts read
DATA_DIR = Path("data")


@functools.cache  # the same thing is not said twice
def warn(message):
    """A warning on stderr, from the main process alone."""
    if distributed.is_main_process():
        print(f"warning: {shown(message)}", file=sys.stderr)


def progress(*args, **options):
    """A tqdm bar, in the main process only, and only where stderr is a terminal; it goes when it is full."""
    return tqdm(*args, leave=False, disable=None if distributed.is_main_process() else True, **options)


def listed(names, most=12):
    """The names in one line, no more than the first ``most`` of them."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def next_step(checkpoint, data_dir, *scripts, images=None):
    """The last line of a script's output: what to try next, with the same model and the same images."""
    model = [] if checkpoint in (None, CHECKPOINT) else ["--checkpoint", checkpoint]
    data = [] if data_dir == DATA_DIR else ["--data-dir", data_dir]
    data += ["--images", images] if images else []
    commands = []
    for script in scripts:
        file = Path(sys.argv[0]).with_name(f"{script}.py")  # as this one was called
        words = ["python", file, *model, *([] if script == "generate" else data)]  # which needs no data
        commands.append(shlex.join(map(str, words)))
    return "next: " + "   ".join(commands)
