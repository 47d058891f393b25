"""The figures behind the README's: likelihood, Fréchet distance, entropy, against independent references."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from support import judge, terminal
from support.judge import frechet_distance, load_judge
from support.measures import (
    elbo_terms,
    embed,
    entropy,
    iw_log_likelihood,
    neighbor_accuracy,
    standard_error,
)


class TinyVAE(nn.Module):
    """One latent and three pixels, so that log p(x) is a one-dimensional integral."""

    slope, bias = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.3, 0.0, -1.0])

    def __init__(self, std=0.9):
        super().__init__()
        self.std = std

    def encode(self, x):
        # a rough posterior: right sign, wrong width
        mu = 0.4 * (x.flatten(1)[:, :1] - x.flatten(1)[:, 1:2])
        return mu, torch.full_like(mu, 2 * math.log(self.std))

    def reparameterize(self, mu, logvar, generator):
        return mu + (0.5 * logvar).exp() * torch.randn(mu.shape, generator=generator)

    def decode_logits(self, z):
        return (z * self.slope + self.bias).view(-1, 1, 1, 3)

    def exact_log_likelihood(self, x):
        """The integral over z, by a fine grid out to ten standard deviations."""
        z = torch.linspace(-10, 10, 20_001, dtype=torch.float64)[:, None]
        p = torch.sigmoid(z * self.slope + self.bias)  # (grid, 3)
        prior = torch.distributions.Normal(0, 1).log_prob(z[:, 0]).exp()
        likelihood = torch.stack([(p**row * (1 - p) ** (1 - row)).prod(1) for row in x.flatten(1)])
        return torch.trapezoid(likelihood * prior, z[:, 0]).log()


@pytest.fixture
def every_x():
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).view(8, 1, 1, 3)


def test_importance_weighting_finds_the_exact_likelihood(every_x):
    model, generator = TinyVAE(), torch.Generator().manual_seed(0)
    exact = model.exact_log_likelihood(every_x)
    assert exact.exp().sum() == pytest.approx(1, abs=1e-6)  # the reference is a distribution
    estimate = iw_log_likelihood(model, every_x, 100_000, generator)
    assert torch.allclose(estimate.double(), exact, atol=0.01)


def test_the_bound_tightens_with_k(every_x):
    model, generator = TinyVAE(), torch.Generator().manual_seed(0)
    exact = model.exact_log_likelihood(every_x).mean()
    bce, kld, *_ = elbo_terms(model, [every_x], 4000, generator)
    means = [-(bce + kld).mean()]
    for k in (2, 10, 250):  # 250 is no multiple of the chunk
        means.append(
            torch.stack([iw_log_likelihood(model, every_x, k, generator) for _ in range(300)]).mean()
        )
    assert means == sorted(means)
    assert means[-1] <= exact + 0.005
    assert exact - means[-1] < 0.01 < exact - means[0]


def test_wider_samples_estimate_the_same_likelihood_better(every_x):
    """Of an encoder that is too sure of itself: its own z miss much of the posterior."""
    model, generator = TinyVAE(std=0.3), torch.Generator().manual_seed(0)
    exact = model.exact_log_likelihood(every_x)
    errors = []
    for spread in (1, 2.5):
        draws = [iw_log_likelihood(model, every_x, 50, generator, spread=spread) for _ in range(200)]
        errors.append((exact - torch.stack(draws).mean(0)).mean().item())
    assert 0 < errors[1] < 0.02 < errors[0] / 5  # bounds, both of them, on average
    estimate = iw_log_likelihood(model, every_x, 100_000, generator, spread=2.5)
    assert torch.allclose(estimate.double(), exact, atol=0.01)


def test_no_sample_is_spread_beyond_the_prior(every_x):
    """Nor narrowed: a latent that is not in use, with a deviation of 1 or a little more, keeps it."""
    for deviation, spread, same_as in ((0.3, 1e9, 1.0), (1.0, 1.35, 1.0), (1.1, 1.35, 1.1), (0.3, 2.0, 0.6)):
        values = []
        for std, factor in ((deviation, spread), (same_as, 1.0)):
            generator = torch.Generator().manual_seed(0)
            values.append(iw_log_likelihood(TinyVAE(std), every_x, 20, generator, spread=factor))
        torch.testing.assert_close(*values)


def test_one_importance_sample_is_the_elbo(every_x):
    """In expectation, log of a single weight is the ELBO: here with the KL in closed form."""
    model, generator = TinyVAE(), torch.Generator().manual_seed(0)
    bce, kld, *_ = elbo_terms(model, [every_x], 5000, generator)
    single = torch.stack([iw_log_likelihood(model, every_x, 1, generator) for _ in range(5000)]).mean(0)
    assert torch.allclose(single, -(bce + kld), atol=0.06)


def test_likelihood_is_safe_where_weights_underflow():
    class Certain(TinyVAE):
        bias = torch.tensor([-2000.0, 0.0, 0.0])  # a white first pixel has probability e^-2000

    value = iw_log_likelihood(Certain(), torch.ones(1, 1, 1, 3), 64, torch.Generator().manual_seed(0))
    assert -2010 < value.item() < -1980


def test_entropy_is_the_floor_of_the_bce():
    x = torch.tensor([[[[0.0, 1.0, 0.5, 0.25]]]])
    expected = math.log(2) - 0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert entropy(x).item() == pytest.approx(expected)


def test_frechet_distance_against_a_matrix_square_root():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))
    b = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)) + 1
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(0, abs=1e-6)


def test_judge_is_the_same_whatever_came_before_it(digits, tmp_path):
    images, labels = (torch.from_numpy(array) for array in digits.train)
    judges = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        judges.append(load_judge(tmp_path / str(seed), images[:, None], labels.long()).state_dict())
    torch.testing.assert_close(*judges, rtol=0, atol=0)


def test_every_set_of_training_images_has_a_judge_of_its_own(digits, tmp_path):
    images, labels = (torch.from_numpy(array) for array in digits.train)
    for part in (slice(0, 200), slice(100, 300), slice(0, 200)):
        load_judge(tmp_path, images[part, None], labels[part].long())
    load_judge(tmp_path, images[:200, None], 9 - labels[:200].long())
    assert len(list(tmp_path.iterdir())) == 3


def test_standard_error_by_hand():
    assert standard_error(torch.tensor([1.0, 2.0, 4.0, 5.0])) == pytest.approx(math.sqrt(10 / 3) / 2)


def test_tied_votes_are_shared():
    """A point between two pairs of two classes has four neighbours, and half of it is right."""
    points = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    for label in (0, 1):
        assert neighbor_accuracy(points, labels, torch.zeros(1, 2), torch.tensor([label])) == 0.5
    assert neighbor_accuracy(points[:3], labels[:3], torch.zeros(1, 2), labels[:1]) == 1.0


def test_judge_makes_as_many_steps_on_few_images(digits, monkeypatch, tmp_path):
    steps = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, *args: (steps.append(1), step(self, *args)))
    images, labels = (torch.from_numpy(array) for array in digits.train)
    load_judge(tmp_path, images[:20, None], labels[:20].long())
    assert len(steps) == judge.STEPS


def test_perplexity_by_which_all_are_neighbours_is_told(capsys):
    terminal.warn.cache_clear()
    embed(torch.randn(31, 4, generator=torch.Generator().manual_seed(0)), "vae.pt", 0, perplexity=30)
    assert "at a perplexity of 30 nearly all 31 points are neighbours" in capsys.readouterr().err
