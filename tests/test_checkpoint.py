"""Checkpoints: written whole, read back to the bit, and refused where they are damaged or hostile."""

import contextlib
import copy
import errno
import os
import pickle
import resource
import sys
import zipfile

import pytest
import torch
from fuzz_checkpoint import Call
from torch import nn

from model import ConvVAE, vae_loss
from optimizer import make_optimizer
from settings import Settings
from support.checkpoint import Run, load_checkpoint, restore_training, save_checkpoint
from support.errors import CheckpointError, UserError

ROW = {"epoch": 1, "train_loss": 0.3, "test_loss": 0.3, "test_bce": 0.1, "test_kld": 0.2}  # of a history


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ConvVAE(latent_dim=6, hidden_dim=32).eval()


@pytest.fixture
def new_run():
    """A function that makes a run that has just begun."""
    return lambda: Run(Settings(latent_dim=6), source="full")


@pytest.fixture
def saved(model, new_run, tmp_path):
    """A good checkpoint."""
    path = tmp_path / "vae.pt"
    save_checkpoint(path, model, new_run())
    return path


@pytest.fixture
def save_content(saved, tmp_path):
    """A function that writes a checkpoint with parts of its content replaced."""

    def save_content(**parts):
        path = tmp_path / "changed.pt"
        torch.save(torch.load(saved, weights_only=True) | parts, path)
        return path

    return save_content


def test_checkpoint_round_trip_is_exact(model, tmp_path):
    path = tmp_path / "new" / "folder" / "vae.pt"
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.rand(20, 1, 28, 28)
    logits, mu, logvar = model(x)
    vae_loss(logits, x, mu, logvar)[0].backward()
    optimizer.step()
    settings = Settings(epochs=7, lr=0.01, latent_dim=6, binarize=True, dataset="kmnist", seed=3)
    history = [ROW]
    run = Run(settings, source="full", history=history, out="here", optimizer=optimizer.state_dict())
    save_checkpoint(path, model, run)
    assert run.saved == 1
    loaded, found = load_checkpoint(path)
    assert loaded.config == model.config and not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(found.optimizer, optimizer.state_dict(), rtol=0, atol=0)
    assert (found.settings, found.source, found.history) == (settings, "full", history)
    assert (found.out, found.mixture, found.saved) == ("here", None, None)
    assert os.listdir(path.parent) == ["vae.pt"]


def test_optimizer_steps_as_this_device_and_this_code_have_it(model):
    """An MPS device fuses nothing, a CUDA GPU takes steps that a graph can hold: neither concerns a CPU."""
    before, after = make_optimizer(model, 0.01, 0.1), make_optimizer(model, 0.01, 0.1, betas=(0.5, 0.6))
    for number, group in enumerate(before.param_groups):
        group.update(fused=number % 2 == 0, capturable=number % 2 == 1)
    restore_training(Run(Settings(), optimizer=before.state_dict()), model, after)
    assert all(group["fused"] and not group["capturable"] for group in after.param_groups)
    assert {group["betas"] for group in after.param_groups} == {(0.5, 0.6)}  # edited since the run began


def test_optimizer_state_of_another_shape_is_refused(model):
    optimizer = make_optimizer(model, 0.01, 0.1)
    x = torch.rand(2, 1, 28, 28)
    logits, mu, logvar = model.train()(x)
    vae_loss(logits, x, mu, logvar)[0].backward()
    optimizer.step()
    for name in ("momentum", "step", "exp_avg"):
        state = copy.deepcopy(optimizer.state_dict())
        own = next(own for own in state["state"].values() if name in own)
        own[name] = torch.zeros(3, 1)
        with pytest.raises(UserError, match="start a new run"):
            restore_training(Run(Settings(), optimizer=state), model, make_optimizer(model, 0.01, 0.1))
    state = copy.deepcopy(optimizer.state_dict())
    group = state["param_groups"][0]
    group["params"] = [group["params"][0]] * len(group["params"])
    with pytest.raises(UserError, match="start a new run"):
        restore_training(Run(Settings(), optimizer=state), model, make_optimizer(model, 0.01, 0.1))


def test_nothing_is_saved_twice(saved, model):
    """latent_dim and dropout are the model's, and the settings take them from there."""
    content = torch.load(saved, weights_only=True)
    assert not set(content["args"]) & set(content["config"])
    assert load_checkpoint(saved)[1].settings.latent_dim == model.config["latent_dim"] == 6


def test_half_precision_checkpoint_loads_as_float32(model, new_run, saved):
    save_checkpoint(saved, model.half(), new_run())
    loaded, _ = load_checkpoint(saved)
    assert {t.dtype for t in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.99, 0.9999])
def test_truncated_checkpoint_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="vae"):
        load_checkpoint(saved)


def test_one_flipped_bit_is_refused(saved):
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(content)
    with pytest.raises(CheckpointError, match="vae"):
        load_checkpoint(saved)


def write_plain_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no weights here")


FOREIGN = {
    "text": lambda path: path.write_text("hello"),
    "zip": write_plain_zip,
    "picture": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000)),
    "list": lambda path: torch.save([1, 2, 3], path),
    "state dict": lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
    "whole module": lambda path: torch.save(nn.Linear(2, 2), path),
    "old torch format": lambda path: torch.save({"model": {}}, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_foreign_file_is_refused(tmp_path, write):
    path = tmp_path / "vae.pt"
    write(path)
    with pytest.raises(CheckpointError, match="vae"):
        load_checkpoint(path)


def test_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("version", [0, 999, "1", None])
def test_another_format_version_is_refused(save_content, version):
    with pytest.raises(CheckpointError, match="version"):
        load_checkpoint(save_content(version=version))


@pytest.mark.parametrize(
    "parts",
    [
        {"format": "another project's"},
        {"config": None},
        {"config": {"latent_dim": 6}},  # a smaller network's
        {"config": {"latent_dim": "six"}},
        {"config": {"latent_dim": -1}},
        {"config": {"surprise": 1}},
        {"model": None},
        {"model": {}},
        {"model": {"mu_head.weight": 1}},
        {"args": None},
        {"args": {"surprise": 1}},
        {"args": {"epochs": "ten"}},
        {"args": {"epochs": -3}},
        {"args": {"batch_size": 0}},
        {"args": {"lr": float("nan")}},
        {"history": [ROW | {"test_bce": float("nan")}]},
        {"history": [ROW | {"test_kld": "low"}]},
        {"history": [ROW | {"train_loss": 1e200}]},
        {"history": [ROW | {"epoch": 10**12}]},
        {"history": [ROW | {"\x1b": 1.0}]},
        {"history": [ROW | {"steps": 10**100}]},
        {"history": [{name: ROW[name] for name in ROW if name != "train_loss"}]},
        {"history": [ROW | {"epoch": epoch} for epoch in range(1, 22)]},  # of 20
        {"args": {"binarize": 1}},
        {"args": {"dataset": "another"}},
        {"source": None},
        {"mixture": {"weights": 1}},
        {"out": 1},
        {"id": 1},
        {"id": ""},
        {"id": "\ud800" * 16},
        {"out": "\ud800"},
        {"source": "\x1b[2J"},
        {"images": "many"},
        {"checksum": 0.5},
    ],
    ids=str,
)
def test_wrong_parts_are_refused(save_content, parts):
    with pytest.raises(CheckpointError, match="changed"):
        load_checkpoint(save_content(**parts))


@pytest.mark.filterwarnings("ignore")
def test_weights_of_wrong_shape_or_kind_are_refused(model, save_content):
    weights = model.state_dict()
    for wrong in (torch.zeros(6, 31), torch.zeros(6, 32, dtype=torch.long), torch.zeros(6, 32).to_sparse()):
        with pytest.raises(CheckpointError):
            load_checkpoint(save_content(model=weights | {"mu_head.weight": wrong}))
    with pytest.raises(CheckpointError):
        load_checkpoint(save_content(model=weights | {"one_too_many": torch.zeros(1)}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(model, new_run, saved, value):
    model.encoder[0].weight.data[1, 0, 2, 2] = value
    save_checkpoint(saved, model, new_run())
    with pytest.raises(CheckpointError, match="has weights that are infinite or no numbers"):
        load_checkpoint(saved)


@pytest.mark.parametrize("change", ["one more layer", "one less", "another width"])
def test_checkpoint_of_another_network_is_not_called_damaged(saved, monkeypatch, change):
    """As after an edit of model.py."""
    init = ConvVAE.__init__

    def edited(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if change == "one more layer":
            self.decoder.append(nn.BatchNorm2d(1))
        elif change == "one less":
            del self.encoder[3]
        else:
            self.mu_head = nn.Linear(16, 7)

    monkeypatch.setattr(ConvVAE, "__init__", edited)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_checkpoint(saved)


def test_pipe_for_a_checkpoint_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="pipe is not a file"):
        load_checkpoint(tmp_path / "pipe")


def peak_memory():
    """The most bytes this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@pytest.mark.parametrize("hidden_dim", [100_000, 10**9, 10**30])
def test_absurd_sizes_are_refused_without_allocation(model, save_content, hidden_dim):
    """100,000 would take 1.6 GB: affordable here, so only the memory in use can tell."""
    path = save_content(config=model.config | {"hidden_dim": hidden_dim})
    before = peak_memory()
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert peak_memory() - before < 100e6


def test_weights_that_claim_more_than_the_file_holds_are_refused(model, save_content):
    """One number with a stride of zero poses as 800 MB of weights."""
    config = model.config | {"hidden_dim": 50_000}
    with torch.device("meta"):
        weights = ConvVAE(**config).state_dict()
    bloated = {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in weights.items()}
    with pytest.raises(CheckpointError):
        load_checkpoint(save_content(config=config, model=bloated))


@pytest.mark.parametrize("part", ["mixture", "optimizer"])
def test_any_tensor_that_claims_more_than_the_file_holds_is_refused(save_content, part):
    """400 MB, asked for twice in a list that holds itself."""
    values = [torch.zeros(()).expand(10_000, 10_000)]
    path = save_content(**{part: {"means": values + values, "more": values.append(values) or values}})
    before = peak_memory()
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert peak_memory() - before < 100e6


def test_code_in_a_checkpoint_does_not_run(tmp_path, save_content):
    caught = tmp_path / "caught"
    bait = Call(os.mkdir, str(caught))
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps(bait))
    pickle.loads(bare.read_bytes())
    assert caught.exists()  # the bait works
    caught.rmdir()
    for path in (bare, save_content(extra=bait), save_content(model=bait)):
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
        assert not caught.exists()


@pytest.mark.parametrize("size", [10**15, 10**30])
def test_bytes_that_claim_absurd_sizes_are_refused(save_content, size):
    """bytearray is on torch's list of what is safe to call."""
    with pytest.raises(CheckpointError):
        load_checkpoint(save_content(extra=Call(bytearray, size)))


@pytest.mark.filterwarnings("ignore")
def test_damaged_pickles_in_intact_archives_are_refused(saved, tmp_path):
    """torch's unpickler raises IndexError, struct.error and others on these."""
    with zipfile.ZipFile(saved) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in content if name.endswith("data.pkl"))
    good = content[name]
    path = tmp_path / "damaged.pt"
    for at in [*range(2, 60), *range(60, len(good), 97)]:
        for byte in b"R0r\x81":  # reduce, pop, memorise, new object
            content[name] = good[:at] + bytes([byte]) + good[at + 1 :]
            with zipfile.ZipFile(path, "w") as archive:
                for entry in content.items():
                    archive.writestr(*entry)
            with contextlib.suppress(CheckpointError):
                load_checkpoint(path)  # some damage does no harm


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_failed_save_leaves_the_earlier_checkpoint(model, new_run, saved, monkeypatch, function):
    before = saved.read_bytes()

    def full_disk(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, ConvVAE(latent_dim=2, hidden_dim=8), new_run())
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
    assert load_checkpoint(saved)[0].config == model.config
