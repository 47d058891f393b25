"""Training on several processes: one writer, the same losses, a killed worker replaced."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import loop
from model import load_checkpoint


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


def test_two_processes_learn_what_one_does(torchrun, run, read_metrics, data_dir, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    process = torchrun(tmp_path / "two", "--epochs", 4)
    out, _ = process.communicate(timeout=150)
    assert process.returncode == 0, out
    assert len(re.findall(r"^epoch +\d+ +train", out, re.MULTILINE)) == 4  # rank 0 alone prints
    assert (
        run("train", "--epochs", 4, "--batch-size", 32, "--data-dir", data_dir, cwd=tmp_path / "one").code
        == 0
    )
    rows = [read_metrics(tmp_path / folder / "outputs" / "training") for folder in ("one", "two")]
    for one, two in zip(*rows, strict=True):
        # not equal: batch-norm sees half of a batch, and the noise is another
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=0.1)
    _, state = load_checkpoint(tmp_path / "two" / "checkpoints" / "vae.pt")
    assert state["finished"]


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
    assert [row["epoch"] for row in read_metrics(tmp_path / "outputs" / "training")] == list(range(1, 9))


def test_every_epoch_and_rank_has_its_own_randomness():
    seeds = [
        loop.mix_seed(*numbers)
        for numbers in [(0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1), (0, 2, 1), (0, 1, 2), (2**32 - 1, 1, 0)]
    ]
    draws = [tuple(torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist()) for seed in seeds]
    assert len(set(draws)) == len(seeds)
