"""The importance-weighted bound: value and gradient against integrals over the noise, and its flags."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

import train
from importance import ImportanceWeighted, iw_loss
from model import ConvVAE, vae_loss
from support.checkpoint import load_checkpoint


class TinyVAE(nn.Module):
    """One latent, three pixels, four parameters: two of the encoder, two of the decoder."""

    reparameterize = ConvVAE.reparameterize

    def __init__(self):
        super().__init__()
        self.encoder = nn.Parameter(torch.tensor([0.4, -0.3], dtype=torch.float64))
        self.decoder = nn.Parameter(torch.tensor([1.5, 0.2], dtype=torch.float64))

    def encode(self, x):
        mu = self.encoder[0] * x.flatten(1).sum(1, keepdim=True)
        return mu, self.encoder[1].expand_as(mu)

    def decode_logits(self, z):
        slopes = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
        return (self.decoder[0] * z * slopes + self.decoder[1]).view(-1, 1, 1, 3)


@pytest.fixture
def x():
    return torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).view(1, 1, 1, 3)


def bound_by_integration(model, x):
    """-E log 1/2 (w_1 + w_2), a double integral over the two samples' noise, on a fine grid."""
    eps = torch.linspace(-7, 7, 401, dtype=torch.float64)
    density = Normal(0, 1).log_prob(eps).exp()
    mu, logvar = model.encode(x)
    std = (0.5 * logvar).exp()
    z = (mu + std * eps[:, None]).flatten()
    log_px = Bernoulli(logits=model.decode_logits(z[:, None])).log_prob(x).sum((1, 2, 3))
    log_w = log_px + Normal(0, 1).log_prob(z) - Normal(mu[0], std[0]).log_prob(z)
    inner = torch.logaddexp(log_w[:, None], log_w[None, :]) - math.log(2)
    return -torch.trapezoid(torch.trapezoid(inner * density[:, None] * density, eps), eps)


def test_value_and_gradient_are_those_of_the_integral(x):
    """The gradient that is followed is not the bound's own derivative, but has the same mean."""
    model = TinyVAE()
    exact = bound_by_integration(model, x)
    gradients = torch.autograd.grad(exact, (model.encoder, model.decoder))

    n = 200_000
    torch.manual_seed(0)
    many = x.expand(n, 1, 1, 3)
    logits, mu, logvar, z = ImportanceWeighted(model, 2)(many)
    loss, bce, kld = iw_loss(logits, many, mu, logvar, z)
    estimates = torch.autograd.grad(loss, (model.encoder, model.decoder))
    assert loss.item() == pytest.approx(exact.item(), abs=0.005)
    for estimate, gradient in zip(estimates, gradients, strict=True):
        torch.testing.assert_close(estimate, gradient, rtol=0, atol=0.005)
    assert loss < bce + kld  # tighter than the ELBO


def test_encoder_gradient_is_less_noisy_than_the_bounds_own(x):
    """What the doubly reparameterised gradient is for: 64 samples, 500 times."""
    model, k = TinyVAE(), 64
    ours, plain = [], []
    for seed in range(500):
        torch.manual_seed(seed)
        logits, mu, logvar, z = ImportanceWeighted(model, k)(x)
        loss, _, _ = iw_loss(logits, x, mu, logvar, z)
        ours.append(torch.autograd.grad(loss, model.encoder, retain_graph=True)[0])
        torch.manual_seed(seed)
        logits, mu, logvar, z = ImportanceWeighted(model, k)(x)
        log_px = Bernoulli(logits=logits).log_prob(x).sum((2, 3, 4))
        log_q = Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(2)
        bound = (log_px + Normal(0, 1).log_prob(z).sum(2) - log_q).logsumexp(0) - math.log(k)
        assert -bound.item() == pytest.approx(loss.item())
        plain.append(torch.autograd.grad(-bound.sum(), model.encoder)[0])
    ours, plain = torch.stack(ours), torch.stack(plain)
    assert (ours.std(0) < 0.5 * plain.std(0)).all()
    noise = plain.std(0) / math.sqrt(500)
    assert ((ours.mean(0) - plain.mean(0)).abs() < 5 * noise).all()


def test_one_sample_is_the_elbo_with_the_kl_estimated(x):
    model = TinyVAE()
    many = x.expand(100_000, 1, 1, 3)
    torch.manual_seed(0)
    logits, mu, logvar, z = ImportanceWeighted(model, 1)(many)
    loss, bce, kld = iw_loss(logits, many, mu, logvar, z)
    elbo, elbo_bce, elbo_kld = vae_loss(logits[0], many, mu, logvar)
    torch.testing.assert_close((bce, kld), (elbo_bce, elbo_kld))
    assert loss.item() == pytest.approx(elbo.item(), abs=0.01)


def test_fine_tuning_starts_from_the_trained_model(call, trained, data_dir, read_metrics, own_folder):
    options = (
        "--importance-samples",
        4,
        "--epochs",
        2,
        "--lr",
        0.0005,
        "--batch-size",
        50,
        "--data-dir",
        data_dir,
    )
    files = ("--checkpoint", "iw.pt", "--out", "iw")
    result = call("train", "--from", trained.checkpoint, *options, *files)
    assert result.code == 0, result.err
    before, (first, _) = load_checkpoint(trained.checkpoint)[1], read_metrics(own_folder / "iw")
    assert first["test_loss"] < first["test_bce"] + first["test_kld"]  # tighter
    assert first["test_loss"] < before.history[-1]["test_loss"]  # no new start
    _, run = load_checkpoint("iw.pt")
    assert (run.settings.latent_dim, run.settings.importance_samples) == (8, 4)
    assert run.settings.from_ == trained.checkpoint.name  # the finished file does not say where that was
    assert "4 importance samples" in call("generate", "--checkpoint", "iw.pt").out


def test_fine_tuning_resumes_to_the_bit(call, trained, data_dir, monkeypatch):
    options = ("--importance-samples", 2, "--epochs", 2, "--batch-size", 100, "--data-dir", data_dir)
    assert (
        call("train", "--from", trained.checkpoint, *options, "--checkpoint", "whole.pt", "--out", "a").code
        == 0
    )

    def stop(row, settings):
        raise KeyboardInterrupt

    files = ("--checkpoint", "pieces.pt", "--out", "b")
    with monkeypatch.context() as patch:
        patch.setattr(train, "report", stop)
        assert call("train", "--from", trained.checkpoint, *options, *files).code == 130
    assert call("train", "--resume", "--data-dir", data_dir, *files).code == 0
    whole, pieces = (load_checkpoint(path)[0].state_dict() for path in ("whole.pt", "pieces.pt"))
    torch.testing.assert_close(pieces, whole, rtol=0, atol=0)


@pytest.mark.parametrize(
    "flags, word",
    [
        (("--from", "nowhere.pt"), "nowhere.pt"),
        (("--latent-dim", 9), "--latent-dim 8, not 9"),
        (("--binarize",), "--binarize"),
        (("--importance-samples", 3, "--beta", 2), "--beta"),
        (("--importance-samples", 0), "--importance-samples"),
    ],
)
def test_fine_tuning_that_cannot_be(call, refusal, trained, data_dir, own_folder, flags, word):
    start = () if "--from" in flags else ("--from", trained.checkpoint)
    line = refusal(call("train", *start, *flags, "--data-dir", data_dir, "--checkpoint", "new.pt"))
    assert word in line
    assert not (own_folder / "new.pt").exists()
