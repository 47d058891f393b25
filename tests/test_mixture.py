"""The latent mixture: it finds the clusters it was fitted to and samples the class it is asked for."""

import pytest
import torch

from mixture import fit_mixture, sample_labels, sample_mixture
from support.checkpoint import is_mixture


@pytest.fixture(scope="module")
def clusters():
    """Two classes in two dimensions: one round at the left, one narrow and tilted at the right."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(3000, 2, generator=generator) - torch.tensor([5.0, 0.0])
    tilt = torch.tensor([[1.0, 0.0], [0.9, 0.3]])
    right = torch.randn(1000, 2, generator=generator) @ tilt.T + torch.tensor([5.0, 2.0])
    return torch.cat([left, right]), torch.arange(2).repeat_interleave(torch.tensor([3000, 1000]))


@pytest.fixture(scope="module")
def mixture(clusters):
    return fit_mixture(*clusters)


def test_samples_have_the_moments_of_their_class(clusters, mixture):
    z, labels = clusters
    for label in (0, 1):
        drawn = sample_mixture(mixture, torch.full((20_000,), label), 1.0, torch.Generator().manual_seed(1))
        own = z[labels == label]
        assert torch.allclose(drawn.mean(0), own.mean(0), atol=0.05)
        assert torch.allclose(drawn.T.cov(), own.T.cov(), atol=0.08)


def test_classes_come_as_often_as_in_the_data(mixture):
    drawn = sample_labels(mixture, 10_000, torch.Generator().manual_seed(0))
    assert (drawn == 1).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_no_temperature_no_spread(mixture):
    drawn = sample_mixture(mixture, torch.zeros(50, dtype=torch.long), 0.0, torch.Generator().manual_seed(0))
    assert (drawn[:, None] == mixture["means"][0]).all(2).any(1).all()


def test_a_damaged_mixture_is_known_as_such(mixture):
    assert is_mixture(mixture, 2)
    assert not is_mixture(mixture, 3)
    assert not is_mixture({}, 2)
    assert not is_mixture([1, 2], 2)
    for name in mixture:
        assert not is_mixture({key: value for key, value in mixture.items() if key != name}, 2)
        assert not is_mixture(mixture | {name: mixture[name] * float("nan")}, 2)
        assert not is_mixture(mixture | {name: mixture[name][:1]}, 2)
    assert not is_mixture(mixture | {"weights": -mixture["weights"]}, 2)


def test_small_classes_get_fewer_components():
    z, labels = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    assert fit_mixture(z, labels)["weights"].shape == (3, 1)
