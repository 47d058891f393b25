"""The optimiser: Muon for the convolutions, AdamW for all else."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model import ConvVAE, vae_loss
from optimizer import MuonAdamW, make_optimizer, orthogonal


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (5, 5), (48, 432)])
def test_orthogonal_keeps_the_singular_vectors_and_evens_the_values(shape):
    """Against an SVD: U p(p(p(p(p(S / |S|))))) V^T with the polynomial p."""
    matrix = np.random.default_rng(0).normal(size=shape)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    np.testing.assert_allclose(orthogonal(torch.from_numpy(matrix)).numpy(), u * s @ vt, atol=1e-6)
    assert s.min() > 0.6 and s.max() < 1.3


@pytest.mark.parametrize("rank", [1, 5, 48])
def test_orthogonal_in_float32_of_any_rank(rank):
    """As a layer's first gradients are: what has no direction of its own stays small."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, rank, generator=generator) for size in (48, 432))
    matrix = left * torch.logspace(0, -2, rank) @ right.mT
    expected = orthogonal(matrix.double())
    torch.testing.assert_close(orthogonal(matrix).double(), expected, rtol=0, atol=1e-4)


def test_many_matrices_at_once_are_what_they_are_alone():
    matrices = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices *= torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    alone = torch.stack([orthogonal(matrix) for matrix in matrices.flatten(0, 1)]).view_as(matrices)
    torch.testing.assert_close(orthogonal(matrices), alone)


def test_nothing_to_follow_is_no_step():
    assert orthogonal(torch.zeros(3, 4)).abs().max() == 0


def test_two_steps_of_muon_against_the_definition():
    """Nesterov momentum; steps of root mean square about 0.2 times lr, as AdamW's are. Two weights of three
    have the same shape, and are one batch of matrices."""
    torch.manual_seed(0)
    weights = [torch.randn(6, 4, 3, 3), torch.randn(4, 2, 3, 3), torch.randn(6, 4, 3, 3)]
    gradients = [torch.randn(2, *weight.shape) for weight in weights]
    parameters = [torch.nn.Parameter(w.clone(memory_format=torch.channels_last)) for w in weights]
    optimizer = MuonAdamW([{"params": parameters, "weight_decay": 0.3, "muon": True}], lr=0.1)
    for number in range(2):
        for p, both in zip(parameters, gradients, strict=True):
            p.grad = both[number].clone()
        optimizer.step()
    for p, expected, both in zip(parameters, weights, gradients, strict=True):
        momentum, size = 0.0, max(len(expected), expected[0].numel()) ** 0.5
        for gradient in both:
            momentum = 0.95 * momentum + 0.05 * gradient
            step = 0.2 * size * orthogonal((0.05 * gradient + 0.95 * momentum).flatten(1)).view_as(expected)
            assert 0.1 < step.square().mean().sqrt() < 0.3
            expected = expected - 0.1 * (0.3 * expected + step)
        torch.testing.assert_close(p.detach(), expected)


def test_convolutions_without_a_gradient_stay():
    model = ConvVAE(hidden_dim=32)
    before = copy.deepcopy(model)
    make_optimizer(model, 0.1, 0.0).step()
    for value, old in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(value, old)


def test_what_muon_does_not_take_is_adamws():
    torch.manual_seed(0)
    ours, usual = ConvVAE(hidden_dim=32), ConvVAE(hidden_dim=32)
    usual.load_state_dict(ours.state_dict())
    before = copy.deepcopy(ours)
    optimizers = (
        make_optimizer(ours, 0.01, 0.0),
        torch.optim.AdamW(usual.parameters(), 0.01, weight_decay=0.0),
    )
    x = torch.rand(8, 1, 28, 28)
    for model, optimizer in zip((ours, usual), optimizers, strict=True):
        logits, mu, logvar = model(x, torch.Generator().manual_seed(0))
        vae_loss(logits, x, mu, logvar)[0].backward()
        optimizer.step()
    moved = set()
    for (name, mine), theirs, old in zip(
        ours.named_parameters(), usual.parameters(), before.parameters(), strict=True
    ):
        if torch.allclose(mine, theirs, atol=1e-6):
            continue
        moved.add(name)
        assert not torch.equal(mine, old)
    convolutions = {
        f"{name}.weight"
        for name, layer in ours.named_modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
    }
    zero_still = {name for name in convolutions if "body.2" in name}  # no gradient comes through a zero layer
    one_map = {"encoder.0.weight", "decoder.5.weight"}
    assert moved == convolutions - one_map - zero_still


def test_state_that_is_saved_and_restored_goes_on_alike():
    torch.manual_seed(0)
    one = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    two = copy.deepcopy(one)
    optimizer, x = make_optimizer(one, 0.01, 0.1), torch.rand(4, 2, 3, 3)

    def step(model, optimizer):
        F.mse_loss(model(x), torch.ones(4, 2)).backward()
        optimizer.step()
        optimizer.zero_grad()

    step(one, optimizer)
    two.load_state_dict(one.state_dict())
    another = make_optimizer(two, 0.01, 0.1)
    another.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(one, optimizer)
    step(two, another)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
