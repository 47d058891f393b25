"""The README keeps its word: its commands parse, its pictures are there, its numbers are the checkpoint's."""

import hashlib
import importlib
import os
import re
import shlex
import sys

import pytest
from conftest import ROOT

from support import cli
from support.checkpoint import load_checkpoint

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"^(?:python|torchrun \S+) (\w+\.py.*)$", README, re.MULTILINE)))
CHECKPOINTS = sorted((ROOT / "checkpoints").glob("pretrained*.pt"))


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
def test_shipped_checkpoint(path):
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() in README
    assert len(content) < 10_000_000
    _, run = load_checkpoint(path)
    settings = run.settings
    assert settings.from_ and settings.epochs == len(run.history) == 120
    # the README says how to train it, in two runs: one from nothing, and this one from that
    binarize = " --binarize" if settings.binarize else ""
    first = {"pretrained.pt": "--epochs 100 --binarize-epochs 80", "pretrained_binarized.pt": "--epochs 100"}
    assert re.search(rf"^python train.py{binarize}( --latent-dim \d+)? {first[path.name]} --", README, re.M)
    drawn = f" --binarize-epochs {settings.binarize_epochs}" if settings.binarize_epochs else ""
    again = f"--epochs 120{drawn} --lr {settings.lr} --seed {settings.seed}"
    assert re.search(rf"^python train.py --from checkpoints/{settings.from_} {again} ", README, re.M)
    assert run.source == "full" and run.mixture is not None


def test_shipped_numbers_are_the_readmes():
    last = load_checkpoint(cli.SHIPPED)[1].history[-1]
    ours = re.search(r"this repository, 220 epochs\*\* \| \*\*([\d.]+)", README)
    assert float(ours[1]) == pytest.approx(last["test_bce"] + last["test_kld"], abs=0.1)


def test_without_data_or_network_the_shipped_model_draws_the_digit_asked_for(call, own_folder):
    result = call("generate", "--digit", 7, "--n", 9, "--out", own_folder / "sevens.png")
    assert result.code == 0
    assert "pretrained.pt: 120 of 120 epochs" in result.out
    assert (own_folder / "sevens.png").stat().st_size > 1000
