"""The benchmark: its ratios are those of its times, its FLOPs those counted by hand, and both ways learn."""

import copy
import functools
import json

import pytest
import torch

from benchmark import our_way
from mnist import Split
from model import ConvVAE
from optimizer import MuonAdamW, make_optimizer
from settings import Settings
from support.timing import step_flops
from support.usual import usual_layers, usual_way
from train import mix_seed, train_epoch, train_step


def test_ratios(call, data_dir, own_folder):
    options = ("--rounds", 3, "--steps", 2, "--batch-size", 50, "--precision", "fp32", "--data-dir", data_dir)
    result = call("benchmark", *options, "--json", "numbers.json", "--profile")
    assert result.code == 0
    numbers = json.loads((own_folder / "numbers.json").read_text())
    assert (numbers["images_a_round"], numbers["rounds"], numbers["precision"]) == (100, 3, "fp32")
    for name in ("speedup", "peak_share"):
        low, high = numbers[f"{name}_range"]
        assert 0 < low <= numbers[name] <= high
    assert numbers["peak_share"] < 1
    # the medians of the ratios and the ratio of the medians are not the same, but of one size
    assert numbers["speedup"] == pytest.approx(
        numbers["images_per_s"] / numbers["images_per_s_usual"], rel=0.7
    )
    assert f"{numbers['speedup']:.2f} times" in result.out
    shares = [
        float(word[:-1])
        for word in result.out.split("where a step's time goes")[1].split()
        if word[-1] == "%"
    ]
    assert shares == sorted(shares, reverse=True) and 50 < sum(shares) <= 101


def test_batch_larger_than_the_data_set_counts_no_image_twice(call, data_dir, own_folder):
    flops = []
    for size in (50, 1000):  # there are 300
        options = ("--rounds", 1, "--steps", 1, "--batch-size", size, "--data-dir", data_dir)
        assert call("benchmark", *options, "--json", "numbers.json").code == 0
        flops.append(json.loads((own_folder / "numbers.json").read_text())["flops_per_image"])
    assert flops[0] == pytest.approx(flops[1])


def test_flops_against_a_count_by_hand():
    """Two for every multiply-add; backward costs twice as much, but nobody needs the images' gradient."""
    z, (c1, c2, c3), hidden = 5, (2, 3, 4), 7
    block_14, block_7 = 14**2 * 2 * 9 * c2 * c2, 7**2 * 2 * 9 * c3 * c3  # outputs x kernels
    encoder = 28**2 * 9 * c1 + 14**2 * 9 * c1 * c2 + block_14 + 7**2 * 9 * c2 * c3 + block_7
    encoder_fc = 49 * c3 * hidden + 2 * hidden * z
    decoder_fc = z * hidden + hidden * 49 * c3
    decoder = block_7 + 7**2 * 16 * c3 * c2 + block_14 + 14**2 * 16 * c2  # transposed: inputs x kernel
    forward = 2 * (encoder + encoder_fc + decoder_fc + decoder)
    expected = 3 * forward - 2 * 28**2 * 9 * c1
    model = ConvVAE(z, (c1, c2, c3), hidden)
    assert step_flops(model, torch.zeros(6, 1, 28, 28), "fp32") == 6 * expected


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
    split = Split(images[:, None], labels, "full", list("0123456789"))
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
    torch.manual_seed(0)
    one = ConvVAE(hidden_dim=32).to(memory_format=torch.channels_last)
    two = copy.deepcopy(one)
    settings = Settings(epochs=1, batch_size=40, precision="fp32")
    optimizer = make_optimizer(one, settings.lr, settings.weight_decay)
    train_epoch(one, functools.partial(train_step, one, optimizer, settings), images, 1, settings)
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
    assert near["ratio"] == pytest.approx(near["example"]["seconds"] / near["ours"]["seconds"])
    assert all(near[way]["test_loss"] < 300 and near[way]["epochs"] <= 20 for way in ("ours", "example"))
    assert all(near[way]["seconds"] > 0 for way in ("ours", "example"))
    assert far["ours"] == {"seconds": None, "epochs": 2.5, "test_loss": far["ours"]["test_loss"]}
    assert far["example"]["epochs"] == 20
    assert "ratio" not in far
