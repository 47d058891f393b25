"""The scripts as a user runs them: what they write, whether it is right, and whether it can be repeated."""

import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, load_dataset
from PIL import Image
from torch.distributions import Bernoulli, Normal, kl_divergence

import train
import tsne
from data_sets import DATASETS
from mixture import sample_mixture
from settings import Settings
from support import pictures
from support.checkpoint import Run, load_checkpoint
from support.device import pick_precision
from support.judge import load_judge, sample_table
from support.reports import advice


@pytest.fixture(scope="module")
def user(run, trained, data_dir):
    """The other scripts, run where training left its files, with the default names: their results."""
    results = {
        "generate": run("generate", cwd=trained.folder),
        "tsne": run("tsne", "--data-dir", data_dir, "--perplexity", 10, cwd=trained.folder),
        "interpolate": run("interpolate", "--data-dir", data_dir, cwd=trained.folder),
        "evaluate": run(
            "evaluate", *("--data-dir", data_dir, "--draws", 50, "--json", "numbers.json"), cwd=trained.folder
        ),
    }
    assert {script: result.code for script, result in results.items()} == dict.fromkeys(results, 0), results
    return results


@pytest.fixture(scope="module")
def model(trained):
    return load_checkpoint(trained.checkpoint)[0].requires_grad_(False)


@pytest.fixture(scope="module")
def test_images(digits):
    """float32 (100, 1, 28, 28) in [0, 1]"""
    return torch.from_numpy(digits.test[0])[:, None] / 255


@pytest.fixture(scope="module")
def cells():
    def cells(picture, scale):
        """The images of a grid with one pixel of margin around each: uint8 (rows, columns, 28, 28)."""
        pixels = np.asarray(picture.convert("L"))[::scale, ::scale]
        rows, columns = pixels.shape[0] // 30, pixels.shape[1] // 30
        return pixels.reshape(rows, 30, columns, 30).swapaxes(1, 2)[:, :, 1:-1, 1:-1]

    return cells


@pytest.fixture(scope="module")
def same_pixels():
    def same_pixels(pixels, images):
        """Whether uint8 pixels show float images, give or take a rounding."""
        return np.abs(pixels.astype(int) - (255 * images.squeeze().numpy()).round()).max() <= 1

    return same_pixels


@pytest.mark.parametrize(
    "script", ["train", "generate", "tsne", "interpolate", "evaluate", "encode", "explore", "benchmark"]
)
def test_help_shows_commands_and_flags(call, script):
    result = call(script, "--help")
    assert (result.code, result.err) == (0, [])
    for part in (f"python {script}.py", "--device", "--seed", "(default: "):
        assert part in result.out
    assert "None" not in result.out
    assert ("--checkpoint" in result.out) == (script != "benchmark")  # which trains its own


# Training


def test_training_writes_a_row_and_pictures_for_every_epoch(trained, read_metrics):
    rows = read_metrics(trained.out)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for half in ("train", "test"):
        for row in rows:
            assert row[f"{half}_loss"] == pytest.approx(row[f"{half}_bce"] + row[f"{half}_kld"])
        assert rows[0][f"{half}_loss"] > rows[1][f"{half}_loss"] > rows[2][f"{half}_loss"] > 0
    for epoch in range(4):  # 0 is before the first
        assert Image.open(trained.out / f"img_from_epoch{epoch}.png").size == (480, 480)  # 8 x 8
        assert Image.open(trained.out / f"recon_from_epoch{epoch}.png").size == (480, 480)
    assert Image.open(trained.out / "loss_curves.png").size[0] > 600
    with Image.open(trained.out / "film.gif") as film:
        assert film.n_frames == 4 and film.size == (240, 240)
    lines = [line for line in trained.stdout.splitlines() if line.startswith("epoch")]
    assert len(lines) == 3 and f"{rows[2]['test_loss']:.2f}" in lines[2]


def test_training_leaves_nothing_behind(trained):
    assert not list(trained.folder.rglob("*.tmp"))


def test_reconstructions_stand_under_their_originals(trained, model, test_images, cells, same_pixels):
    shown = cells(Image.open(trained.out / "recon_from_epoch3.png"), scale=2)
    assert same_pixels(shown[0], test_images[:8]) and same_pixels(shown[2], test_images[8:16])
    recon = model.decode(model.encode(test_images[:8])[0])
    # the checkpoint is in half precision and the picture was not: close, no more
    assert np.abs(shown[1] / 255 - recon.squeeze().numpy()).max() < 0.02


def test_checkpoint_knows_its_run(trained):
    model, run = load_checkpoint(trained.checkpoint)
    assert model.config["latent_dim"] == run.settings.latent_dim == 8
    assert run.settings == Settings(
        epochs=3, batch_size=16, latent_dim=8, lr=0.002, precision=pick_precision("auto", torch.device("cpu"))
    )
    assert run.source == "full" and run.optimizer is None and run.out is None
    assert [row["epoch"] for row in run.history] == [1, 2, 3]


def test_same_seed_trains_the_same_model_and_another_seed_another(call, data_dir, read_metrics, own_folder):
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        files = ("--checkpoint", f"{name}.pt", "--out", name, "--data-dir", data_dir)
        assert call("train", "--epochs", 1, "--batch-size", 32, "--seed", seed, *files).code == 0
    one, two, other = (load_checkpoint(f"{name}.pt")[0].state_dict() for name in ("one", "two", "other"))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert not any(torch.equal(one[name], other[name]) for name in one if name.endswith("weight"))
    assert read_metrics(own_folder / "one") == read_metrics(own_folder / "two")
    pictures = [(own_folder / name / "img_from_epoch1.png").read_bytes() for name in ("one", "two", "other")]
    assert pictures[0] == pictures[1] != pictures[2]


def test_validating_trains_and_tests_on_parts_of_the_training_images(call, data_dir, own_folder, digits):
    images, labels = (torch.from_numpy(array) for array in digits.train)
    splits = [load_dataset("mnist", data_dir, split, validate=True) for split in ("train", "validation")]
    assert [len(split.images) for split in splits] == [len(split.labels) for split in splits] == [250, 50]
    found = torch.cat([split.images[:, 0] for split in splits])
    assert sorted(found.tolist()) == sorted(images.tolist())
    for image, label in zip(found, torch.cat([split.labels for split in splits]), strict=True):
        assert label == labels[(images == image).flatten(1).all(1)]
    held_out = splits[1]

    result = call("train", "--epochs", 1, "--validate", "--precision", "fp32", "--data-dir", data_dir)
    assert "250 training and 50 validation images" in result.out
    model, run = load_checkpoint("checkpoints/vae.pt")
    loss, _, _ = train.mean_loss(model, held_out, run.settings)
    assert loss == pytest.approx(run.history[-1]["test_loss"], rel=1e-3)  # weights in half precision
    assert f"validation -ELBO {run.history[-1]['test_loss']:.2f} nats" in call("generate").out

    (line,) = [line for line in result.out.splitlines() if line.startswith("epoch")]
    assert " validation " in line and " test " not in line  # as the other scripts call it
    figure = pictures.loss_curves(run.history, run.settings.test_split)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [label.split()[0] for label in labels] == ["train", "validation"]

    result = call("evaluate", "--samples", "--data-dir", data_dir, "--json", "numbers.json")
    numbers = json.loads((own_folder / "numbers.json").read_text())
    assert (numbers["split"], numbers["images"]) == ("validation", 50)
    x = held_out.images.double() / 255
    floor = Bernoulli(probs=x).entropy().sum().item() / len(x)  # tells which images these are
    assert numbers["bce_floor"] == pytest.approx(floor, rel=1e-5)
    assert "50 validation images of mnist" in result.out
    load_judge(
        "outputs", splits[0].images, splits[0].labels
    )  # finds the one that is there, or trains another
    assert len(list((own_folder / "outputs").glob("judge-*.pt"))) == 1  # which has not seen these images


def test_batch_larger_than_the_data_set(call, data_dir, read_metrics, own_folder):
    assert call("train", "--epochs", 2, "--batch-size", 100_000, "--data-dir", data_dir).code == 0
    assert len(read_metrics(own_folder / "outputs" / "vae")) == 2


def test_handful_of_test_images(call, write_data, own_folder):
    """Fewer than a row of the reconstruction grid."""
    write_data(own_folder / "few", test_size=5)
    options = ("--data-dir", "few", "--checkpoint", "few.pt")
    assert call("train", "--epochs", 1, *options).code == 0
    assert call("evaluate", *options).code == 0


def test_beta_and_last_small_batch_in_metrics(call, data_dir, read_metrics, own_folder):
    """300 images in batches of 128, 128 and 44; the loss of every epoch is that of beta."""
    options = ("--epochs", 1, "--beta", 3, "--data-dir", data_dir, "--out", "beta")
    result = call("train", *options)
    assert result.code == 0
    (row,) = read_metrics(own_folder / "beta")
    assert row["train_loss"] == pytest.approx(row["train_bce"] + 3 * row["train_kld"])
    assert row["test_loss"] == pytest.approx(row["test_bce"] + 3 * row["test_kld"])
    assert result.out.count(" x 3)") == 2  # the KL's weight is printed, too


@pytest.mark.parametrize("flags, decay", [((), Settings.weight_decay), (("--weight-decay", 0.7), 0.7)])
def test_weight_decay_reaches_the_optimizer(call, data_dir, watch_saves, flags, decay):
    decays = set()

    def see(run):
        if run.optimizer:  # the finished run's checkpoint has none
            decays.update(group["weight_decay"] for group in run.optimizer["param_groups"])

    watch_saves(see)
    assert call("train", "--epochs", 1, "--data-dir", data_dir, *flags).code == 0
    assert decays == {0.0, decay}


def test_learning_rate_falls_along_a_cosine(call, data_dir, watch_saves):
    """Four steps in each of five epochs: two of the 20 to warm up, the others down to a hundredth."""
    rates = []

    def see(run):
        if run.optimizer:  # the finished run's checkpoint has none
            rates.extend({group["lr"] for group in run.optimizer["param_groups"]})  # one for all parameters

    watch_saves(see)
    options = ("--epochs", 5, "--batch-size", 75, "--lr", 0.001, "--data-dir", data_dir)
    assert call("train", *options).code == 0
    last_steps = (3, 7, 11, 15, 19)  # of the epochs, counted from 0
    cosines = [0.5 * (1 + math.cos(math.pi * (step - 2) / 18)) for step in last_steps]
    assert rates[-5:] == pytest.approx([0.001 * (0.01 + 0.99 * cosine) for cosine in cosines])


def test_binarized_model_is_measured_on_black_and_white(call, data_dir, own_folder):
    options = ("--data-dir", data_dir, "--checkpoint", "b.pt")
    assert call("train", "--epochs", 1, "--binarize", *options).code == 0
    result = call("evaluate", "--iw-samples", 5, "--json", "b.json", *options)
    assert result.code == 0 and "-log p(x), K = 5 " in result.out
    numbers = json.loads((own_folder / "b.json").read_text())
    assert numbers["pixels"] == "binarized"
    assert numbers["bce_floor"] == 0  # of pixels that are black or white


def test_what_a_model_of_black_and_white_is_shown_is_black_and_white(call, data_dir, own_folder, cells):
    options = ("--data-dir", data_dir, "--checkpoint", "b.pt")
    assert call("train", "--epochs", 1, "--binarize", "--out", "b", *options).code == 0
    assert call("interpolate", "--index", 3, 77, "--out", "walk.png", *options).code == 0
    originals, drawn = cells(Image.open("b/recon_from_epoch1.png"), scale=2)[:2]
    (ends,) = cells(Image.open("walk.png"), scale=3)
    for seen in (originals, ends[[0, -1]]):
        assert set(np.unique(seen)) == {0, 255}
    for decoded in (drawn, ends[1:-1]):
        assert len(np.unique(decoded)) > 2


def test_samples_of_both_kinds_of_model_are_held_against_the_same_images(call, data_dir, own_folder, trained):
    """The training images' distance and the judge's accuracy do not depend on the model."""
    options = ("--checkpoint", "b.pt", "--data-dir", data_dir)
    assert call("train", "--epochs", 1, "--binarize", *options).code == 0
    samples = []
    for checkpoint in (trained.checkpoint, "b.pt"):
        options = ("--checkpoint", checkpoint, "--data-dir", data_dir, "--samples", "--json", "n.json")
        assert call("evaluate", *options).code == 0
        samples.append(json.loads((own_folder / "n.json").read_text())["samples"])
    for key in ("train", "judge_accuracy"):
        assert samples[0][key] == samples[1][key]


def test_packaged_digits_are_no_test_images_of_a_model_that_knows_them(call, trained, own_folder):
    result = call("evaluate", "--draws", 1, "--checkpoint", trained.checkpoint, "--data-dir", "nowhere")
    assert result.code == 0
    assert any("no test results" in line for line in result.err if line.startswith("warning:"))


def test_binarizing_changes_what_is_trained_on(call, data_dir, read_metrics, own_folder):
    losses = set()
    for name, flags in (("gray", ()), ("binarized", ("--binarize",))):
        files = ("--checkpoint", f"{name}.pt", "--out", name, "--data-dir", data_dir)
        assert call("train", "--epochs", 1, *flags, *files).code == 0
        losses.add(read_metrics(own_folder / name)[0]["train_bce"])
    assert len(losses) == 2


@pytest.fixture
def watch_batches(monkeypatch):
    """A function that has another called with the split and the images of every batch of a run."""

    def watch_batches(see):
        loss_of_batch = train.loss_of_batch

        def see_and_go_on(network, x, *others):
            see("train" if network.training else "test", x)
            return loss_of_batch(network, x, *others)

        monkeypatch.setattr(train, "loss_of_batch", see_and_go_on)

    return watch_batches


def test_first_epochs_in_black_and_white(call, data_dir, watch_batches):
    """They alone, and in training alone; the model itself is one of gray pixels."""
    seen = []
    watch_batches(lambda split, x: seen.append((split, "gray" if (x % 1).any() else "drawn")))
    options = ("--epochs", 3, "--binarize-epochs", 2, "--batch-size", 1000, "--data-dir", data_dir)
    assert call("train", *options).code == 0
    tested = ("test", "gray")
    assert seen == [("train", "drawn"), tested, ("train", "drawn"), tested, ("train", "gray"), tested]
    settings = load_checkpoint("checkpoints/vae.pt")[1].settings
    assert (settings.binarize, settings.binarize_epochs) == (False, 2)


def test_first_epochs_with_moved_images(call, data_dir, digits, watch_batches):
    """They alone, and in training alone."""
    seen = []
    known = {split: {image.tobytes() for image in getattr(digits, split)[0]} for split in ("train", "test")}

    def see(split, x):
        images = (x * 255).round().to(torch.uint8).numpy()
        seen.append((split, sum(image.tobytes() in known[split] for image in images) / len(x)))

    watch_batches(see)
    options = ("--epochs", 3, "--move-epochs", 2, "--batch-size", 1000, "--data-dir", data_dir)
    assert call("train", *options).code == 0
    assert seen == [("train", 0), ("test", 1), ("train", 0), ("test", 1), ("train", 1), ("test", 1)]
    assert load_checkpoint("checkpoints/vae.pt")[1].settings.move_epochs == 2


def test_packaged_sample_trains_and_says_so(call, own_folder):
    """With neither files nor a network, from the first command to the numbers."""
    result = call("train", "--epochs", 1, "--batch-size", 250)
    assert result.code == 0
    (line,) = result.err  # once, though there are two splits
    assert line.startswith("warning: no MNIST")
    assert load_checkpoint(own_folder / "checkpoints" / "vae.pt")[1].source == "sample"


def test_short_run_on_few_images_says_what_they_need():
    [line] = advice(Run(Settings()), 4000)
    assert line.startswith("--epochs 20 is little for 4,000 images: try --epochs 150, and --augment 3 ")
    [line] = advice(Run(Settings(augment=2.0)), 500)
    assert line == "--epochs 20 is little for 500 images: try --epochs 200"
    assert "--augment 6" in advice(Run(Settings()), 500)[0]
    assert advice(Run(Settings(epochs=1)), 60_000) == advice(Run(Settings(epochs=100)), 500) == []
    assert advice(Run(Settings(), history=[{"epoch": 1}]), 500) == []  # it goes on: too late for advice


# Resuming


def test_stopped_and_resumed_run_equals_the_uninterrupted_one(stopped, read_metrics):
    assert stopped.end.code == 0, stopped.end.err
    (whole, whole_run), (pieces, pieces_run) = (
        load_checkpoint(folder / "checkpoints" / "vae.pt") for folder in (stopped.whole, stopped.pieces)
    )
    torch.testing.assert_close(pieces.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert pieces_run.settings == whole_run.settings
    whole_out, pieces_out = (folder / "outputs" / "vae" for folder in (stopped.whole, stopped.pieces))
    assert read_metrics(pieces_out) == read_metrics(whole_out)
    assert {path.name for path in pieces_out.iterdir()} == {path.name for path in whole_out.iterdir()}
    for picture in whole_out.glob("*_from_epoch*.png"):
        assert (pieces_out / picture.name).read_bytes() == picture.read_bytes()
    assert not list(stopped.pieces.rglob("*.tmp"))


def test_stops_exit_as_they_should_and_say_how_to_go_on(stopped):
    interrupted, terminated, killed = stopped.stops
    assert (interrupted.code, terminated.code, killed.code) == (130, 143, -9)
    for stop in (interrupted, terminated):
        (line,) = stop.err
        assert "--resume" in line and "checkpoints/vae.pt" in line


def test_unfinished_checkpoint_is_good_for_the_other_scripts(stopped, call, own_folder):
    assert call("generate", "--checkpoint", stopped.partial).code == 0
    assert Image.open(own_folder / "outputs" / "generated.png").size == (480, 480)


def test_resuming_goes_on_in_the_same_folder_and_precision(call, data_dir, own_folder, monkeypatch):
    """Without a word on either, and whatever --precision auto would choose here today."""
    files = ("--checkpoint", "run.pt", "--data-dir", data_dir)
    other = {"fp32": "bf16", "bf16": "fp32"}
    precision = other[pick_precision("auto", torch.device("cpu"))]

    def stop(row, settings):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "report", stop)
        assert call("train", "--epochs", 2, "--out", "mine", "--precision", precision, *files).code == 130
    assert call("train", "--resume", "--precision", "auto", *files).code == 0
    assert {path.name for path in own_folder.iterdir()} == {"run.pt", "run.pt.lock", "mine"}
    _, run = load_checkpoint("run.pt")
    assert (run.settings.precision, len(run.history)) == (precision, 2)


def test_model_beyond_half_precision_is_kept_whole(call, data_dir, monkeypatch):
    """65,504 is the largest number that half precision has."""
    describe = train.describe

    def describe_and_enlarge(model, *rest):
        model.decoder[0].body[0].running_var.fill_(1e30)
        return describe(model, *rest)

    monkeypatch.setattr(train, "describe", describe_and_enlarge)
    assert call("train", "--epochs", 1, "--data-dir", data_dir).code == 0
    weights = load_checkpoint("checkpoints/vae.pt")[0].state_dict()
    assert weights["decoder.0.body.0.running_var"].max() > 1e29
    assert all(value.isfinite().all() for value in weights.values())


# Generating


def test_generate_draws_what_the_model_decodes(trained, user, model, cells, same_pixels):
    shown = cells(Image.open(trained.folder / "outputs" / "generated.png"), scale=2)
    z = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    assert shown.shape == (8, 8, 28, 28)
    assert same_pixels(shown.reshape(64, 28, 28), model.decode(z))
    assert "outputs/generated.png" in user["generate"].out


def test_generate_counts_rows_and_single_images(trained, call, own_folder, cells):
    options = ("--checkpoint", trained.checkpoint, "--n", 10, "--nrow", 4, "--seed", 5)
    assert call("generate", *options, "--save-images", "digits", "--out", "new/grid.png").code == 0
    shown = cells(Image.open(own_folder / "new" / "grid.png"), scale=2).reshape(-1, 28, 28)
    assert len(shown) == 12 and not shown[10:].any()  # two places of the last row stay empty
    files = sorted((own_folder / "digits").iterdir())
    assert [file.name for file in files] == [f"{i:05d}.png" for i in range(10)]
    for file, digit in zip(files, shown[:10], strict=True):
        assert np.array_equal(Image.open(file), digit)


def test_single_images_take_the_place_of_earlier_ones(trained, call, own_folder, refusal):
    options = ("--checkpoint", trained.checkpoint, "--save-images", "digits")
    for n in (5, 2):
        assert call("generate", *options, "--n", n).code == 0
    assert sorted(os.listdir("digits")) == ["00000.png", "00001.png"]
    shutil.copy("outputs/generated.png", "digits/00007.png")  # of somebody's own data set, say
    assert "00007.png" in refusal(call("generate", *options, "--n", 3))
    line = refusal(call("generate", *options[:2], "--save-images", "new", "--out", "new/00000.png"))
    assert "new/00000.png would be written twice" in line
    assert sorted(os.listdir("digits")) == ["00000.png", "00001.png", "00007.png"]


@pytest.mark.parametrize("script", ["generate", "interpolate"])
def test_same_seed_draws_the_same_bytes_and_another_seed_others(trained, call, data_dir, own_folder, script):
    data = () if script == "generate" else ("--data-dir", data_dir)
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        options = ("--checkpoint", trained.checkpoint, "--seed", seed, "--out", f"{name}.png")
        assert call(script, *options, *data).code == 0
    one, two, other = ((own_folder / f"{name}.png").read_bytes() for name in ("one", "two", "other"))
    assert one == two != other


def test_temperature_scales_z(trained, call, own_folder, model, cells, same_pixels):
    assert call("generate", "--checkpoint", trained.checkpoint, "--temperature", 0.5).code == 0
    z = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    shown = cells(Image.open(own_folder / "outputs" / "generated.png"), scale=2)
    assert same_pixels(shown.reshape(64, 28, 28), model.decode(0.5 * z))


def test_digits_asked_for_come_from_their_own_gaussians(trained, call, own_folder, model, cells, same_pixels):
    """--digit 3 1 4, two of each: a row for each, drawn from the mixture of that class."""
    options = ("--checkpoint", trained.checkpoint, "--digit", 3, 1, 4, "--n", 2, "--seed", 5)
    assert call("generate", *options).code == 0
    shown = cells(Image.open(own_folder / "outputs" / "generated.png"), scale=2)
    assert shown.shape[:2] == (3, 2)
    mixture = load_checkpoint(trained.checkpoint)[1].mixture
    labels = torch.tensor([3, 3, 1, 1, 4, 4])
    z = sample_mixture(mixture, labels, generator=torch.Generator().manual_seed(5))
    assert same_pixels(shown.reshape(6, 28, 28), model.decode(z))


def test_mixture_sampler_draws_other_digits_than_the_prior(trained, call, own_folder):
    for sampler in ("prior", "mixture"):
        options = ("--checkpoint", trained.checkpoint, "--sampler", sampler, "--out", f"{sampler}.png")
        result = call("generate", *options)
        assert result.code == 0 and ("N(0, I)" in result.out) == (sampler == "prior")
    assert (own_folder / "prior.png").read_bytes() != (own_folder / "mixture.png").read_bytes()


def test_manifold_of_two_latents_is_the_plane_itself(call, data_dir, own_folder, cells, same_pixels):
    """20 x 20 images; the corners are the 2 % and 98 % quantiles, y pointing upwards."""
    options = ("--epochs", 1, "--latent-dim", 2, "--data-dir", data_dir)
    assert call("train", *options, "--checkpoint", "two.pt").code == 0
    result = call("generate", "--manifold", "--checkpoint", "two.pt")
    assert result.code == 0 and "generated.png: the latent plane" in result.out
    shown = cells(Image.open(own_folder / "outputs" / "generated.png"), scale=2)
    assert shown.shape[:2] == (20, 20)
    q = Normal(0, 1).icdf(torch.tensor(0.98)).item()
    corners = torch.tensor([[-q, q], [q, q], [-q, -q], [q, -q]])
    model = load_checkpoint("two.pt")[0].requires_grad_(False)
    assert same_pixels(shown[[0, 0, -1, -1], [0, -1, 0, -1]], model.decode(corners))


def test_nrow_counts_for_digits_asked_for_as_well(trained, call, own_folder, cells):
    options = ("--checkpoint", trained.checkpoint, "--digit", 3, 1, "--n", 4, "--nrow", 2)
    result = call("generate", *options)
    assert result.code == 0
    assert cells(Image.open(own_folder / "outputs" / "generated.png"), scale=2).shape[:2] == (4, 2)
    # what comes next is about the same model
    assert result.out.splitlines()[-1].split("   ") == [
        f"next: python explore.py --checkpoint {trained.checkpoint}",
        f"python interpolate.py --checkpoint {trained.checkpoint}",
    ]


# Interpolating


def test_generated_ends_are_the_digits_asked_for_and_need_no_data(
    trained, call, own_folder, model, cells, same_pixels
):
    options = (
        "--checkpoint",
        trained.checkpoint,
        "--data-dir",
        "nowhere",
        "--generated",
        "--out",
        "walk.png",
    )
    result = call("interpolate", *options, "--digits", 3, 8, "--rows", 2, "--steps", 4)
    assert (result.code, result.err) == (0, [])
    shown = cells(Image.open(own_folder / "walk.png"), scale=3)
    assert shown.shape[:2] == (2, 4)
    mixture, generator = load_checkpoint(trained.checkpoint)[1].mixture, torch.Generator().manual_seed(0)
    for column, digit in ((0, 3), (-1, 8)):
        z = sample_mixture(mixture, torch.tensor([digit, digit]), generator=generator)
        assert same_pixels(shown[:, column], model.decode(z))


def test_interpolation_goes_from_one_image_to_the_other(
    trained, call, data_dir, own_folder, model, test_images, cells, same_pixels
):
    """Originals at the far ends, reconstructions beside them, and a straight line between."""
    options = ("--checkpoint", trained.checkpoint, "--data-dir", data_dir, "--method", "linear")
    assert call("interpolate", *options, "--index", 3, 77, "--steps", 5, "--out", "walk.png").code == 0
    (shown,) = cells(Image.open(own_folder / "walk.png"), scale=3)
    assert len(shown) == 7
    ends = test_images[[3, 77]]
    assert same_pixels(shown[[0, -1]], ends)
    mu, _ = model.encode(ends)
    assert same_pixels(shown[[1, -2]], model.decode(mu))
    assert same_pixels(shown[3], model.decode(mu.mean(0, keepdim=True)))


def test_slerp_keeps_the_ends_and_the_angles(
    trained, call, data_dir, own_folder, model, test_images, cells, same_pixels
):
    """Halfway, slerp is (a + b) / (2 cos(angle / 2)), by the identity sin(t) = 2 sin(t / 2) cos(t / 2)."""
    options = ("--checkpoint", trained.checkpoint, "--data-dir", data_dir, "--method", "slerp")
    assert call("interpolate", *options, "--index", 3, 77, "--steps", 3, "--out", "walk.png").code == 0
    (shown,) = cells(Image.open(own_folder / "walk.png"), scale=3)
    a, b = mu = model.encode(test_images[[3, 77]])[0]
    half_angle = torch.acos(a @ b / (a.norm() * b.norm())) / 2
    assert same_pixels(shown[[1, 3]], model.decode(mu))
    assert same_pixels(shown[2], model.decode(((a + b) / (2 * half_angle.cos()))[None]))


def test_interpolation_between_an_image_and_itself(trained, call, data_dir, own_folder, cells):
    """The angle between the ends is zero, and slerp divides by its sine."""
    options = ("--checkpoint", trained.checkpoint, "--data-dir", data_dir)
    assert call("interpolate", *options, "--index", 7, 7, "--out", "walk.png").code == 0
    (shown,) = cells(Image.open(own_folder / "walk.png"), scale=3)
    drawn = shown[1:-1].astype(int)
    assert np.abs(drawn - drawn[0]).max() <= 1 and drawn.any()  # a place in the batch may move a rounding


def test_interpolation_rows_show_the_digits_asked_for(trained, call, data_dir, own_folder, digits, cells):
    options = ("--checkpoint", trained.checkpoint, "--data-dir", data_dir, "--out", "walk.png")
    assert call("interpolate", *options, "--digits", 4, 9, "--rows", 5, "--steps", 2).code == 0
    shown = cells(Image.open(own_folder / "walk.png"), scale=3)
    assert shown.shape[:2] == (5, 4)
    images, labels = digits.test
    for column, digit in ((0, 4), (-1, 9)):
        for original in shown[:, column]:
            assert (images[labels == digit] == original).all((1, 2)).any()


def test_gif_goes_there_and_back(trained, user):
    """24 images there, 22 back without the two ends; it rests at both ends."""
    assert Image.open(trained.folder / "outputs" / "interpolation.png").size == (12 * 90, 90)
    with Image.open(trained.folder / "outputs" / "interpolation.gif") as gif:
        frames, times = [], []
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("L")).astype(int))
            times.append(gif.info["duration"])
        assert gif.info["loop"] == 0  # for ever
    assert sum(times) == 2 * 700 + 44 * 60  # frames that look alike may be merged into one longer one
    assert 20 < len(frames) <= 46
    assert times.count(max(times)) == 2
    assert (frames[0] != frames[times[1:].index(max(times)) + 1]).any()
    assert (frames[1] == frames[-1]).all()


# Mapping


def test_tsne_draws_a_plot_and_a_map_of_the_digits(trained, user):
    plot = np.asarray(Image.open(trained.folder / "outputs" / "tsne.png").convert("RGB"))
    thumbnails = np.asarray(Image.open(trained.folder / "outputs" / "tsne_map.png").convert("L"))
    assert min(plot.shape[:2]) > 1000
    assert len(np.unique(plot.reshape(-1, 3), axis=0)) > 100  # ten colours and their blends, not a blank page
    assert thumbnails.shape == (1600, 1600)
    drawn = (thumbnails < 250).reshape(80, 20, 80, 20).any((1, 3)).sum()
    assert 50 < drawn <= 100  # of 100 digits; some may fall on the same place
    assert "t-SNE of 100 test images" in user["tsne"].out  # all that there are


def test_tsne_of_a_one_dimensional_latent_space(call, data_dir, own_folder):
    options = ("--data-dir", data_dir, "--checkpoint", "one.pt")
    assert call("train", "--epochs", 1, "--latent-dim", 1, *options).code == 0
    assert call("tsne", "--perplexity", 5, *options).code == 0
    assert (own_folder / "outputs" / "tsne_map.png").exists()


def test_map_shows_whole_images_and_pale_ones():
    """A line along each edge, as shoes and bags reach it, in a faint gray."""
    image = np.zeros((28, 28), np.uint8)
    image[[0, -1]] = image[:, [0, -1]] = 40
    picture = tsne.thumbnail_map(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([3, 3]), [image, image])
    cell = np.asarray(picture.convert("L"))[-20:, :20]  # the first of them, at the lower left
    for edge in (cell[0], cell[-1], cell[:, 0], cell[:, -1]):
        assert edge.max() < 180
    assert cell[10, 10] > 250


def test_map_of_more_classes_than_have_room_for_a_name():
    points = np.random.default_rng(0).normal(size=(80, 2))
    figure = tsne.scatter(points, np.arange(80) % 40, [f"class {number}" for number in range(40)])
    assert len(figure.axes[0].texts) == 0 and len(figure.axes[0].get_legend().get_texts()) == 40


def test_curves_of_one_epoch_have_one_tick():
    row = {"epoch": 1, "train_loss": 3.0, "test_loss": 2.0}
    figure = pictures.loss_curves([row], "test")
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1]


# Evaluating


def test_class_names_stand_over_their_columns():
    names = DATASETS["fashion-mnist"][1]
    numbers = {"frechet": 1.0, "confidence": 0.9, "share": [0.1] * 9 + [1.0]}
    samples = dict.fromkeys(("train", "recon", "prior", "mixture"), numbers)
    samples |= {"n": 10, "seed": 0, "temperature": 0.9, "judge_accuracy": 1.0, "asked_for": 1.0}
    samples |= {"meaningful": True, "floor": 0.3, "halves": 10}
    _, _, header, *rows, floor, _ = sample_table(samples, names, "test").splitlines()
    assert "10 training images are 0.30 from as many others" in floor
    ends = [header.index(name) + len(name) for name in names]
    for row in rows:
        assert [row[end - 4 : end] for end in ends] == ["10.0"] * 9 + ["00.0"]


def test_what_comes_next_is_about_the_same_data(trained, user, data_dir):
    """Called as the scripts themselves were: here by their whole paths."""
    assert trained.stdout.splitlines()[-1].endswith(f"python {ROOT}/evaluate.py --data-dir {data_dir}")
    assert user["tsne"].out.splitlines()[-1] == f"next: python {ROOT}/interpolate.py --data-dir {data_dir}"


def test_numbers_against_torch_distributions(trained, user, model, test_images, digits):
    numbers = json.loads((trained.folder / "numbers.json").read_text())
    assert numbers["negative_elbo"] == pytest.approx(numbers["bce"] + numbers["kld"], rel=1e-6)
    assert (numbers["images"], numbers["source"], numbers["pixels"]) == (100, "full", "gray")
    assert numbers["draws"] == 50 and numbers["latent_dim"] == 8

    mu, logvar = model.encode(test_images)
    posterior = Normal(mu, (0.5 * logvar).exp())
    kld = kl_divergence(posterior, Normal(0, 1)).sum(1)
    assert numbers["kld"] == pytest.approx(kld.mean().item(), rel=1e-4)

    def bce(z):
        p = Bernoulli(logits=model.decode_logits(z), validate_args=False)  # which takes gray levels as well
        return -p.log_prob(test_images).sum((1, 2, 3))

    assert numbers["bce_at_mu"] == pytest.approx(bce(mu).mean().item(), rel=1e-4)
    torch.manual_seed(123)  # other draws than the script's: equal up to their noise
    draws = torch.stack([bce(posterior.sample()) for _ in range(50)])
    noise = draws.mean(1).std().item() / math.sqrt(50)
    assert numbers["bce"] == pytest.approx(draws.mean().item(), abs=7 * noise)
    standard_error = (draws.mean(0) + kld).std().item() / math.sqrt(100)
    assert numbers["negative_elbo_se"] == pytest.approx(standard_error, rel=0.05)

    gray = test_images.double().clamp(1e-12, 1 - 1e-12)
    floor = -(gray * gray.log() + (1 - gray) * (1 - gray).log()).sum() / 100
    assert numbers["bce_floor"] == pytest.approx(floor.item(), rel=1e-4)
    assert numbers["active_units"] == int((mu.numpy().var(0, ddof=1) > 0.01).sum())

    train_mu = model.encode(torch.from_numpy(digits.train[0])[:, None] / 255)[0]
    nearest = torch.cdist(mu.double(), train_mu.double()).argsort(1)[:, :10].numpy()
    votes = [np.bincount(digits.train[1][row], minlength=10) for row in nearest]
    shared = [
        (own[label] == own.max()) / (own == own.max()).sum()
        for own, label in zip(votes, digits.test[1], strict=True)
    ]
    assert numbers["knn_accuracy"] == pytest.approx(np.mean(shared), abs=0.011)  # equally far points

    for key in ("negative_elbo", "bce", "kld"):
        assert f"{numbers[key]:.2f}" in user["evaluate"].out


def test_training_and_evaluation_agree(trained, user, read_metrics):
    """One in the precision of training and one draw, the other in float32 and 50."""
    numbers = json.loads((trained.folder / "numbers.json").read_text())
    last = read_metrics(trained.out)[-1]
    assert last["test_loss"] == pytest.approx(numbers["negative_elbo"], rel=0.02)
    assert last["test_kld"] == pytest.approx(numbers["kld"], rel=0.02)


def test_importance_weighted_numbers_in_both_precisions(trained, call, data_dir, own_folder):
    numbers = {}
    for precision in ("fp32", "bf16"):
        options = ("--iw-samples", 30, "--precision", precision, "--draws", 30, "--json", "iw.json")
        result = call("evaluate", "--checkpoint", trained.checkpoint, "--data-dir", data_dir, *options)
        assert result.code == 0
        numbers[precision] = json.loads((own_folder / "iw.json").read_text())
        assert f"{numbers[precision]['nll']:.2f}" in result.out
        assert "IW bound, K = 30 " in result.out and "log p" not in result.out  # gray pixels have no p(x)
    # tighter than the ELBO, and the precision does not matter
    assert numbers["fp32"]["nll"] < numbers["fp32"]["negative_elbo"]
    assert 0 < abs(numbers["bf16"]["nll"] - numbers["fp32"]["nll"]) < 0.3


def test_wider_importance_samples_are_named(trained, call, data_dir, own_folder):
    options = ("--iw-samples", 30, "--iw-spread", 1.35, "--json", "iw.json", "--data-dir", data_dir)
    result = call("evaluate", "--checkpoint", trained.checkpoint, *options)
    numbers = json.loads((own_folder / "iw.json").read_text())
    assert result.code == 0 and f"z 1.35 times as wide; {numbers['precision']}" in result.out
    assert numbers["iw_spread"] == 1.35 and numbers["nll"] < numbers["negative_elbo"]


def test_judged_samples(trained, call, data_dir, own_folder):
    """Twice: the second time with the judge that the first one trained and kept."""
    options = ("--checkpoint", trained.checkpoint, "--data-dir", data_dir, "--samples", "--json", "n.json")
    results = []
    for _ in range(2):
        result = call("evaluate", *options)
        assert result.code == 0
        results.append(json.loads((own_folder / "n.json").read_text())["samples"])
    assert results[0] == results[1] and len(list((own_folder / "outputs").glob("judge-*.pt"))) == 1
    samples = results[0]
    assert (samples["n"], samples["seed"]) == (100, 0) and samples["judge_accuracy"] > 0.2
    for kind in ("train", "recon", "prior", "mixture"):
        assert len(samples[kind]["share"]) == 10 and sum(samples[kind]["share"]) == pytest.approx(1)
        assert 0.1 < samples[kind]["confidence"] <= 1
    # a model of three epochs on 300 digits draws nothing like them, and the training images are digits
    assert 0 < samples["train"]["frechet"] < min(samples[kind]["frechet"] for kind in ("recon", "prior"))
    assert f"{samples['asked_for']:.1%}" in result.out
    assert not samples["meaningful"] and "no distances: they need 300 test images" in result.out
    assert samples["halves"] == 100 and samples["floor"] > 0
