"""The README keeps its word: its commands parse, its pictures are there, its numbers are the checkpoint's."""

import hashlib
import importlib
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import train
from settings import Settings
from support.checkpoint import load_checkpoint
from support.runs import SHIPPED

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"^(?:python|torchrun \S+) (\w+\.py.*)$", README, re.MULTILINE)))
CHECKPOINTS = sorted((ROOT / "checkpoints").glob("pretrained*.pt"))
# the README's trainings of the shipped models: each goes on from the one before, and the last made the file
RUNS = {
    "pretrained.pt": [
        "--epochs 100 --binarize-epochs 80",
        "--from checkpoints/vae.pt --epochs 120 --binarize-epochs 96 --lr 0.003 --seed 1",
        "--from checkpoints/gray.pt --epochs 120 --binarize-epochs 72 --move-epochs 96 --lr 0.003 --seed 2",
    ],
    "pretrained_binarized.pt": [
        "--binarize --latent-dim 32 --epochs 100 --checkpoint checkpoints/binarized.pt",
        "--from checkpoints/binarized.pt --epochs 120 --lr 0.003 --seed 1 "
        "--checkpoint checkpoints/binarized2.pt",
        "--from checkpoints/binarized2.pt --epochs 100 --lr 0.003 --weight-decay 0.02 --seed 2 "
        "--checkpoint checkpoints/binarized3.pt",
        "--from checkpoints/binarized3.pt --epochs 200 --move-epochs 160 --lr 0.003 --weight-decay 0.02 "
        "--seed 3",
    ],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command, monkeypatch):
    os.mkdir("FOLDER")  # of images, which stands in some of them
    script, *flags = shlex.split(command.split(" #")[0])
    monkeypatch.setattr(sys, "argv", [script, *flags])
    module = importlib.import_module(script.removesuffix(".py"))
    assert module.parse_args()


def test_no_number_is_still_missing():
    assert not re.search("@[A-Z]+@", README)


def test_there_are_commands():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("picture", sorted(set(re.findall(r"\((readme_images/[^)]+)\)", README))))
def test_picture_is_there_and_small(picture):
    assert 0 < (ROOT / picture).stat().st_size < 500_000


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.name)
def test_shipped_checkpoint(path, monkeypatch):
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert len(content) < 10_000_000
    _, run = load_checkpoint(path)
    settings = run.settings
    typed = []
    for flags in RUNS[path.name]:
        assert re.search(rf"^python train.py {re.escape(flags)}( |$)", README, re.MULTILINE)
        monkeypatch.setattr(sys, "argv", ["train.py", *shlex.split(flags)])
        typed.append(train.parse_args())
    first, *_, last = typed
    assert settings.from_ == Path(last.from_).name
    of_first = ("binarize", "latent_dim", "beta", "dropout", "dataset")
    of_last = ("epochs", "batch_size", "binarize_epochs", "move_epochs", "lr", "weight_decay", "seed")
    for run_of, names in ((first, of_first), (last, of_last)):
        for name in names:
            assert getattr(settings, name) == getattr(run_of, name, getattr(Settings, name))
    assert settings.epochs == len(run.history)
    assert run.source == "full" and run.mixture is not None


def test_shipped_numbers_are_the_readmes():
    last = load_checkpoint(SHIPPED)[1].history[-1]
    ours = re.search(r"the model in the repository: .* \| 340 \| .* \| \*\*([\d.]+)", README)
    assert float(ours[1]) == pytest.approx(last["test_bce"] + last["test_kld"], abs=0.1)


def test_without_data_or_network_the_shipped_model_draws_the_digit_asked_for(call, own_folder):
    result = call("generate", "--digit", 7, "--n", 9, "--out", own_folder / "sevens.png")
    assert result.code == 0
    assert "pretrained.pt: 120 of 120 epochs" in result.out
    assert (own_folder / "sevens.png").stat().st_size > 1000
