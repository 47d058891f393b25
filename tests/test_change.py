"""The changes that the README works out still apply to the code, and what comes of them trains."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from model import ConvVAE

README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGES = re.findall(r"```diff\n--- (\S+)\n(.*?)```", README, re.DOTALL)


def apply(diff, text):
    """The text after the diff: its hunks are lines to find, with a space, - or + before each."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines()
        before = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
        after = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def train(project, data_dir, folder, *flags):
    """Train for an epoch in ``folder`` with the project's copy, as a user does; returns what it says."""
    command = [sys.executable, project / "train.py", "--device", "cpu", "--epochs", 1, "--data-dir", data_dir]
    result = subprocess.run(
        list(map(str, [*command, *flags])), cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


STEP = """
import torch
from model import ConvVAE, vae_loss

with torch.device("meta"):  # which has no numbers to ask for, as a CUDA GPU has none that records a step
    model, x = ConvVAE(), torch.zeros(4, 1, 28, 28)
    logits, mu, logvar = model(x)
    vae_loss(logits, x, mu, logvar)[0].backward()
"""


@pytest.fixture
def copy(tmp_path):
    """A function that copies what trains, with changes: pairs of a file and a diff."""

    def copy(*changes):
        project = tmp_path / "project"
        shutil.copytree(ROOT / "support", project / "support")
        for path in ROOT.glob("*.py"):
            shutil.copy(path, project)
        for file, diff in changes:
            text = (project / file).read_text(encoding="utf-8")
            (project / file).write_text(apply(diff, text), encoding="utf-8")
        return project

    return copy


def test_there_are_four_diffs_and_a_flag():
    assert len(CHANGES) == 4
    assert "**Another size of z**: `python train.py --latent-dim 8`" in README


def test_another_data_set_is_trained_on_by_its_name(copy, write_data, tmp_path):
    (change,) = [change for change in CHANGES if change[0] == "mnist.py"]
    project = copy(change)
    name, folder = re.search(r'\+ +"([\w-]+)": \("(\w+)"', change[1]).groups()
    out = train(project, write_data(tmp_path / "data", folder), tmp_path, "--dataset", name)
    assert f"{name} (full), 300 training and 100 test images" in out


@pytest.mark.parametrize("number", range(3))
def test_changed_model_trains(copy, trained, data_dir, tmp_path, number):
    """It says something else than the model as it is: another loss, another name for it, more parameters."""
    change = [change for change in CHANGES if change[0] == "model.py"][number]
    flags = ("--batch-size", 16, "--latent-dim", 8, "--lr", 0.002)
    project = copy(change)
    out = train(project, data_dir, tmp_path, *flags)
    subprocess.run([sys.executable, "-c", STEP], cwd=project, check=True)
    changed, before = ([line for line in text.splitlines() if line.startswith(("cpu", "epoch   1"))]
                       for text in (out, trained.stdout))  # fmt: skip
    assert len(changed) == len(before) == 2
    size = r"[\d,]+ parameters"
    deeper, another_name = "ResidualBlock" in change[1], "RECON" in change[1]
    assert (re.search(size, changed[0])[0] != re.search(size, before[0])[0]) == deeper
    assert ("BCE" not in changed[1]) == another_name
    row = [float(number) for number in re.findall(r"-?\d+\.\d+", changed[1].split("test")[0])]
    free_bits = "clamp" in change[1]
    assert (row[0] > row[1] + row[2] + 0.02) == free_bits  # the loss is more than BCE + KL


def test_new_setting_of_the_network_is_passed_on(copy, data_dir, tmp_path):
    """As settings.py says: a line there and a flag in train.py, and it reaches the model and the next one."""
    project = copy(
        ("settings.py", "     latent_dim: int = 16\n+    hidden_dim: int = 512\n"),
        (
            "train.py",
            '     add("--latent-dim", type=count, default=Settings.latent_dim, help="size of the latent z")\n'
            '+    add("--hidden-dim", type=count, default=Settings.hidden_dim, help="width")\n',
        ),
    )
    size = f"{sum(p.numel() for p in ConvVAE(hidden_dim=64).parameters()):,} parameters"
    assert size in train(project, data_dir, tmp_path, "--hidden-dim", 64)
    flags = ("--from", "checkpoints/vae.pt", "--checkpoint", "checkpoints/next.pt", "--out", "outputs/next")
    assert size in train(project, data_dir, tmp_path, *flags)
