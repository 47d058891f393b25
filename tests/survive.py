"""Kill a run at random instants, resume it until it is done, and compare with one nobody killed.

    python tests/survive.py --kills 50

Prints survived/tried. A run survives its kills if its weights, its pictures and, but for
the clock's columns, its metrics.csv are those of the uninterrupted run, bit for bit.
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
KILLS_PER_RUN = 5
OPTIONS = ("--epochs", 5, "--batch-size", 16, "--latent-dim", 4, "--seed", 1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument(
        "--data-dir", default="data", help="as for train.py; the smaller the data, the faster"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, data_dir = Path(folder) / "whole", Path(args.data_dir).resolve()
        start = time.perf_counter()
        _, error = train(whole, data_dir).communicate()
        assert (whole / "checkpoints" / "vae.pt").exists(), error.decode()
        seconds = time.perf_counter() - start
        survived, tried = survive(args.kills, data_dir, whole, seconds, random.Random(args.seed))
    print(f"survived/tried: {survived}/{tried}")
    return 0 if survived == tried else 1


def survive(kills, data_dir, whole, seconds, rng):
    """``(survived, tried)``: how many of the kills were in runs that ended as if there had been none.

    ``whole`` is the folder of an uninterrupted run, which took that many seconds.
    """
    survived = tried = 0
    with tempfile.TemporaryDirectory() as folder:
        while tried < kills:
            pieces, hits, error = Path(folder) / f"after{tried}", 0, None
            while error is None:
                process = train(pieces, data_dir)
                # past the last kill that is due, let it run to its end
                due = min(KILLS_PER_RUN, kills - tried) - hits
                try:
                    _, error = process.communicate(timeout=rng.uniform(0, seconds) if due else None)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    hits += 1
            # killed after its last write, a run has nothing left to resume
            ended = process.returncode == 0 or (hits and b"holds a finished run" in error)
            same = ended and result(pieces) == result(whole)
            tried += hits
            survived += hits if same else 0
            print(f"{hits} kills: {'the same' if same else 'NOT the same: ' + error.decode()}", flush=True)
    return survived, tried


def train(folder, data_dir):
    """Start the training in ``folder``, or go on with it."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, ROOT / "train.py", "--device", "cpu", "--data-dir", data_dir, *OPTIONS]
    if (folder / "checkpoints" / "vae.pt").exists():
        command.append("--resume")
    return subprocess.Popen(
        list(map(str, command)), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def result(folder):
    """All that a finished run leaves, in a form that can be compared."""
    content = torch.load(folder / "checkpoints" / "vae.pt", weights_only=True)
    out = folder / "outputs" / "vae"
    with open(out / "metrics.csv") as file:
        rows = [
            [row[name] for name in row if name not in ("images_per_s", "seconds")]
            for row in csv.DictReader(file)
        ]
    pictures = {path.name: path.read_bytes() for path in sorted(out.glob("*_from_epoch*.png"))}
    assert not list(folder.rglob("*.tmp"))
    return {name: weight.numpy().tobytes() for name, weight in content["model"].items()}, rows, pictures


if __name__ == "__main__":
    raise SystemExit(main())
