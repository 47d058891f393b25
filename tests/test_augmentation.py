"""Moved images, against another library's, and a network that is told of them in training alone."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import train
from augmentation import LIMITS, STILL, MoveConditioned, draw_moves, move
from data import to_float
from model import ConvVAE
from support.checkpoint import load_checkpoint
from support.measures import entropy


@pytest.fixture
def x(digits):
    return to_float(torch.from_numpy(digits.train[0]).unsqueeze(1))  # (300, 1, 28, 28)


@pytest.mark.parametrize(("size", "edge"), [(0.5, "reflect"), (1, "reflect"), (3, "grid-constant")])
def test_moved_images_are_scipys(x, size, edge):
    """The same maps by another library's interpolation; the contrast comes after it."""
    x = torch.cat([torch.rand(5, 1, 28, 28), x[:15]])  # up to the edges
    moves = draw_moves(x)
    moved = move(x, moves, size)[:, 0]
    for image, result, n in zip(x[:, 0].double().numpy(), moved, moves, strict=True):
        # rows, then columns, in pixels from the middle, which is at 13.5; a unit is 14 pixels
        n = size * n.double().numpy().reshape(2, 3) * np.array(LIMITS)
        linear = np.array([[1 + n[1, 1], n[1, 0]], [n[0, 1], 1 + n[0, 0]]])
        expected = ndimage.affine_transform(
            image, linear, 13.5 + 14 * n[::-1, 2] - linear @ [13.5, 13.5], order=1, mode=edge
        )
        np.testing.assert_allclose(result, np.clip((expected - 0.5) * 1.33 + 0.5, 0, 1), atol=1e-4)


def test_moved_images_keep_their_ink_and_its_entropy(x):
    torch.manual_seed(5)
    moved = move(x, draw_moves(x))
    assert moved.shape == x.shape and moved.min() == 0 and moved.max() == 1
    assert (moved != x).flatten(1).any(1).all()
    assert moved.mean().item() == pytest.approx(x.mean().item(), rel=0.02)
    assert entropy(moved).mean().item() == pytest.approx(entropy(x).mean().item(), rel=0.05)


def test_moves_are_uniform_and_a_share_of_images_stays_as_it_is(x):
    torch.manual_seed(5)
    moves = draw_moves(torch.zeros(20_000, 1, 1, 1), still=0.25)
    still = (moves == 0).all(1)
    assert still.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal((moves == 0).any(1), still)
    torch.testing.assert_close(moves[~still].mean(0), torch.zeros(6), atol=0.03, rtol=0)
    torch.testing.assert_close(moves[~still].square().mean(0), torch.full((6,), 1 / 3), atol=0.02, rtol=0)
    moves = moves[:300]
    moved = move(x, moves, 2.0)
    assert torch.equal((moved == x).flatten(1).all(1), still[:300])


@pytest.fixture
def told():
    """A network that has learnt something of moves, for what that matters here."""
    torch.manual_seed(0)
    told = MoveConditioned(ConvVAE(latent_dim=4, hidden_dim=32).eval(), seed=0)
    for embedding in told.embeddings:
        torch.nn.init.normal_(embedding[-1].weight)
    return told


def same_noise(network, *args, **kwargs):
    return network(*args, generator=torch.Generator().manual_seed(7), **kwargs)


def test_without_moves_it_is_the_plain_model(told, x):
    x = x[:6]
    plain = same_noise(told.model, x)
    for outputs in (same_noise(told, x), same_noise(told, x, moves=torch.zeros(6, 6))):
        torch.testing.assert_close(outputs, plain, rtol=0, atol=0)
    moves = draw_moves(x)
    assert all((a != b).any() for a, b in zip(same_noise(told, x, moves=moves), plain, strict=True))
    # what it was told of one batch does not stay with the model
    torch.testing.assert_close(same_noise(told.model, x), plain, rtol=0, atol=0)
    begun = MoveConditioned(told.model, seed=0)
    torch.testing.assert_close(same_noise(begun, x, moves=moves), plain, rtol=0, atol=0)


def test_moves_are_added_to_the_hidden_layer_of_either_half(told, x):
    """By hand: the same layers, one after the other."""
    model, x = told.model, x[:6]
    moves = draw_moves(x)
    v, w = (embed(moves) for embed in told.embeddings)
    h = model.encoder(x).permute(0, 2, 3, 1).flatten(1)
    h = model.encoder_fc[1](model.encoder_fc[0](h) + v)
    mu, logvar = model.mu_head(h), model.logvar_head(h)
    z = model.reparameterize(mu, logvar, torch.Generator().manual_seed(7))
    h = model.decoder_fc[2](model.decoder_fc[1](model.decoder_fc[0](z) + w))
    logits = model.decoder(h.view(6, 7, 7, 48).permute(0, 3, 1, 2))
    torch.testing.assert_close(same_noise(told, x, moves=moves), (logits, mu, logvar), rtol=1e-4, atol=1e-4)


def test_training_moves_images_and_tells_the_network_and_testing_does_neither(call, data_dir, monkeypatch):
    seen = []
    forward = MoveConditioned.forward

    def see(self, x, generator=None, moves=None):
        seen.append((self.training, moves))
        return forward(self, x, generator, moves)

    monkeypatch.setattr(MoveConditioned, "forward", see)
    options = ("--epochs", 2, "--augment", 2, "--batch-size", 300, "--data-dir", data_dir)
    assert call("train", *options).code == 0
    assert [training for training, _ in seen] == [True, False, True, False]
    assert [moves is None for _, moves in seen] == [False, True, False, True]
    first, second = (moves for _, moves in seen if moves is not None)
    assert first.shape == (300, 6) and not torch.equal(first, second)
    still = (first == 0).all(1).float().mean().item()
    assert still == pytest.approx(STILL, abs=0.06)


def test_what_is_left_is_a_plain_model(call, data_dir, monkeypatch):
    """Not a weight more; until it is finished the checkpoint has the layers that are told, for --resume."""
    options = ("--augment", 2, "--batch-size", 50, "--data-dir", data_dir, "--precision", "fp32")
    assert call("train", "--epochs", 2, "--checkpoint", "whole.pt", *options).code == 0
    report = train.report

    def stop(row, settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "report", stop)
    assert call("train", "--epochs", 2, "--checkpoint", "pieces.pt", *options).code == 130
    begun = torch.load("pieces.pt", weights_only=True)
    assert {name: value.shape for name, value in begun["moves"].items()} == {
        **{f"{half}.0.weight": (64, 6) for half in (0, 1)},
        **{f"{half}.2.weight": (512, 64) for half in (0, 1)},
    }
    assert all(value.any() for value in begun["moves"].values())
    monkeypatch.setattr(train, "report", report)
    assert call("train", "--resume", "--checkpoint", "pieces.pt", "--data-dir", data_dir).code == 0
    whole, pieces = (torch.load(f"{name}.pt", weights_only=True) for name in ("whole", "pieces"))
    torch.testing.assert_close(pieces["model"], whole["model"], rtol=0, atol=0)
    assert "moves" not in whole and whole["model"].keys() == ConvVAE().state_dict().keys()
    model, run = load_checkpoint("whole.pt")
    assert run.settings.augment == 2
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "spoil", [lambda moves: {}, lambda moves: None, lambda moves: {name: v[:1] for name, v in moves.items()}]
)
def test_layers_of_another_kind_are_refused(call, refusal, data_dir, monkeypatch, spoil):
    def stop(row, settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "report", stop)
    options = ("--epochs", 2, "--augment", 2, "--batch-size", 300, "--data-dir", data_dir)
    assert call("train", *options).code == 130
    content = torch.load("checkpoints/vae.pt", weights_only=True)
    content["moves"] = spoil(content["moves"])
    torch.save({name: value for name, value in content.items() if value is not None}, "checkpoints/vae.pt")
    assert "other groups of weights" in refusal(call("train", "--resume", "--data-dir", data_dir))


@pytest.mark.parametrize("other", [("--move-epochs", 1), ("--importance-samples", 2)])
def test_one_kind_of_moves_at_a_time(call, refusal, other):
    assert "--augment" in refusal(call("train", "--augment", 2, *other))
