"""encode.py, the traversal, and every script on images of three classes, of twelve, and of none."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import load_dataset
from PIL import Image
from torch.distributions import Normal

import explore
from mixture import fit_mixture, sample_labels, sample_mixture
from model import ConvVAE
from support.checkpoint import load_checkpoint, save_checkpoint
from support.measures import most_likely_class

LETTERS = [f"{letter}-like" for letter in "abcdefghijkl"]


def rows_of(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def column(rows, name):
    return torch.tensor([float(row[name]) for row in rows])


@pytest.fixture(scope="module")
def model(trained):
    return load_checkpoint(trained.checkpoint)[0].requires_grad_(False)


@pytest.fixture(scope="module")
def own(run, digits, tmp_path_factory):
    """A function that trains on a folder of so many classes: the folder, the checkpoint and the names."""
    made = {}

    def own(classes, size=28):
        if (classes, size) not in made:
            folder = tmp_path_factory.mktemp("own")
            names = LETTERS[:classes]
            for i, image in enumerate(digits.train[0]):
                path = folder / "letters" / (names[i % classes] if names else ".") / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).resize((size + 5, size)).save(path)
            options = ("--dataset", "letters", "--epochs", 1, "--image-size", size, "--latent-dim", 4)
            result = run("train", *options, cwd=folder)
            assert result.code == 0, result.err
            checkpoint = folder / "checkpoints" / "vae.pt"
            made[classes, size] = SimpleNamespace(folder=folder, checkpoint=checkpoint, names=names)
        return made[classes, size]

    return own


# Every script


@pytest.mark.parametrize("classes, size", [(3, 40), (12, 28), (0, 28)])
def test_every_script_on_images_of_ones_own(own, call, monkeypatch, classes, size):
    run = own(classes, size)
    monkeypatch.chdir(run.folder)
    cell = 2 * (size + 2)
    loaded, state = load_checkpoint(run.checkpoint)
    assert state.classes == run.names and loaded.config["image_size"] == state.settings.image_size == size
    assert len(state.mixture["share"]) == max(1, classes)
    assert Image.open("outputs/vae/img_from_epoch1.png").size == (8 * cell, 8 * cell)

    def out_of(script, *args):
        result = call(script, *args)
        assert (result.code, result.err) == (0, [])
        return result.out

    assert f"wrote {'outputs/generated.png'}" in out_of(
        "generate", "--sampler", "mixture", "--n", 6, "--nrow", 3
    )
    assert Image.open("outputs/generated.png").size == (3 * cell, 2 * cell)
    out_of("generate", "--manifold")
    out_of("generate", "--traverse")
    walk = out_of("interpolate", "--rows", 2, "--steps", 3)
    made = out_of("interpolate", "--generated", "--steps", 3)
    assert "classes" not in out_of("tsne", "--perplexity", 5)
    numbers = out_of("evaluate", "--draws", 1)
    out_of("encode", "--split", "test", "--draws", 1)
    rows = rows_of("outputs/encoded.csv")
    assert {row["label"] for row in rows} == set(run.names or [""])
    assert {row["class"] for row in rows} <= set(run.names or [""])
    assert all((run.folder / "letters" / row["file"]).exists() for row in rows)
    if not classes:
        assert "accuracy" not in numbers and "generated image to a generated image" in made
        return
    assert "10-NN accuracy" in numbers
    ends = (3, 8) if classes > 8 else (0, classes - 1)
    assert f"a generated {run.names[ends[0]]} to a generated {run.names[ends[1]]}" in made
    assert walk.count(f"({run.names[ends[0]]}) to test image") == 2
    assert f"({run.names[1]}) to test image" in out_of("interpolate", "--digits", run.names[1].upper(), 2)
    drawn = out_of("generate", "--digit", run.names[2], "0", "--n", 5)
    assert f"5 of each of {run.names[2]} {run.names[0]}, seed 0" in drawn
    assert f"5 of {run.names[1]}, seed 0" in out_of("generate", "--digit", run.names[1], "--n", 5)
    judged = out_of("evaluate", "--draws", 1, "--samples", "--json", "numbers.json")
    assert " ".join(run.names).split() == [w for w in judged.split() if w.endswith("-like")]
    samples = json.loads((run.folder / "numbers.json").read_text())["samples"]
    assert len(samples["mixture"]["share"]) == classes


def test_classes_of_the_known_data_sets_have_names_everywhere(call, write_data, own_folder):
    write_data(own_folder / "data", "FashionMNIST")
    assert call("train", "--epochs", 1, "--dataset", "fashion-mnist").code == 0
    result = call("interpolate", "--digits", "Sneaker", "bag")
    assert result.code == 0 and "(sneaker) to test image" in result.out and "(bag), slerp" in result.out
    result = call("interpolate", "--digits", "sneaker", "8", "--generated")
    assert result.code == 0 and "a generated sneaker to a generated bag, slerp" in result.out
    assert "5 of dress, seed 0" in call("generate", "--digit", "dress", "--n", 5).out
    assert "5 of each of dress bag, seed 0" in call("generate", "--digit", "dress", 8, "--n", 5).out
    assert "around a boot" in call("generate", "--digit", "boot", "--traverse", "--n", 2).out


@pytest.mark.parametrize(
    "script, args",
    [("generate", ("--digit", "a")), ("interpolate", ("--digits", "0", "0")), ("evaluate", ("--samples",))],
)
def test_what_needs_classes_is_refused_without(own, call, refusal, monkeypatch, script, args):
    run = own(0)
    monkeypatch.chdir(run.folder)
    line = refusal(call(script, *args))
    assert args[0] in line and "leave" in line


def test_class_that_there_is_not_names_those_there_are(own, call, refusal, monkeypatch):
    monkeypatch.chdir(own(3, 40).folder)
    for script, flag, more in (("generate", "--digit", ()), ("interpolate", "--digits", ("0",))):
        line = refusal(call(script, flag, "hat", *more))
        assert f"{flag} hat is not one of 0 to 2 or of a-like, b-like, c-like" in line


def test_model_of_one_size_refuses_images_of_another():
    for size in (28, 40):
        model = ConvVAE(latent_dim=2, hidden_dim=8, image_size=size).eval()
        x = torch.rand(3, 1, size, size)
        logits, mu, _ = model(x)
        assert logits.shape == x.shape and mu.shape == (3, 2) and model.sample(4).shape == (4, 1, size, size)
        for shape in (
            (3, 1, size + 1, size + 1),
            (3, 1, size, size + 2),
            (3, 3, size, size),
            (1, size, size),
        ):
            with pytest.raises(ValueError, match=f"1, {size}, {size}"):
                model.encode(torch.rand(shape))
    for size in (30, 0, -4):
        with pytest.raises(ValueError, match="multiple of 4"):
            ConvVAE(image_size=size)


# Encoding


def test_mean_of_a_split_is_evaluates_and_its_rows_are_the_images(
    trained, call, data_dir, own_folder, model, digits
):
    options = ("--checkpoint", trained.checkpoint, "--data-dir", data_dir, "--draws", 3, "--seed", 4)
    result = call("encode", "--split", "test", *options, "--npz", "z.npz")
    assert (result.code, result.err) == (0, [])
    assert call("evaluate", *options, "--json", "numbers.json").code == 0
    numbers = json.loads((own_folder / "numbers.json").read_text())
    rows = rows_of("outputs/encoded.csv")
    assert [row["index"] for row in rows] == [str(i) for i in range(100)]
    for name in ("bce", "kld", "negative_elbo"):
        assert column(rows, name).mean().item() == pytest.approx(numbers[name], rel=1e-5)
    parts = [f"{numbers[name]:.2f}" for name in ("negative_elbo", "bce", "kld")]
    assert "mean -ELBO {} = BCE {} + KL {}".format(*parts) in result.out

    images, labels = (torch.from_numpy(array) for array in digits.test)
    mu, logvar = model.encode(images[:, None] / 255)
    found = {name: torch.stack([column(rows, f"{name}{i}") for i in range(8)], 1) for name in ("mu", "std")}
    torch.testing.assert_close(found["mu"], mu, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["std"], (0.5 * logvar).exp(), rtol=1e-4, atol=1e-5)
    assert [row["label"] for row in rows] == [str(label) for label in labels.tolist()]
    mixture = load_checkpoint(trained.checkpoint)[1].mixture
    assert [row["class"] for row in rows] == [str(c) for c in most_likely_class(mixture, mu).tolist()]

    arrays = np.load(own_folder / "z.npz")
    assert np.array_equal(arrays["name"], np.arange(100)) and list(arrays["label"]) == [
        r["label"] for r in rows
    ]
    for name in ("mu", "std"):
        np.testing.assert_allclose(arrays[name], found[name], rtol=1e-6)
    np.testing.assert_allclose(arrays["negative_elbo"], arrays["bce"] + arrays["kld"], rtol=1e-6)


def test_strangest_images_stand_in_order(trained, call, data_dir, own_folder, digits):
    options = ("--checkpoint", trained.checkpoint, "--data-dir", data_dir, "--out", "t.csv")
    result = call("encode", "--split", "test", *options)
    order = column(rows_of("t.csv"), "negative_elbo").argsort(descending=True)[:64]
    picture = np.asarray(Image.open("t_strangest.png"))[::2, ::2].reshape(8, 30, 8, 30).swapaxes(1, 2)
    assert np.array_equal(picture[:, :, 1:-1, 1:-1].reshape(64, 28, 28), digits.test[0][order])
    assert result.out.index(f"  {order[0]} (") < result.out.index(f"  {order[1]} (")


@pytest.mark.parametrize("split, count", [("train", 300), ("validation", 50)])
def test_other_splits(trained, call, data_dir, split, count):
    options = ("--checkpoint", trained.checkpoint, "--data-dir", data_dir, "--draws", 1)
    assert call("encode", "--split", split, *options).code == 0
    rows = rows_of("outputs/encoded.csv")
    assert len(rows) == count == len(load_dataset("mnist", data_dir, split).images)


def test_binarized_split_is_measured_as_evaluate_does(call, data_dir, own_folder):
    options = ("--checkpoint", "b.pt", "--data-dir", data_dir)
    assert call("train", "--epochs", 1, "--binarize", *options).code == 0
    assert call("encode", "--split", "test", *options).code == 0
    assert call("evaluate", "--json", "n.json", *options).code == 0
    numbers = json.loads((own_folder / "n.json").read_text())
    rows = rows_of("outputs/encoded.csv")
    assert column(rows, "negative_elbo").mean().item() == pytest.approx(numbers["negative_elbo"], rel=1e-5)


def test_png_of_a_test_image_gives_its_mu(trained, call, own_folder, model, digits):
    """By file and by folder; with a picture of the original above its reconstruction."""
    (own_folder / "more").mkdir()
    for i, path in ((7, "seven.png"), (8, "more/a.png"), (9, "more/b.png")):
        Image.fromarray(digits.test[0][i]).save(path)
    result = call("encode", "--checkpoint", trained.checkpoint, "seven.png", "more")
    assert (result.code, result.err) == (0, []) and "resized" not in result.out
    rows = rows_of("outputs/encoded.csv")
    assert [row["file"] for row in rows] == ["seven.png", "more/a.png", "more/b.png"]
    x = torch.from_numpy(digits.test[0][7:10])[:, None] / 255
    mu, logvar = model.encode(x)
    for i in range(8):
        torch.testing.assert_close(column(rows, f"mu{i}"), mu[:, i], rtol=1e-4, atol=1e-5)
    kld = torch.distributions.kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0, 1)).sum(1)
    torch.testing.assert_close(column(rows, "kld"), kld, rtol=1e-4, atol=1e-4)
    shown = np.asarray(Image.open("outputs/encoded.png"))[::2, ::2].reshape(2, 30, 3, 30).swapaxes(1, 2)
    shown = shown[:, :, 1:-1, 1:-1]
    assert np.array_equal(shown[0], digits.test[0][7:10])
    assert np.abs(shown[1] - 255 * model.decode(mu)[:, 0].numpy()).max() <= 1


def test_files_are_inverted_as_asked_or_as_the_model_knows_them(trained, call, digits, own_folder):
    Image.fromarray(digits.test[0][7]).save("light.png")
    Image.fromarray(255 - digits.test[0][7]).save("dark.png")
    found = []
    for args in (("light.png",), ("dark.png", "--invert")):
        assert call("encode", "--checkpoint", trained.checkpoint, *args).code == 0
        found.append(rows_of("outputs/encoded.csv")[0]["mu0"])
    assert found[0] == found[1]
    result = call("encode", "--checkpoint", trained.checkpoint, "dark.png")
    assert any("--invert" in line for line in result.err)
    letters = own_folder / "letters"
    letters.mkdir()
    for i in range(24):
        Image.fromarray(255 - digits.train[0][i]).save(letters / f"{i}.png")
    assert call("train", "--dataset", letters, "--epochs", 1, "--invert", "--checkpoint", "dark.pt").code == 0
    values = []
    for name, args in (("dark", ()), ("light", ("--no-invert",))):
        result = call("encode", "--checkpoint", "dark.pt", f"{name}.png", *args)
        assert (result.code, result.err) == (0, [])
        values.append(rows_of("outputs/encoded.csv")[0]["mu0"])
    assert values[0] == values[1]


def test_image_of_another_size_is_resized_and_said(trained, call, own, digits):
    Image.fromarray(digits.test[0][7]).resize((90, 60)).save("large.png")
    result = call("encode", "--checkpoint", trained.checkpoint, "large.png", "--center")
    assert result.code == 0 and "pictures of 90 x 60 pixels, read as 28 x 28" in result.out
    result = call("encode", "--checkpoint", own(3, 40).checkpoint, "large.png")
    assert "pictures of 90 x 60 pixels, read as 40 x 40" in result.out


def test_blank_images_and_files_that_are_none_are_told_of(trained, call, own_folder, digits):
    (own_folder / "mine").mkdir()
    Image.fromarray(digits.test[0][7]).save("mine/a.png")
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save("mine/b.png")  # black ink, say, on a transparent page
    (own_folder / "mine" / "c.heic").write_bytes(b"of a telephone")
    result = call("encode", "--checkpoint", trained.checkpoint, "mine")
    others, blank = result.err
    assert result.code == 0 and len(rows_of("outputs/encoded.csv")) == 2
    assert "left out 1 " in others and "c.heic" in others
    assert "1 of the images are blank" in blank and "b.png" in blank and "try with --invert" in blank


def test_unfinished_run_has_no_classes_to_take_images_for(stopped, call, data_dir):
    options = ("--checkpoint", stopped.partial, "--data-dir", data_dir, "--draws", 1, "--npz", "z.npz")
    assert call("encode", "--split", "test", *options).code == 0
    assert {row["class"] for row in rows_of("outputs/encoded.csv")} == {""}


@pytest.mark.parametrize(
    "args, word",
    [
        ((), "--split"),
        (("a.png", "--split", "test"), "--split"),
        (("--split", "dev"), "--split"),
        (("--split", "test", "--center"), "--center"),
        (("--split", "test", "--invert"), "--invert"),
        (("nowhere.png",), "nowhere.png"),
        (("text.png",), "text.png"),
        (("empty",), "empty"),
        (("text.png", "--skip-bad"), "could be read"),
        (("good.png", "--out", "z.npz"), ".csv"),
        (("good.png", "--draws", 0), "--draws"),
        (("good.png", "--checkpoint", "text.png"), "text.png"),
    ],
)
def test_encoding_that_cannot_be(trained, call, refusal, own_folder, digits, args, word):
    Image.fromarray(digits.test[0][7]).save("good.png")
    (own_folder / "text.png").write_text("hello")
    (own_folder / "empty").mkdir()
    assert word in refusal(call("encode", "--checkpoint", trained.checkpoint, *args))
    assert not (own_folder / "outputs").exists()


def test_bad_file_among_good_ones_is_left_out_on_demand(trained, call, own_folder, digits):
    Image.fromarray(digits.test[0][7]).save("good.png")
    (own_folder / "text.png").write_text("hello")
    result = call("encode", "--checkpoint", trained.checkpoint, "text.png", "good.png", "--skip-bad")
    assert result.code == 0 and any("left out 1 of 2 files" in line for line in result.err)
    assert [row["file"] for row in rows_of("outputs/encoded.csv")] == ["good.png"]


def test_names_from_files_are_shown_and_not_obeyed(trained, call, own_folder, digits):
    """Neither by a terminal nor by a spreadsheet."""
    loaded, state = load_checkpoint(trained.checkpoint)
    state.settings = replace(state.settings, from_="\x1b[2J\nnext: a.pt")
    save_checkpoint("passed on.pt", loaded, state)
    for name in ("\x1b[31mred\n.png", "=1+1.png"):
        Image.fromarray(digits.test[0][7]).save(name)
    (own_folder / "bad\x1b[31m.png").write_text("hello")
    files = ("\x1b[31mred\n.png", "=1+1.png", "bad\x1b[31m.png")
    result = call("encode", "--checkpoint", "passed on.pt", *files, "--skip-bad")
    assert result.code == 0 and "\x1b" not in result.out + result.err[0]
    assert r"started from \x1b[2J\nnext: a.pt" in result.out and r"\x1b[31mred\n.png   -ELBO" in result.out
    assert len(result.err) == 1 and r"bad\x1b[31m.png" in result.err[0]
    assert [row["file"] for row in rows_of("outputs/encoded.csv")] == [files[0], "'=1+1.png"]


def test_what_leaves_this_machine_does_not_say_whose_it_is(call, digits, own_folder, monkeypatch):
    """A finished checkpoint, a table and a page: no name of the home folder, which is the user's."""
    home = own_folder / "user-no-1"  # which no base64 has in it
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "work")
    photos = home / "photos"
    for i, image in enumerate(digits.train[0]):
        (photos / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(photos / str(i % 2) / f"{i}.png")
    assert call("train", "--dataset", photos, "--epochs", 1).code == 0
    assert load_checkpoint("checkpoints/vae.pt")[1].settings.dataset == "../photos"
    assert call("encode", photos, "--npz", "outputs/z.npz").code == 0
    monkeypatch.setattr(explore, "DIGITS", 40)
    assert call("explore").code == 0
    left = [Path("checkpoints/vae.pt"), *Path("outputs").glob("*.*")]
    assert len(left) == 5  # with the table's picture
    for path in left:
        content = path.read_bytes()
        assert not any(home.name.encode(code) in content for code in ("utf-8", "utf-32-le")), path


def test_most_likely_class_against_scipy():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(600, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5])
    labels = torch.arange(600) % 3
    z[labels == 1] += torch.tensor([1.5, 0.0, 0.5])
    mixture = fit_mixture(z, labels)
    mixture["share"] = torch.tensor([0.7, 0.2, 0.1])
    queries = torch.randn(50, 3, generator=generator) * 2
    scores = np.zeros((50, 3))
    for c in range(3):
        for weight, mean, factor in zip(
            *(mixture[k][c].double() for k in ("weights", "means", "cholesky")), strict=True
        ):
            normal = scipy.stats.multivariate_normal(mean.numpy(), (factor @ factor.T).numpy())
            scores[:, c] += mixture["share"][c].item() * weight.item() * normal.pdf(queries.numpy())
    assert np.array_equal(most_likely_class(mixture, queries), scores.argmax(1))
    assert len(set(scores.argmax(1))) == 3


# The traversal


def test_traversal_changes_one_coordinate_at_a_time(trained, call, model):
    options = ("--checkpoint", trained.checkpoint, "--traverse", "--digit", 7, "--n", 5, "--seed", 3)
    result = call("generate", *options)
    assert result.code == 0 and "5 latents from -3 to 3 around a 7, seed 3" in result.out
    picture = np.asarray(Image.open("outputs/generated.png"))
    height, width = 5 * 60, 13 * 60
    assert picture[:-height].max() == 255 and (picture[:-height] < 100).any()  # names of columns on paper
    body = picture[-height:, -width:][::2, ::2].reshape(5, 30, 13, 30).swapaxes(1, 2)[:, :, 1:-1, 1:-1]
    mixture, generator = load_checkpoint(trained.checkpoint)[1].mixture, torch.Generator().manual_seed(3)
    z = sample_mixture(mixture, torch.tensor([7]), generator=generator)
    shown, changes = [], []
    for latent in range(8):
        row = z.repeat(13, 1)
        row[:, latent] = torch.linspace(-3, 3, 13)
        shown.append((255 * model.decode(row)[:, 0]).numpy())
    order = [min(range(8), key=lambda i: np.abs(shown[i] - row).max()) for row in body]
    assert len(set(order)) == 5
    for latent, row in zip(order, body, strict=True):
        assert np.abs(shown[latent] - row).max() <= 1
    # the most active first, by an independent count: how far images of all classes move
    points = sample_mixture(mixture, sample_labels(mixture, 500, torch.Generator().manual_seed(99)))
    for latent in range(8):
        ends = [points.clone().index_fill_(1, torch.tensor([latent]), end) for end in (-1.0, 1.0)]
        changes.append((model.decode(ends[0]) - model.decode(ends[1])).square().sum().item())
    assert sorted(range(8), key=lambda i: -changes[i])[:2] == order[:2] or changes[order[0]] > 0.8 * max(
        changes
    )
    assert [changes[i] for i in order] == pytest.approx(
        sorted((changes[i] for i in order), reverse=True), rel=0.3
    )


def test_traversal_without_a_class(trained, call, own_folder):
    outputs = []
    for seed in (1, 1, 2):
        options = ("--checkpoint", trained.checkpoint, "--traverse", "--seed", seed)
        result = call("generate", *options)
        assert result.code == 0 and "8 latents" in result.out
        outputs.append((own_folder / "outputs" / "generated.png").read_bytes())
    assert outputs[0] == outputs[1] != outputs[2]


@pytest.mark.parametrize(
    "args", [("--manifold",), ("--sampler", "mixture"), ("--nrow", 3), ("--digit", 1, 2)], ids=str
)
def test_what_does_not_go_with_a_traversal(trained, call, refusal, args):
    line = refusal(call("generate", "--checkpoint", trained.checkpoint, "--traverse", *args))
    assert "--traverse" in line and str(args[0]) in line


def test_moved_checkpoint_of_a_folder_draws_without_it(own, call, own_folder):
    shutil.copy(own(3, 40).checkpoint, "mine.pt")
    assert call("generate", "--checkpoint", "mine.pt", "--digit", "b-like").code == 0


def test_pipe_for_an_image_is_refused_at_once(call, refusal, trained, own_folder):
    os.mkfifo(own_folder / "pipe.png")
    assert "pipe.png is not a file" in refusal(call("encode", "--checkpoint", trained.checkpoint, "pipe.png"))


def test_name_of_a_file_is_one_line(call, trained, own_folder):
    Image.new("L", (28, 28)).save(own_folder / "a.png")
    os.rename("a.png", "a\nnext: b.png")
    result = call("encode", "--checkpoint", trained.checkpoint, "a\nnext: b.png")
    assert result.code == 0 and "a\\nnext: b.png   -ELBO" in result.out


def test_classes_of_other_names_are_not_compared(call, trained, own_folder, digits):
    images, labels = digits.test
    for names, compared in ((labels.astype(str), True), (np.char.add("d", labels.astype(str)), False)):
        np.savez("own.npz", images=images, labels=names)
        result = call("encode", "--checkpoint", trained.checkpoint, "own.npz")
        assert result.code == 0 and ("for what they are" in result.out) == compared
