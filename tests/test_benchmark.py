"""The benchmark: its ratios are those of its times, its FLOPs those counted by hand, and both ways learn."""

import copy
import functools
import json

import pytest
import torch

from benchmark import our_way
from data import Split
from model import ConvVAE
from optimizer import MuonAdamW, make_optimizer
from settings import Settings
from support.device import mix_seed
from support.usual import usual_layers, usual_way
from train import train_epoch, train_step


def test_ratios(call, data_dir, own_folder):
    options = ("--rounds", 3, "--steps", 2, "--batch-size", 50, "--precision", "fp32", "--data-dir", data_dir)
    result = call("benchmark", *options, "--json", "numbers.json")
    assert result.code == 0
    numbers = json.loads((own_folder / "numbers.json").read_text())
    assert (numbers["images_a_round"], numbers["rounds"], numbers["precision"]) == (100, 3, "fp32")
    low, high = numbers["speedup_range"]
    assert 0 < low <= numbers["speedup"] <= high
    # the medians of the ratios and the ratio of the medians are not the same, but of one size
    assert numbers["speedup"] == pytest.approx(
        numbers["images_per_s"] / numbers["images_per_s_usual"], rel=0.7
    )
    assert f"{numbers['speedup']:.2f} times" in result.out


def test_batch_larger_than_the_data_set_counts_no_image_twice(call, data_dir, own_folder):
    for size, images in ((50, 50), (1000, 300)):  # there are 300
        options = ("--rounds", 1, "--steps", 1, "--batch-size", size, "--data-dir", data_dir)
        assert call("benchmark", *options, "--json", "numbers.json").code == 0
        assert json.loads((own_folder / "numbers.json").read_text())["images_a_round"] == images


def test_usual_layers_are_the_same_function(digits):
    torch.manual_seed(0)
    model, x = ConvVAE(hidden_dim=32).eval(), torch.from_numpy(digits.test[0])[:, None] / 255
    usual = usual_layers(model)
    assert [type(layer).__name__ for layer in usual.encoder][:3] == ["Conv2d", "LeakyReLU", "MaxPool2d"]
    torch.testing.assert_close(usual.encode(x), model.encode(x), rtol=0, atol=0)
    assert type(usual.decoder[-1]) is torch.nn.ConvTranspose2d
    z = model.encode(x)[0]
    torch.testing.assert_close(usual.decode(z), model.decode(z), rtol=1e-5, atol=1e-5)


def losses(model, images, run, epochs):
    """The loss on the images, z = mu, after every epoch."""
    result = []
    for _ in range(epochs):
        run()
        mu, _ = model.eval().encode_all([images.float() / 255])
        recon = model.decode_all(mu)
        result.append(torch.nn.functional.binary_cross_entropy(recon, images.float() / 255).item())
    return result


def test_both_ways_learn(digits):
    images, labels = (torch.from_numpy(array) for array in digits.train)
    split = Split(images[:, None], labels.long(), list("0123456789"), "full")
    torch.manual_seed(0)
    ours, usual = ConvVAE(), ConvVAE()
    for model, run in (
        (ours, our_way(ours, split.images, 50, steps=24, precision="fp32")),
        (usual, usual_way(usual, split, 50, Settings.lr)),
    ):
        first, second, _, last = losses(model, split.images, run, epochs=4)
        assert first > second > last > 0


def test_our_way_is_the_way_of_train(digits, monkeypatch):
    """A step on the same images, in the same order and with the same noise has the same gradients."""
    monkeypatch.setattr(torch, "randperm", lambda n, generator=None: torch.arange(n))
    monkeypatch.setattr(MuonAdamW, "step", lambda self: None)  # Muon would take its gradients away
    images = torch.from_numpy(digits.train[0][:40])[:, None]
    split = Split(images, torch.zeros(40, dtype=torch.long), [], "full")
    torch.manual_seed(0)
    one = ConvVAE(hidden_dim=32).to(memory_format=torch.channels_last)
    two = copy.deepcopy(one)
    settings = Settings(epochs=1, batch_size=40, precision="fp32")
    optimizer = make_optimizer(one, settings.lr, settings.weight_decay)
    train_epoch(one, functools.partial(train_step, one, optimizer, settings), split, 1, settings)
    step = our_way(two, images, 40, steps=1, precision="fp32")
    torch.manual_seed(mix_seed(settings.seed, 1, 1))  # as in the first epoch of train.py
    step()
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


def test_time_to_a_loss_that_both_reach_and_to_one_that_neither_does(call, data_dir, own_folder):
    options = ("--rounds", 1, "--steps", 1, "--batch-size", 50, "--precision", "fp32", "--data-dir", data_dir)
    results = {}
    for nats, epochs in ((300, 8), (10, 2.5)):
        result = call("benchmark", *options, "--time-to", nats, "--epochs", epochs, "--json", "n.json")
        assert result.code == 0
        results[nats] = json.loads((own_folder / "n.json").read_text())["time_to"]
        assert ("not reached" in result.out) == (nats == 10)
    near, far = results[300], results[10]
    ratio = near["example"]["seconds"] / near["ours"]["seconds"]
    assert near["example"]["ratio"] == pytest.approx(ratio)
    assert all(near[way]["test_loss"] < 300 and near[way]["epochs"] <= 20 for way in ("ours", "example"))
    assert all(near[way]["seconds"] > 0 for way in ("ours", "example"))
    assert far["ours"] == {"seconds": None, "epochs": 2.5, "test_loss": far["ours"]["test_loss"]}
    assert far["example"]["epochs"] == 20
    assert "ratio" not in far["example"]
