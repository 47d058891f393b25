"""Whatever a user, a disk or a network does wrong: one clear line, a non-zero exit, and nothing lost."""

import csv
import dataclasses
import errno
import itertools
import math
import os
import re
import time
import zlib

import pytest
import torch
from filelock import FileLock
from PIL import Image

import train
from model import ConvVAE
from support import idx, runs
from support.checkpoint import load_checkpoint, save_checkpoint
from support.device import pick_device
from support.errors import Terminated, user_errors

READERS = ("generate", "tsne", "interpolate", "evaluate", "explore")  # of a checkpoint
DATA_READERS = READERS[1:]


@pytest.fixture
def refused(call, refusal, trained, data_dir):
    """A function that runs a script on good files but for ``args``, and returns its one line of error."""

    def refused(script, *args):
        files = ("--checkpoint", trained.checkpoint) if script in READERS else ()
        files += () if script == "generate" else ("--data-dir", data_dir)
        before = trained.checkpoint.read_bytes()
        line = refusal(call(script, *files, *args))
        assert trained.checkpoint.read_bytes() == before
        return line

    return refused


# The command line

BAD_ARGUMENTS = [
    ("train", "--epochs", ("0", "-1", "ten", "1.5", "")),
    ("train", "--batch-size", ("0", "-64", "many")),
    ("train", "--lr", ("0", "-1", "nan", "inf", "fast")),
    ("train", "--latent-dim", ("0", "x")),
    ("train", "--beta", ("-1", "nan")),
    ("train", "--weight-decay", ("-0.1", "inf")),
    ("train", "--dropout", ("1", "-0.1", "nan")),
    ("train", "--binarize-epochs", ("-1", "1.5", "half")),
    ("train", "--move-epochs", ("-1", "1.5", "half")),
    ("train", "--augment", ("-1", "20", "nan", "far")),
    ("train", "--seed", ("-1", "4294967296", "x")),
    ("train", "--precision", ("fp8",)),
    ("train", "--dataset", ("cifar", "emnist", "")),
    ("generate", "--n", ("0", "-1", "x")),
    ("generate", "--nrow", ("0",)),
    ("generate", "--temperature", ("0", "nan")),
    ("interpolate", "--steps", ("0", "1", "x")),
    ("interpolate", "--rows", ("0",)),
    ("interpolate", "--method", ("cubic",)),
    ("tsne", "--n", ("0", "x")),
    ("tsne", "--perplexity", ("0", "-5", "nan", "100", "1e9")),  # there are 100 test images
    ("generate", "--digit", ("12", "-1", "seven", "7.0", "t-shirt", "", "1" * 5000)),
    ("generate", "--sampler", ("posterior",)),
    ("evaluate", "--draws", ("0", "x")),
    ("evaluate", "--iw-samples", ("0", "x")),
    ("evaluate", "--iw-spread", ("0.5", "nan", "inf", "x")),
    ("benchmark", "--rounds", ("0", "x")),
    ("benchmark", "--steps", ("0",)),
    ("benchmark", "--batch-size", ("0",)),
]


@pytest.mark.parametrize(
    "script, flag, value",
    [(script, flag, value) for script, flag, values in BAD_ARGUMENTS for value in values],
)
def test_bad_argument_is_named(refused, script, flag, value):
    assert flag in refused(script, flag, value)


@pytest.mark.parametrize("script", ["train", "benchmark", *READERS])
@pytest.mark.parametrize("device", ["tpu", "cuda", "cuda:99", "cuda:x", "meta", ""])
def test_device_that_is_not_here(refused, script, device):
    assert f"device '{device}'" in refused(script, "--device", device)


def test_auto_takes_the_best_device_there_is(monkeypatch):
    for cuda, mps, best in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda cuda=cuda: int(cuda))
        monkeypatch.setattr(torch.mps, "is_available", lambda mps=mps: mps)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert pick_device("auto").type == best


def test_the_gpu_that_is_named_becomes_the_current_one(monkeypatch):
    """Whose the streams and graphs are that training makes: on another than its tensors they do nothing."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1")]


@pytest.mark.parametrize(
    "args, word",
    [
        (("--digits", 3, 10), "10"),
        (("--digits", -1, 3), "-1"),
        (("--digits", 3), "--digits"),
        (("--index", 0, 100), "0 to 99"),
        (("--index", -1, 5), "-1"),
        (("--index", 1, 2, "--rows", 2), "--rows"),
    ],
)
def test_interpolation_that_cannot_be(refused, args, word):
    assert word in refused("interpolate", *args)


def test_digit_that_the_test_images_lack(refused, write_data, own_folder):
    write_data(own_folder / "few", test_size=10)  # ten zeros
    assert "no 8" in refused("interpolate", "--data-dir", "few", "--digits", 0, 8)


@pytest.mark.parametrize(
    "script, args",
    [
        ("train", ("--resume", "--overwrite")),
        ("generate", ("--manifold", "--digit", 7)),
        ("generate", ("--manifold", "--sampler", "mixture")),
        ("generate", ("--manifold", "--nrow", 5)),
        ("generate", ("--manifold", "--temperature", 0.5)),
        ("generate", ("--digit", 7, "--sampler", "prior")),
        ("interpolate", ("--generated", "--index", 1, 2)),
    ],
)
def test_flags_that_exclude_each_other(refused, script, args):
    line = refused(script, *args)
    assert all(flag in line for flag in args if str(flag).startswith("--"))


@pytest.mark.parametrize("size", [10**13, 10**30])
@pytest.mark.parametrize("script, flag", [("generate", "--n"), ("train", "--latent-dim")])
def test_absurdly_large_number(refused, script, flag, size):
    """More than any memory, and more than any integer of a machine."""
    refused(script, flag, size)


def record_without_memory(size):
    """What is raised where the memory ends while a CUDA graph is recorded: its end fails, too."""
    try:
        torch.empty(size)
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


@pytest.mark.parametrize("allocate", [torch.empty, bytearray, record_without_memory])
def test_out_of_memory(capsys, allocate):
    """More bytes than any machine can address: torch raises a RuntimeError on a CPU, Python a MemoryError."""
    with pytest.raises(SystemExit) as stop, user_errors():
        allocate(2**60)
    assert stop.value.code == 1
    assert re.fullmatch("error: .*memory.*\n", capsys.readouterr().err)


def test_tsne_of_a_single_image(refused):
    refused("tsne", "--n", 1, "--perplexity", 0.5)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_tsne_of_a_model_that_sees_no_difference(refused, trained, value):
    """scikit-learn would crash on points that are all the same."""
    model, run = load_checkpoint(trained.checkpoint)
    torch.nn.init.constant_(model.mu_head.weight, value)
    save_checkpoint("same.pt", model, run)
    assert "same.pt" in refused("tsne", "--checkpoint", "same.pt", "--perplexity", 5)


def test_plane_of_a_single_latent(refused, trained):
    _, run = load_checkpoint(trained.checkpoint)
    run.mixture = None  # which is of another latent space
    save_checkpoint("line.pt", ConvVAE(latent_dim=1, hidden_dim=8), run)
    assert "line.pt" in refused("generate", "--manifold", "--checkpoint", "line.pt")


@pytest.mark.parametrize(
    "script, args, word",
    [
        ("train", ("--epochs", "0"), "--epochs"),
        ("train", ("--dataset", "fashion-mnist"), "network"),
        ("evaluate", ("--checkpoint", "nowhere.pt"), "nowhere.pt"),
    ],
)
def test_the_same_in_a_process_of_its_own(run, refusal, own_folder, script, args, word):
    assert word in refusal(run(script, *args, cwd=own_folder))


# Checkpoints


@pytest.fixture
def bad_checkpoint(trained, own_folder):
    """A function that writes a checkpoint with the fault of that name."""
    path = own_folder / "bad.pt"
    good = trained.checkpoint.read_bytes()
    contents = {"empty": b"", "truncated": good[: len(good) // 2], "foreign": b"a letter to a friend\n" * 99}

    def bad_checkpoint(fault):
        if fault in contents:
            path.write_bytes(contents[fault])
        return path

    return bad_checkpoint


@pytest.mark.parametrize("fault", ["missing", "empty", "truncated", "foreign"])
@pytest.mark.parametrize("script", READERS)
def test_bad_checkpoint(refused, bad_checkpoint, script, fault):
    assert "bad.pt" in refused(script, "--checkpoint", bad_checkpoint(fault))


@pytest.mark.parametrize("fault", ["missing", "empty", "truncated", "foreign"])
def test_resuming_from_a_bad_checkpoint_leaves_it(refused, bad_checkpoint, fault):
    path = bad_checkpoint(fault)
    before = path.exists() and path.read_bytes()
    assert "bad.pt" in refused("train", "--resume", "--checkpoint", path)
    assert (path.exists() and path.read_bytes()) == before


@pytest.mark.parametrize("script", READERS)
def test_weights_without_a_word_on_what_they_were_trained_on(refused, script):
    model = ConvVAE(latent_dim=2, hidden_dim=8)
    content = {"format": "conv-vae", "version": 1, "config": model.config, "model": model.state_dict()}
    torch.save(content, "bare.pt")
    assert "bare.pt" in refused(script, "--checkpoint", "bare.pt")


def test_folder_for_a_checkpoint(refused):
    os.mkdir("folder")
    assert "folder" in refused("generate", "--checkpoint", "folder")


@pytest.mark.parametrize(
    "script, args",
    [
        ("generate", ("--digit", 7)),
        ("generate", ("--sampler", "mixture")),
        ("generate", ("--manifold",)),
        ("interpolate", ("--generated",)),
        ("evaluate", ("--samples",)),
    ],
)
def test_checkpoint_without_a_latent_mixture(refused, stopped, script, args):
    """As before the end of a run: the line says how to add one."""
    assert "--resume" in refused(script, "--checkpoint", stopped.partial, *args)


# Data


@pytest.mark.parametrize("script", ["train", *DATA_READERS])
def test_corrupt_data(refused, write_data, own_folder, script):
    """Test images cut short: never trained on, never replaced by the sample."""
    name = "t10k-images-idx3-ubyte"
    path = write_data(own_folder / "data") / "MNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[:-100])
    assert name in refused(script, "--data-dir", "data")


def test_data_that_count_from_one(refused, write_data, own_folder):
    path = write_data(own_folder / "data") / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes(label + 1 for label in content[8:]))
    line = refused("train", "--data-dir", "data")
    assert "labels from 1 to 10" in line and "first_label" in line


@pytest.mark.parametrize("script", DATA_READERS)
def test_data_of_another_data_set(refused, monkeypatch, script, digits):
    """Fashion-MNIST's files have the names of MNIST's."""
    known = {zlib.crc32(digits.test[0].tobytes()): "fashion-mnist", 0: "mnist"}
    monkeypatch.setattr(idx, "CHECKSUMS", known)
    line = refused(script)
    assert "holds fashion-mnist's images" in line and "--dataset fashion-mnist" in line


@pytest.mark.parametrize("left", [0, 1])
def test_class_too_rare_for_the_latent_mixture(refused, write_data, own_folder, left):
    """Found before the training, not after it."""
    path = write_data(own_folder / "data") / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    content = path.read_bytes()
    labels = content[8:].replace(b"\t", b"\b")  # no 9
    path.write_bytes(content[:8] + labels[left:] + b"\t" * left)
    assert f"class 9 has {left} " in refused("train", "--data-dir", "data", "--checkpoint", "new.pt")
    assert not (own_folder / "new.pt").exists()


@pytest.mark.parametrize("script, args", [("generate", ("--digit", 8)), ("interpolate", ("--generated",))])
def test_class_that_the_mixture_lacks(refused, trained, script, args):
    """Of a checkpoint that names ten classes and has a mixture of seven, nothing is drawn."""
    model, run = load_checkpoint(trained.checkpoint)
    run.mixture = {name: value[:7] for name, value in run.mixture.items()}
    save_checkpoint("seven.pt", model, run)
    assert "seven.pt" in refused(script, "--checkpoint", "seven.pt", *args)


@pytest.mark.parametrize("args", [(), ("--samples",)])
def test_a_single_test_image(refused, write_data, own_folder, args):
    write_data(own_folder / "one", test_size=1)
    assert "--data-dir" in refused("evaluate", "--data-dir", "one", *args)


def test_judge_that_cannot_be_kept(call, trained, data_dir, own_folder):
    """It is only a cache: nothing that was measured is lost."""
    (own_folder / "outputs").write_text("a file")
    options = ("--checkpoint", trained.checkpoint, "--data-dir", data_dir, "--json", "n.json")
    result = call("evaluate", "--samples", "--draws", 1, *options)
    assert result.code == 0 and (own_folder / "n.json").exists()
    assert [line for line in result.err if line.startswith("warning: ") and "outputs/judge" in line]


def test_held_out_images_of_another_data_set(refused, stopped):
    model, run = load_checkpoint(stopped.partial)
    run.settings = dataclasses.replace(run.settings, validate=True)
    save_checkpoint("held-out.pt", model, run)
    assert "--data-dir" in refused("evaluate", "--checkpoint", "held-out.pt", "--data-dir", "nowhere")


@pytest.mark.parametrize("dataset", ["fashion-mnist", "kmnist", "qmnist", "emnist-letters"])
def test_no_network(refused, dataset):
    line = refused("train", "--dataset", dataset)
    assert dataset in line and "network" in line and "--data-dir" in line


# Output that cannot be written

PLACES = [
    *[(script, "--out") for script in ("train", "generate", "tsne", "interpolate")],
    *[("train", "--checkpoint"), ("generate", "--save-images"), ("evaluate", "--json")],
]


@pytest.mark.parametrize("script, flag", PLACES)
def test_file_where_a_folder_should_be(refused, own_folder, script, flag):
    (own_folder / "notes").write_text("keep me")
    assert "notes" in refused(script, flag, "notes/new.png")
    assert (own_folder / "notes").read_text() == "keep me"


@pytest.mark.parametrize(
    "script, flag",
    [("generate", "--out"), ("interpolate", "--out"), ("evaluate", "--json"), ("benchmark", "--json")],
)
@pytest.mark.parametrize("folder", [".", "here.png"])
def test_folder_where_a_file_should_be(refused, own_folder, script, flag, folder):
    (own_folder / "here.png").mkdir()
    refused(script, flag, folder)
    assert list(own_folder.rglob("*")) == [own_folder / "here.png"]


@pytest.mark.parametrize("script", ["generate", "tsne", "interpolate"])
@pytest.mark.parametrize("name", ["walk.gif", "digits.jpg", "digits"])
def test_picture_that_would_not_be_what_its_name_says(refused, own_folder, script, name):
    line = refused(script, "--out", name)
    assert "--out" in line and ".png" in line
    assert not list(own_folder.iterdir())


# Training


@pytest.fixture
def unfinished(stopped, own_folder):
    """Makes a copy of a run that was stopped after the first of five epochs, with changes to its settings."""

    def unfinished(**changes):
        model, run = load_checkpoint(stopped.partial)
        run.settings = dataclasses.replace(run.settings, **changes)
        save_checkpoint("unfinished.pt", model, run)
        return own_folder / "unfinished.pt"

    return unfinished


def test_earlier_run_is_not_overwritten_by_accident(refused, trained):
    line = refused("train", "--checkpoint", trained.checkpoint)
    assert "--overwrite" in line and "--resume" in line


def test_what_is_no_checkpoint_is_not_overwritten(refused, own_folder):
    (own_folder / "thesis.txt").write_text("keep me")
    assert "no checkpoint" in refused("train", "--checkpoint", "thesis.txt", "--overwrite")
    assert (own_folder / "thesis.txt").read_text() == "keep me"


def test_overwrite_starts_anew(call, unfinished, data_dir):
    path = unfinished()
    options = ("--overwrite", "--epochs", 1, "--latent-dim", 3, "--data-dir", data_dir)
    assert call("train", "--checkpoint", path, *options).code == 0
    model, run = load_checkpoint(path)
    assert model.config["latent_dim"] == 3 and len(run.history) == 1


def test_finished_run_has_nothing_to_resume(refused, trained):
    assert "finished" in refused("train", "--resume", "--checkpoint", trained.checkpoint)


@pytest.mark.parametrize(
    "setting",
    [
        *("--epochs 9", "--batch-size 9", "--lr 9", "--weight-decay 9"),
        *("--latent-dim 9", "--beta 9", "--dropout 0.9"),
        *("--seed 9", "--binarize", "--binarize-epochs 1", "--move-epochs 1", "--augment 1"),
        *("--validate", "--dataset kmnist"),
    ],
)
def test_resuming_with_another_setting(refused, unfinished, setting):
    path = unfinished()
    before = path.read_bytes()
    assert setting.split()[0] in refused("train", "--resume", "--checkpoint", path, *setting.split())
    assert path.read_bytes() == before


def test_resuming_without_the_data_it_was_trained_on(refused, unfinished):
    """The packaged sample steps in for MNIST, but not in the middle of a run."""
    path = unfinished()
    assert "--data-dir" in refused("train", "--resume", "--checkpoint", path, "--data-dir", "nowhere")
    assert len(load_checkpoint(path)[1].history) == 1


def test_resuming_with_other_images_of_the_same_kind(refused, unfinished, write_data, own_folder):
    path = unfinished()
    raw = write_data(own_folder / "other") / "MNIST" / "raw"
    images, labels = raw / "train-images-idx3-ubyte", raw / "train-labels-idx1-ubyte"
    resume = ("train", "--resume", "--checkpoint", path, "--data-dir", "other")
    content = images.read_bytes()
    images.write_bytes(content[:16] + bytes([content[16] ^ 1]) + content[17:])
    assert "300 images and found others" in refused(*resume)
    images.write_bytes(content)
    labels.write_bytes(labels.read_bytes()[:8] + labels.read_bytes()[8:][::-1])
    assert "300 images and found others" in refused(*resume)
    for file, size in ((images, 784), (labels, 1)):
        content = file.read_bytes()
        head = 8 + 8 * (size > 1)
        file.write_bytes(content[:4] + (200).to_bytes(4, "big") + content[8 : head + 200 * size])
    assert "300 images and found 200" in refused(*resume)
    assert len(load_checkpoint(path)[1].history) == 1


@pytest.fixture
def stop_at_once(monkeypatch):
    """Ends a run, as Ctrl-C would, once its first epoch is saved."""

    def stop(row, settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "report", stop)


def test_unfinished_run_of_an_older_version_goes_on(call, unfinished, data_dir, stop_at_once):
    path = unfinished()
    content = torch.load(path, weights_only=True)
    for name in ("id", "images", "checksum"):
        del content[name]
    torch.save(content, path)
    assert call("train", "--resume", "--checkpoint", path, "--data-dir", data_dir).code == 130
    run = load_checkpoint(path)[1]
    assert len(run.history) == 2 and run.images == 300 and run.checksum


@pytest.mark.parametrize("flags, precision", [((), "bf16"), (("--precision", "fp32"), "fp32")])
def test_bf16_run_where_bf16_is_slow(call, unfinished, data_dir, stop_at_once, monkeypatch, flags, precision):
    monkeypatch.setattr(runs, "pick_precision", lambda name, device: "fp32" if name == "auto" else name)
    path = unfinished(precision="bf16")
    result = call("train", "--resume", "--checkpoint", path, "--data-dir", data_dir, *flags)
    (warning,) = [line for line in result.err if line.startswith("warning: ")]
    assert result.code == 130 and ("slow" in warning) == (precision == "bf16")
    assert ("to the bit" in warning) == (precision == "fp32")
    assert load_checkpoint(path)[1].settings.precision == precision


def test_folder_of_another_run(call, refused, unfinished, data_dir, own_folder, stop_at_once):
    """Nobody trains into it by accident, the run it was taken from included."""
    path = unfinished()
    first = ("--checkpoint", path, "--out", "shared", "--data-dir", data_dir)
    assert call("train", "--resume", *first).code == 130
    before = {file: file.read_bytes() for file in (own_folder / "shared").iterdir()}
    second = ("train", "--checkpoint", "second.pt", "--out", "shared", "--epochs", 2)
    line = refused(*second)
    assert "--out" in line and "--overwrite" in line and "shared" in line
    assert {file: file.read_bytes() for file in (own_folder / "shared").iterdir()} == before
    assert not (own_folder / "second.pt").exists()

    assert call(*second, "--overwrite", "--data-dir", data_dir).code == 130
    assert "another run" in refused("train", "--resume", *first)
    assert call("train", "--resume", *first, "--out", "another").code == 130  # as the line says


def test_overwriting_leaves_nothing_of_the_older_run_but_what_is_not_its_own(call, data_dir, own_folder):
    options = ("--data-dir", data_dir, "--out", "training", "--batch-size", 300)
    assert call("train", "--epochs", 2, *options).code == 0
    kept = own_folder / "training" / "notes.txt"
    kept.write_text("keep me")
    assert call("train", "--epochs", 1, "--overwrite", *options).code == 0
    epochs = {file.name[-5] for file in (own_folder / "training").glob("*_from_epoch*.png")}
    assert epochs == {"0", "1"} and kept.read_text() == "keep me"


def test_folder_that_only_the_checkpoint_names(
    call, refused, stopped, data_dir, own_folder, tmp_path_factory, stop_at_once
):
    """Outside the working folder it is taken if it has the run's mark, or if it is typed."""
    model, run = load_checkpoint(stopped.partial)
    there = tmp_path_factory.mktemp("there")
    run.out = str(there)
    save_checkpoint("passed on.pt", model, run)
    resume = ("train", "--resume", "--checkpoint", "passed on.pt")
    line = refused(*resume)
    assert f"{there} is outside the working folder" in line and "--out" in line and not os.listdir(there)
    (there / "metrics.csv").write_text("keep me")
    assert "another run" in refused(*resume, "--out", there)
    assert (there / "metrics.csv").read_text() == "keep me"
    (there / ".run").write_text(run.id)
    assert call(*resume, "--data-dir", data_dir).code == 130
    assert (there / "metrics.csv").read_text().startswith("epoch,")


def test_file_of_the_name_of_a_mark_is_kept(refused, own_folder):
    (own_folder / "mine").mkdir()
    (own_folder / "mine" / ".run").write_text("keep me")
    for more in ((), ("--overwrite",)):
        assert "somebody's own file" in refused("train", "--out", "mine", *more)
    assert (own_folder / "mine" / ".run").read_text() == "keep me"


@pytest.mark.parametrize("out", ["new", "new/pictures"])
def test_one_place_for_checkpoint_and_pictures(refused, out):
    assert "new" in refused("train", "--checkpoint", "new", "--out", out)


def test_weights_that_go_astray_while_the_loss_does_not(refused, monkeypatch):
    """An infinite running variance makes a layer's output 0, which is a number; the last good epoch stays."""
    measure = train.mean_loss

    def measure_and_spoil(model, *rest):
        model.decoder[0].body[0].running_var.fill_(math.inf)
        return measure(model, *rest)

    monkeypatch.setattr(train, "mean_loss", measure_and_spoil)
    line = refused("train", "--checkpoint", "new.pt")
    assert "weights" in line and "epoch 1" in line
    assert load_checkpoint("new.pt")[1].history == []


def test_two_runs_into_one_file(refused, unfinished):
    path = unfinished()
    with FileLock(f"{path}.lock"):
        assert "another run" in refused("train", "--resume", "--checkpoint", path)


@pytest.mark.parametrize("batch_size", [64, 300])
def test_diverging_at_once_names_the_epoch(refused, batch_size):
    """With a single step in the epoch only the loss on the test images, after it, is no number."""
    options = ("--lr", 1e9, "--precision", "fp32", "--batch-size", batch_size, "--checkpoint", "new.pt")
    assert re.search(r"\b(nan|inf)\b.* epoch 1\b", refused("train", *options))


def test_diverging_later_keeps_the_last_good_epoch(refused, unfinished):
    path = unfinished(lr=1e9)
    before, _ = load_checkpoint(path)
    assert re.search(r"\b(nan|inf)\b.* epoch 2\b", refused("train", "--resume", "--checkpoint", path))
    after, run = load_checkpoint(path)
    torch.testing.assert_close(after.state_dict(), before.state_dict(), rtol=0, atol=0)
    assert len(run.history) == 1 and math.isfinite(run.history[0]["test_loss"])


def test_full_disk_keeps_the_last_good_epoch(refused, unfinished, own_folder, watch_saves):
    def full_disk(run):
        if len(run.history) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = unfinished()
    watch_saves(full_disk)
    line = refused("train", "--resume", "--checkpoint", path)
    assert "No space left" in line and f"{path} holds epoch 1 of 5: pass --resume" in line
    assert len(load_checkpoint(path)[1].history) == 1
    assert not list(own_folder.rglob("*.tmp"))


def test_clock_that_jumps_a_day_at_every_look(call, data_dir, own_folder, monkeypatch):
    """What a machine that slept, or was told another time, does to time.time, which tqdm looks at."""
    now, jumps = time.time, itertools.cycle((0, 86_400, -86_400))
    for name in ("time.time", "tqdm.std.time"):
        monkeypatch.setattr(name, lambda: now() + next(jumps))
    start = time.perf_counter()
    assert call("train", "--epochs", 2, "--data-dir", data_dir).code == 0
    elapsed = time.perf_counter() - start
    with open(own_folder / "outputs" / "vae" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    seconds = [float(row["seconds"]) for row in rows]
    assert min(seconds) > 0 and sum(seconds) < elapsed
    assert [float(row["images_per_s"]) for row in rows] == pytest.approx([300 / s for s in seconds])


def test_stop_before_anything_is_saved_claims_nothing(call, data_dir, watch_saves, own_folder):
    def stop(run):
        raise KeyboardInterrupt

    watch_saves(stop)
    result = call("train", "--epochs", 1, "--data-dir", data_dir, "--checkpoint", "new.pt")
    assert (result.code, result.err) == (130, ["stopped"])
    assert not (own_folder / "new.pt").exists()


def test_z_that_no_mixture_fits(refused, stopped, own_folder):
    """Finite, but beyond what scikit-learn can square and subtract."""
    model, run = load_checkpoint(stopped.partial)
    run.settings = dataclasses.replace(run.settings, epochs=len(run.history))
    torch.nn.init.constant_(model.mu_head.bias, 1e30)
    save_checkpoint("far.pt", model, run)
    assert "mixture" in refused("train", "--resume", "--checkpoint", "far.pt")


def test_stop_in_the_middle_of_saving_claims_no_more_than_is_saved(call, unfinished, data_dir, watch_saves):
    def stop(run):
        if len(run.history) == 2:
            raise KeyboardInterrupt

    path = unfinished()
    watch_saves(stop)
    result = call("train", "--resume", "--checkpoint", path, "--data-dir", data_dir)
    assert result.code == 130
    (line,) = result.err
    assert "--resume" in line and "epoch 2" not in line
    assert len(load_checkpoint(path)[1].history) == 1


def test_stop_after_the_last_epoch_can_be_resumed(call, data_dir, watch_saves):
    """While the finished run's smaller checkpoint, without the optimiser, is being made."""
    stops = [Terminated()]

    def stop_once(run):
        if run.optimizer is None and stops:
            raise stops.pop()

    watch_saves(stop_once)
    options = ("--checkpoint", "new.pt", "--data-dir", data_dir)
    stopped = call("train", "--epochs", 1, *options)
    assert stopped.code == 143 and len(stopped.err) == 1 and "--resume" in stopped.err[0]
    assert call("train", "--resume", *options).code == 0
    assert load_checkpoint("new.pt")[1].optimizer is None


def test_model_of_a_folder_that_is_called_like_a_data_set(call, own_folder, digits):
    """Its finished checkpoint must not say that it is of that data set."""
    for label in (0, 1):
        for number in range(8):
            path = own_folder / "mnist" / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.train[0][30 * label + number]).save(path)
    files = ("--checkpoint", "own.pt", "--out", "own")
    assert call("train", "--dataset", "./mnist", "--epochs", 1, *files).code == 0
    result = call("generate", "--checkpoint", "own.pt", "--digit", "1")
    assert result.code == 0, result.err
    # and it can be fine-tuned, where the folder is named again
    files = ("--checkpoint", "fine.pt", "--out", "fine")
    result = call("train", "--from", "own.pt", "--dataset", "./mnist", "--epochs", 1, *files)
    assert result.code == 0, result.err
    assert load_checkpoint("fine.pt")[1].settings.from_ == "own.pt"


def test_numbers_of_an_image_are_not_written_over_it(call, refusal, trained, own_folder, digits):
    Image.fromarray(digits.test[0][0]).save("seven.png")
    before = (own_folder / "seven.png").read_bytes()
    for flags in (("--out", "seven.csv"), ("--npz", "seven.png"), ("--out", "a.csv", "--npz", "a.csv")):
        line = refusal(call("encode", "--checkpoint", trained.checkpoint, "seven.png", *flags))
        assert "written" in line
    assert (own_folder / "seven.png").read_bytes() == before


def test_black_and_white_epochs_that_leave_no_gray_ones(refused, own_folder):
    line = refused("train", "--epochs", 2, "--binarize-epochs", 2)
    assert "--binarize-epochs 2" in line and "--epochs" in line
    assert "--binarize" in refused("train", "--epochs", 2, "--binarize-epochs", 1, "--binarize")
    assert not (own_folder / "checkpoints" / "vae.pt").exists()


def test_digits_and_images_to_walk_between(refused):
    line = refused("interpolate", "--digits", 4, 9, "--index", 1, 2)
    assert "--index" in line and "--digits" in line
