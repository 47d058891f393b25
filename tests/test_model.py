"""The network and the loss, against hand-worked numbers and torch.distributions."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from augmentation import MoveConditioned, draw_moves, move
from data import draw_pixels
from importance import ImportanceWeighted, iw_loss
from model import LOGVAR_RANGE, ConvVAE, recon_loss, vae_loss
from optimizer import make_optimizer


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ConvVAE(latent_dim=6, hidden_dim=32).eval()


@pytest.fixture
def x():
    return torch.rand(129, 1, 28, 28, generator=torch.Generator().manual_seed(0))


# The loss


def test_bce_of_two_pixels_worked_by_hand():
    """Probabilities 1/2 and 3/4 for a white pixel and one of a quarter gray."""
    logits = torch.tensor([0.0, math.log(3)]).view(1, 1, 1, 2)
    x = torch.tensor([1.0, 0.25]).view(1, 1, 1, 2)
    _, bce, _ = vae_loss(logits, x, torch.zeros(1, 3), torch.zeros(1, 3))
    by_hand = math.log(2) - 0.25 * math.log(0.75) - 0.75 * math.log(0.25)
    assert bce.item() == pytest.approx(by_hand, rel=1e-6)


def test_kl_against_torch_distributions():
    torch.manual_seed(0)
    mu, logvar = 3 * torch.randn(50, 7), 2 * torch.randn(50, 7)
    _, _, kld = vae_loss(torch.zeros(50, 1, 2, 2), torch.zeros(50, 1, 2, 2), mu, logvar)
    reference = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0, 1)).sum(1).mean()
    assert kld.item() == pytest.approx(reference.item(), rel=1e-5)


def test_many_z_for_each_image_have_a_loss_each(x):
    """logits (5, 4, 1, 28, 28) against x (4, 1, 28, 28), black and white: -log p(x|z) is (5, 4)."""
    logits = 3 * torch.randn(5, 4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    x = x[:4].round()
    expected = -Bernoulli(logits=logits).log_prob(x).sum((2, 3, 4))
    torch.testing.assert_close(recon_loss(logits, x), expected)


def test_kl_of_the_prior_is_zero():
    images = torch.zeros(2, 1, 2, 2)
    assert vae_loss(images, images, torch.zeros(2, 5), torch.zeros(2, 5))[2] == 0


def test_a_badly_wrong_pixel_keeps_its_loss_and_gradient():
    """A sigmoid of -200 is 0 in float32: a BCE on probabilities would be infinite or clipped."""
    logits = torch.full((1, 1, 1, 1), -200.0, requires_grad=True)
    loss, bce, _ = vae_loss(logits, torch.ones(1, 1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    loss.backward()
    assert bce.item() == pytest.approx(200)
    assert logits.grad.item() == pytest.approx(-1)


def test_loss_is_per_image_whatever_the_batch(x):
    """The same image 32 times costs what it costs once; twice the pixels cost twice as much."""
    torch.manual_seed(0)
    logits, mu, logvar = torch.randn(1, 1, 28, 28), torch.randn(1, 5), torch.randn(1, 5)
    one = vae_loss(logits, x[:1], mu, logvar)
    many = vae_loss(*(t.repeat_interleave(32, 0) for t in (logits, x[:1], mu, logvar)))
    torch.testing.assert_close(many, one)
    wide = [t.repeat(1, 1, 1, 2) for t in (logits, x[:1])]
    _, bce, kld = vae_loss(*wide, *(t.repeat(1, 2) for t in (mu, logvar)))
    torch.testing.assert_close((bce, kld), (2 * one[1], 2 * one[2]))


def test_beta_weighs_the_kl_alone(x):
    torch.manual_seed(0)
    terms = torch.randn(4, 1, 28, 28), x[:4], torch.randn(4, 5), torch.randn(4, 5)
    loss, bce, kld = vae_loss(*terms)
    torch.testing.assert_close(loss, bce + kld)
    for beta in (0.0, 0.5, 4.0):
        weighed = vae_loss(*terms, beta=beta)
        torch.testing.assert_close(weighed, (bce + beta * kld, bce, kld))


def test_loss_is_float32_on_bf16_logits(x):
    """The sum of 784 pixels in bf16 would be right to two digits only."""
    torch.manual_seed(0)
    logits, latents = torch.randn(4, 1, 28, 28).bfloat16(), torch.zeros(4, 5)
    loss, bce, _ = vae_loss(logits, x[:4], latents, latents)
    reference = vae_loss(logits.double(), x[:4].double(), latents.double(), latents.double())[1]
    assert loss.dtype == bce.dtype == torch.float32
    assert bce.item() == pytest.approx(reference.item(), rel=1e-5)


# The latents


def test_reparameterize_has_the_mean_and_variance_it_was_given(model):
    mu, std = torch.tensor([-2.0, 0.0, 3.0]), torch.tensor([0.1, 1.0, 2.0])
    n = 40_000
    generator = torch.Generator().manual_seed(0)
    z = model.reparameterize(mu.expand(n, 3), 2 * std.log().expand(n, 3), generator)
    assert ((z.mean(0) - mu).abs() < 5 * std / n**0.5).all()
    torch.testing.assert_close(z.std(0), std, rtol=0.03, atol=0)
    assert torch.corrcoef(z.T).triu(1).abs().max() < 0.03  # every latent its own noise


def test_reparameterize_passes_gradients_to_mu_and_logvar(model):
    mu, logvar = torch.zeros(1, 3, requires_grad=True), torch.zeros(1, 3, requires_grad=True)
    z = model.reparameterize(mu, logvar, torch.Generator().manual_seed(0))
    z.sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones(1, 3))
    torch.testing.assert_close(logvar.grad, 0.5 * z.detach())  # d(mu + e^(l/2) eps)/dl at mu = l = 0


def test_kl_and_std_share_one_clamped_logvar(model, x):
    """Images 10,000 times too bright would make exp(logvar) infinite or zero."""
    with torch.no_grad():
        logits, mu, logvar = model(1e5 * x, torch.Generator().manual_seed(0))
        low, high = LOGVAR_RANGE
        assert logvar.min() == low and logvar.max() == high
        assert math.isfinite(vae_loss(logits, x, mu, logvar)[2])
        z = model.reparameterize(mu, logvar, torch.Generator().manual_seed(0))
        torch.testing.assert_close(logits, model.decode_logits(z))


# The network


@pytest.mark.parametrize("n", [1, 2, 129])
@pytest.mark.parametrize("latent_dim, channels", [(1, (2, 3, 1)), (32, (16, 32, 40))])
def test_shapes(x, n, latent_dim, channels):
    model = ConvVAE(latent_dim, channels, hidden_dim=32)
    logits, mu, logvar = model(x[:n])
    assert logits.shape == (n, 1, 28, 28)
    assert mu.shape == logvar.shape == (n, latent_dim)
    for images in (model.decode(mu), model.sample(n)):
        assert images.shape == (n, 1, 28, 28) and images.dtype == torch.float32


def test_decode_is_the_sigmoid_of_the_logits_in_float32(model):
    torch.manual_seed(0)
    z = 1000 * torch.randn(20, 6)
    with torch.no_grad():
        images = model.decode(z)
        torch.testing.assert_close(images, model.decode_logits(z).sigmoid())
        assert images.min() >= 0 and images.max() <= 1
        assert images.min() < 0.01 and images.max() > 0.99
        with torch.autocast("cpu", torch.bfloat16):
            assert model.decode(z).dtype == torch.float32
            assert {t.dtype for t in model.encode(torch.zeros(1, 1, 28, 28))} == {torch.float32}


def test_sample_decodes_the_generators_normal_numbers(model):
    z = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))
    drawn = model.sample(5, temperature=0.5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn, model.decode(0.5 * z))


def test_many_batches_are_encoded_and_decoded_as_each_alone(model, x):
    mu, logvar = model.encode_all(x.split(50))
    alone = [model.encode(part) for part in x.split(50)]
    torch.testing.assert_close(mu, torch.cat([part[0] for part in alone]), rtol=0, atol=0)
    torch.testing.assert_close(logvar, torch.cat([part[1] for part in alone]), rtol=0, atol=0)
    z = torch.randn(2100, 6, generator=torch.Generator().manual_seed(0))  # no multiple of the batch
    parts = [model.decode(part) for part in z.split(1000)]
    torch.testing.assert_close(model.decode_all(z), torch.cat(parts), rtol=0, atol=0)


@torch.no_grad()
def test_eval_mode_is_deterministic_and_knows_no_batch(model, x):
    together = model.encode(x)
    torch.testing.assert_close(model.encode(x), together, rtol=0, atol=0)
    alone = [torch.cat(parts) for parts in zip(*(model.encode(image[None]) for image in x[:20]), strict=True)]
    torch.testing.assert_close(alone, [t[:20] for t in together])
    torch.testing.assert_close(model.decode(alone[0]), model.decode(together[0])[:20])


@torch.no_grad()
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_train_mode_drops_out_in_the_encoder(x, dropout):
    """The same batch twice: batch normalisation sees no difference, so what differs is dropout."""
    model = ConvVAE(hidden_dim=32, dropout=dropout).train()
    mu, _ = model.encode(x)
    assert torch.equal(model.encode(x)[0], mu) == (dropout == 0)
    assert torch.equal(model.decode(mu), model.decode(mu))


@torch.no_grad()
def test_config_rebuilds_the_model(x):
    model = ConvVAE(latent_dim=3, channels=(4, 5, 6), hidden_dim=7, dropout=0.2).eval()
    twin = ConvVAE(**model.config).eval()
    twin.load_state_dict(model.state_dict())
    assert twin.config == model.config
    torch.testing.assert_close(
        twin(x, torch.Generator().manual_seed(0)), model(x, torch.Generator().manual_seed(0))
    )


@torch.no_grad()
def test_activating_before_the_pool_would_be_the_same_function(model, x):
    mu, _ = model.encode(x)
    layers = list(model.encoder)
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    for i in pools:
        assert isinstance(layers[i + 1], nn.LeakyReLU)
        layers[i], layers[i + 1] = layers[i + 1], layers[i]
    model.encoder = nn.Sequential(*layers)
    assert pools
    torch.testing.assert_close(model.encode(x)[0], mu, rtol=0, atol=0)


# Training


def test_fully_connected_weights_decay_and_nothing_else():
    """With no gradient to follow, a step of AdamW multiplies by 1 - lr * weight decay."""
    model = ConvVAE(hidden_dim=32)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    make_optimizer(model, lr=0.1, weight_decay=0.2).step()
    for name, value in model.named_parameters():
        decay = 0.1 * 0.2 if before[name].ndim == 2 else 0.0
        torch.testing.assert_close(value, (1 - decay) * before[name])


def test_training_step_asks_for_no_number():
    """A device without numbers raises where one is asked for, and so does a CUDA GPU that records a step."""
    with torch.device("meta"):
        model = ConvVAE(dropout=0.1)
        x = torch.zeros(4, 1, 28, 28)
        moves = draw_moves(x)
        x = draw_pixels(move(x, moves), binarize=True)
        logits, mu, logvar = model(x)
        vae_loss(logits, x, mu, logvar)[0].backward()
        logits, mu, logvar, z = ImportanceWeighted(model, samples=3)(x)
        iw_loss(logits, x, mu, logvar, z)[0].backward()
        logits, mu, logvar = MoveConditioned(model, seed=0)(x, moves=moves)
        vae_loss(logits, x, mu, logvar)[0].backward()
    assert model.mu_head.weight.grad.shape == (16, 512)
