"""Training on several processes: one writer, the same losses, a killed worker replaced."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import ROOT

from model import ConvVAE
from settings import Settings
from support import distributed
from support.checkpoint import Run, load_checkpoint, save_checkpoint
from support.device import mix_seed
from support.measures import Means


@pytest.fixture(scope="module")
def torchrun(data_dir):
    """A function that starts train.py on two processes."""

    def start(cwd, *options, launcher=()):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            *launcher,
        ]
        command += [
            ROOT / "train.py",
            "--device",
            "cpu",
            "--data-dir",
            data_dir,
            "--batch-size",
            32,
            *options,
        ]
        return subprocess.Popen(
            list(map(str, command)),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    return start


def test_two_processes_learn_what_one_does(torchrun, call, read_metrics, data_dir, tmp_path):
    (tmp_path / "two").mkdir()
    process = torchrun(tmp_path / "two", "--epochs", 4)
    out, _ = process.communicate(timeout=150)
    assert process.returncode == 0, out
    assert len(re.findall(r"^epoch +\d+ +train", out, re.MULTILINE)) == 4  # rank 0 alone prints
    one = ("--epochs", 4, "--batch-size", 32, "--data-dir", data_dir, "--out", "one")
    assert call("train", *one).code == 0
    rows = [read_metrics(out) for out in (tmp_path / "one", tmp_path / "two" / "outputs" / "vae")]
    for one, two in zip(*rows, strict=True):
        # not equal: batch-norm sees half of a batch, and the noise is another
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=0.1)
    assert load_checkpoint(tmp_path / "two" / "checkpoints" / "vae.pt")[1].mixture is not None


def test_a_killed_worker_is_replaced_and_the_run_goes_on(torchrun, read_metrics, tmp_path):
    process = torchrun(tmp_path, "--epochs", 8, launcher=["--max-restarts=1"])
    for line in process.stdout:
        if re.match(r"epoch +2 ", line):
            break
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(max(map(int, workers)), signal.SIGKILL)
    try:
        out, _ = process.communicate(timeout=150)
    finally:
        process.kill()
    assert process.returncode == 0, out
    assert [row["epoch"] for row in read_metrics(tmp_path / "outputs" / "vae")] == list(range(1, 9))


def test_a_run_that_was_refused_is_refused_again_after_a_restart(torchrun, tmp_path):
    """torchrun restarts whatever failed; that must not turn a refusal into a resumed training."""
    checkpoint = tmp_path / "checkpoints" / "vae.pt"
    save_checkpoint(checkpoint, ConvVAE(), Run(Settings(epochs=1, batch_size=32), source="full"))
    before = checkpoint.read_bytes()
    process = torchrun(tmp_path, "--epochs", 1, launcher=["--max-restarts=1"])
    out, _ = process.communicate(timeout=150)
    assert process.returncode != 0 and "holds an earlier run" in out
    assert checkpoint.read_bytes() == before


def enter_local_main_process_first(rank, folder):
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    with distributed.local_main_process_first():
        if rank == 0:
            time.sleep(1)
        with open(folder / "order", "a") as file:
            file.write(str(rank))


def test_one_process_of_a_machine_reads_the_data_before_the_others(tmp_path):
    torch.multiprocessing.spawn(enter_local_main_process_first, (tmp_path,), nprocs=2)
    assert (tmp_path / "order").read_text() == "01"


@pytest.mark.parametrize("device, expected", [("mps", torch.float32), ("cpu", torch.float64)])
def test_losses_add_up_in_a_type_that_the_device_has(monkeypatch, device, expected):
    monkeypatch.setattr(torch, "zeros", lambda count, dtype, device: (dtype, device.type))
    assert Means(torch.device(device)).sums == (expected, device)


def test_every_epoch_and_rank_has_its_own_randomness():
    seeds = [
        mix_seed(*numbers)
        for numbers in [(0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1), (0, 2, 1), (0, 1, 2), (2**32 - 1, 1, 0)]
    ]
    draws = [tuple(torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist()) for seed in seeds]
    assert len(set(draws)) == len(seeds)
