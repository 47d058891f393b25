"""Changes that README and CONTRIBUTING work out, and others that students make: they train or say why not."""

import contextlib
import csv
import importlib
import re
import shutil
import sys

import pytest
import torch
from conftest import ROOT

from model import ConvVAE
from support.checkpoint import load_checkpoint

README, CONTRIBUTING = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")
)


def diffs(text):
    """The changes in a text: pairs of a file and what is to be done to it."""
    blocks = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    return [
        pair for block in blocks for pair in re.findall(r"^--- (\S+)\n(.*?)(?=^---|\Z)", block, re.M | re.S)
    ]


CHANGES = diffs(README + CONTRIBUTING.split("**Conditional on the class**")[0])
CONDITIONAL = diffs(CONTRIBUTING.split("**Conditional on the class**")[1])


def apply(diff, text):
    """The text after the diff: its hunks are lines to find, with a space, - or + before each."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines()
        before = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
        after = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


@contextlib.contextmanager
def modules_of(project):
    """Imports find the modules of the project's copy, in this process: to start another takes seconds."""
    names = {path.stem for path in ROOT.glob("*.py")} | {"support"}

    def take_out():
        return {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] in names}

    kept = take_out()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(project)
        patch.setattr(sys, "dont_write_bytecode", True)  # a file may change within the second
        try:
            yield
        finally:
            take_out()
            sys.modules.update(kept)


@pytest.fixture
def run_copy(run_main):
    """A function that runs a script of the project's copy; ``change`` is done to its module before."""

    def run_copy(project, script, *args, change=lambda module: None):
        with modules_of(project):
            module = importlib.import_module(script)
            change(module)
            return run_main(module, *args)

    return run_copy


@pytest.fixture
def train(run_copy, data_dir):
    """A function that trains for an epoch with the project's copy; returns what it says."""

    def train(project, *flags, data=data_dir, epochs=("--epochs", 1)):
        result = run_copy(project, "train", *epochs, "--data-dir", data, *flags)
        assert result.code == 0, result.err
        return result.out

    return train


@pytest.fixture
def refused_by(run_copy, data_dir):
    """A function that has a script of the project's copy refuse, and returns the line that says why."""

    def refused_by(project, script, *flags):
        data = () if script == "generate" else ("--data-dir", data_dir)
        result = run_copy(project, script, *data, *flags)
        (line,) = result.err
        assert result.code == 1 and line.startswith("error: ")
        return line

    return refused_by


def step_without_numbers(project):
    """Forward and backward on a device that has no numbers to ask for, as a CUDA step that is recorded."""
    with modules_of(project), torch.device("meta"):
        changed = importlib.import_module("model")
        network, x = changed.ConvVAE(), torch.zeros(4, 1, 28, 28)
        logits, mu, logvar = network(x)
        changed.vae_loss(logits, x, mu, logvar)[0].backward()


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


def test_there_are_seven_diffs_and_a_flag():
    assert [file for file, _ in CHANGES] == ["data_sets.py", "train.py", *["model.py"] * 3, *["train.py"] * 2]
    assert "**Another size of z**: `python train.py --latent-dim 8`" in README


def test_another_data_set_is_trained_on_by_its_name(copy, train, write_data, tmp_path):
    change = CHANGES[0]
    project = copy(change)
    name, folder = re.search(r'\+ +"([\w-]+)": DataSet\("(\w+)"', change[1]).groups()
    out = train(project, "--dataset", name, data=write_data(tmp_path / "data", folder))
    assert f"{name} (full), 300 training and 100 test images" in out


@pytest.mark.parametrize("number", range(3))
def test_changed_model_trains(copy, train, trained, number):
    """It says something else than the model as it is: another loss, another name for it, more parameters."""
    change = [change for change in CHANGES if change[0] == "model.py"][number]
    flags = ("--batch-size", 16, "--latent-dim", 8, "--lr", 0.002)
    project = copy(change)
    out = train(project, *flags)
    step_without_numbers(project)
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


def test_new_setting_of_the_network_is_passed_on(copy, train):
    """As settings.py says: a line there, and it is a flag, and reaches the model and the next one."""
    line = '+    hidden_dim: int = setting(512, "width of the hidden layers", "network", at_least=1)\n'
    project = copy(("settings.py", f"     {LATENT_DIM}\n{line}"))
    size = f"{sum(p.numel() for p in ConvVAE(hidden_dim=64).parameters()):,} parameters"
    assert size in train(project, "--hidden-dim", 64)
    assert size in train(project, *FROM_IT)


FROM_IT = ("--from", "checkpoints/vae.pt", "--checkpoint", "checkpoints/next.pt")


def test_annealed_kl(copy, train, tmp_path, read_metrics):
    """Beta rises over ten epochs in training; the test loss is that of the whole of it."""
    project = copy(CHANGES[1])
    train(project, "--epochs", 3, "--beta", 2)
    rows = read_metrics(tmp_path / "outputs" / "vae")
    for row, beta in zip(rows, (0.2, 0.4, 0.6), strict=True):
        assert row["train_loss"] == pytest.approx(row["train_bce"] + beta * row["train_kld"])
        assert row["test_loss"] == pytest.approx(row["test_bce"] + 2 * row["test_kld"])


# Changes of what a run keeps: a run that was stopped goes on with them


@pytest.fixture
def stop(run_copy, data_dir):
    """A function that starts a run of two epochs of a project, and ends it, as Ctrl-C would, after one."""

    def stop(project, *flags):
        def interrupt(module):
            def report(row, settings):
                raise KeyboardInterrupt

            module.report = report

        options = ("--epochs", 2, "--data-dir", data_dir, *flags)
        result = run_copy(project, "train", *options, change=interrupt)
        assert result.code == 130, result.err

    return stop


ADAM, COLUMN = CHANGES[-2:]
OPTIMIZERS = {
    "Adam": ADAM,
    "SGD": (ADAM[0], re.sub("Adam(.*)\\)", r"SGD\1, momentum=0.9)", ADAM[1])),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_another_optimizer_can_be_resumed(copy, stop, train, tmp_path, name):
    """To the bit: as if it had not been stopped."""
    project = copy(OPTIMIZERS[name])
    rate = ("--lr", 1e-4)
    stop(project, *rate)
    assert "epoch   2" in train(project, "--resume", epochs=())
    train(project, "--checkpoint", "whole.pt", "--epochs", 2, *rate)
    whole, pieces = (
        torch.load(tmp_path / path, weights_only=True) for path in ("whole.pt", "checkpoints/vae.pt")
    )
    torch.testing.assert_close(whole["model"], pieces["model"], rtol=0, atol=0)


def test_run_of_another_optimizer_is_not_called_damaged(copy, stop, refused_by):
    project = copy()
    stop(project)
    text = (project / "train.py").read_text()
    (project / "train.py").write_text(apply(ADAM[1], text))
    line = refused_by(project, "train", "--resume")
    assert "trained with MuonAdamW" in line and "makes Adam" in line


def test_new_column_in_metrics(copy, stop, train, tmp_path):
    """The rows of the code before it have none; a run that began with them goes on. Of any type of number."""
    project = copy()
    stop(project)
    file, diff = COLUMN
    text = apply(diff, (project / file).read_text())
    number = '__import__("numpy").float64(0.25)'
    (project / file).write_text(text.replace('optimizer.param_groups[0]["lr"]', number))
    assert number in (project / file).read_text()
    train(project, "--resume", epochs=())
    with open(tmp_path / "outputs" / "vae" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["lr"] for row in rows] == ["", "0.25"]
    _, run = load_checkpoint(tmp_path / "checkpoints" / "vae.pt")
    assert [row.get("lr") for row in run.history] == [None, 0.25]


LATENT_DIM = 'latent_dim: int = setting(16, "size of the latent z", "network", at_least=1)'


def test_setting_of_the_network_that_its_config_lacks_is_told_at_once(copy, train):
    """It would be lost when the model is loaded again."""
    setting = '+    leak: float = setting(0.1, "slope below zero", "network", at_least=0)\n'
    (signature,) = re.findall(r"    def __init__\(self, latent_dim.*(?=\):)", (ROOT / "model.py").read_text())
    project = copy(
        ("settings.py", f"     {LATENT_DIM}\n{setting}"),
        ("model.py", f"-{signature}):\n+{signature}, leak=0.1):\n"),
    )
    with pytest.raises(ValueError, match="config lacks leak"):  # for who programs, with a traceback
        train(project)


def test_model_of_another_likelihood_is_refused(copy, trained, refused_by):
    gaussian = next(change for change in CHANGES if "Gaussian" in change[1])
    project = copy(gaussian)
    line = refused_by(project, "evaluate", "--checkpoint", trained.checkpoint)
    assert "trained with BCE and model.py has Gaussian" in line


# A network that asks for more


SCRIPTS = [
    ("evaluate", "--draws", 1),
    ("explore",),
    ("encode", "--split", "test"),
    ("generate", "--traverse"),
]


def test_conditional_network(copy, train, run_copy, refused_by):
    """It trains, draws the class that it is asked for, and no script goes on without the labels."""
    assert len(CONDITIONAL) == 4
    project = copy(*CONDITIONAL)
    train(project, "--epochs", 2, "--batch-size", 16)
    for flags in ((), ("--digit", 3, 8, "--n", 2), ("--sampler", "mixture")):
        result = run_copy(project, "generate", *flags)
        assert result.code == 0, result.err
    for script, *flags in SCRIPTS:
        line = refused_by(project, script, *flags)
        assert "needs y, which this script does not pass on" in line
    with modules_of(project):
        model, _ = importlib.import_module("support.checkpoint").load_checkpoint("checkpoints/vae.pt")
        zero, one = (model.decode(torch.zeros(1, 16), torch.tensor([label])) for label in (0, 1))
    assert (zero - one).abs().max() > 0.01


def test_labels_that_can_be_left_out_are_not_left_out_in_silence(copy, train, refused_by):
    """A default for y would give evaluate.py another loss than train.py, without a word."""
    optional = [
        (file, diff.replace("+    def encode(self, x, y):", "+    def encode(self, x, y=None):"))
        for file, diff in CONDITIONAL
    ]
    assert optional != CONDITIONAL
    project = copy(*optional)
    train(project)
    assert "needs y" in refused_by(project, "evaluate", "--draws", 1)
