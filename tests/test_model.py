"""The network, the loss and the checkpoints, against hand-worked numbers and torch.distributions."""

import contextlib
import errno
import math
import os
import pickle
import resource
import sys
import zipfile

import pytest
import torch
from fuzz_checkpoint import Call
from torch import nn
from torch.distributions import Normal, kl_divergence

from loop import make_optimizer
from model import (
    LOGVAR_RANGE,
    CheckpointError,
    ConvVAE,
    ToOneMap,
    load_checkpoint,
    save_checkpoint,
    vae_loss,
)


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
    _, bce, kld = vae_loss(*(t.repeat(1, 2) for t in (logits.flatten(1), x[:1].flatten(1), mu, logvar)))
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


# Checkpoints


@pytest.fixture
def saved(model, tmp_path):
    """A good checkpoint."""
    path = tmp_path / "vae.pt"
    save_checkpoint(path, model)
    return path


@pytest.fixture
def save_content(model, tmp_path):
    """A function that writes a checkpoint with parts of its content replaced."""

    def save_content(**parts):
        path = tmp_path / "changed.pt"
        save_checkpoint(path, model)
        torch.save(torch.load(path, weights_only=True) | parts, path)
        return path

    return save_content


def test_checkpoint_round_trip_is_exact(model, x, tmp_path):
    path = tmp_path / "new" / "folder" / "vae.pt"
    history = [{"epoch": 1, "loss": 0.1}]
    optimizer = torch.optim.AdamW(model.parameters())
    logits, mu, logvar = model(x)
    vae_loss(logits, x, mu, logvar)[0].backward()
    optimizer.step()
    save_checkpoint(path, model, history=history, optimizer=optimizer.state_dict())
    loaded, state = load_checkpoint(path)
    assert loaded.config == model.config and not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(state["optimizer"], optimizer.state_dict(), rtol=0, atol=0)
    assert state["history"] == history
    assert os.listdir(path.parent) == ["vae.pt"]


def test_half_precision_checkpoint_loads_as_float32(model, saved):
    save_checkpoint(saved, model.half())
    loaded, _ = load_checkpoint(saved)
    assert {t.dtype for t in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.99, 0.9999])
def test_truncated_checkpoint_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="vae"):
        load_checkpoint(saved)


def test_one_flipped_bit_is_refused(saved):
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(content)
    with pytest.raises(CheckpointError, match="vae"):
        load_checkpoint(saved)


def write_plain_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no weights here")


FOREIGN = {
    "text": lambda path: path.write_text("hello"),
    "zip": write_plain_zip,
    "picture": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000)),
    "list": lambda path: torch.save([1, 2, 3], path),
    "state dict": lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
    "whole module": lambda path: torch.save(nn.Linear(2, 2), path),
    "old torch format": lambda path: torch.save({"model": {}}, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_foreign_file_is_refused(tmp_path, write):
    path = tmp_path / "vae.pt"
    write(path)
    with pytest.raises(CheckpointError, match="vae"):
        load_checkpoint(path)


def test_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("version", [0, 999, "1", None])
def test_another_format_version_is_refused(save_content, version):
    with pytest.raises(CheckpointError, match="version"):
        load_checkpoint(save_content(version=version))


@pytest.mark.parametrize(
    "parts",
    [
        {"format": "another project's"},
        {"config": None},
        {"config": {"latent_dim": 6}},  # a smaller network's
        {"config": {"latent_dim": "six"}},
        {"config": {"latent_dim": -1}},
        {"config": {"surprise": 1}},
        {"model": None},
        {"model": {}},
        {"model": {"mu_head.weight": 1}},
    ],
    ids=str,
)
def test_wrong_parts_are_refused(save_content, parts):
    with pytest.raises(CheckpointError, match="changed"):
        load_checkpoint(save_content(**parts))


@pytest.mark.filterwarnings("ignore")
def test_weights_of_wrong_shape_or_kind_are_refused(model, save_content):
    weights = model.state_dict()
    for wrong in (torch.zeros(6, 31), torch.zeros(6, 32, dtype=torch.long), torch.zeros(6, 32).to_sparse()):
        with pytest.raises(CheckpointError):
            load_checkpoint(save_content(model=weights | {"mu_head.weight": wrong}))
    with pytest.raises(CheckpointError):
        load_checkpoint(save_content(model=weights | {"one_too_many": torch.zeros(1)}))


def peak_memory():
    """The most bytes this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@pytest.mark.parametrize("hidden_dim", [100_000, 10**9, 10**30])
def test_absurd_sizes_are_refused_without_allocation(model, save_content, hidden_dim):
    """100,000 would take 1.6 GB: affordable here, so only the memory in use can tell."""
    path = save_content(config=model.config | {"hidden_dim": hidden_dim})
    before = peak_memory()
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert peak_memory() - before < 100e6


def test_weights_that_claim_more_than_the_file_holds_are_refused(model, save_content):
    """One number with a stride of zero poses as 800 MB of weights."""
    config = model.config | {"hidden_dim": 50_000}
    with torch.device("meta"):
        weights = ConvVAE(**config).state_dict()
    bloated = {name: torch.zeros((), dtype=t.dtype).expand(t.shape) for name, t in weights.items()}
    with pytest.raises(CheckpointError):
        load_checkpoint(save_content(config=config, model=bloated))


def test_code_in_a_checkpoint_does_not_run(tmp_path, save_content):
    caught = tmp_path / "caught"
    bait = Call(os.mkdir, str(caught))
    bare = tmp_path / "bare.pt"
    bare.write_bytes(pickle.dumps(bait))
    pickle.loads(bare.read_bytes())
    assert caught.exists()  # the bait works
    caught.rmdir()
    for path in (bare, save_content(extra=bait), save_content(model=bait)):
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
        assert not caught.exists()


@pytest.mark.parametrize("size", [10**15, 10**30])
def test_bytes_that_claim_absurd_sizes_are_refused(save_content, size):
    """bytearray is on torch's list of what is safe to call."""
    with pytest.raises(CheckpointError):
        load_checkpoint(save_content(extra=Call(bytearray, size)))


@pytest.mark.filterwarnings("ignore")
def test_damaged_pickles_in_intact_archives_are_refused(saved, tmp_path):
    """torch's unpickler raises IndexError, struct.error and others on these."""
    with zipfile.ZipFile(saved) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in content if name.endswith("data.pkl"))
    good = content[name]
    path = tmp_path / "damaged.pt"
    for at in [*range(2, 60), *range(60, len(good), 97)]:
        for byte in b"R0r\x81":  # reduce, pop, memorise, new object
            content[name] = good[:at] + bytes([byte]) + good[at + 1 :]
            with zipfile.ZipFile(path, "w") as archive:
                for entry in content.items():
                    archive.writestr(*entry)
            with contextlib.suppress(CheckpointError):
                load_checkpoint(path)  # some damage does no harm


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_failed_save_leaves_the_earlier_checkpoint(model, saved, monkeypatch, function):
    before = saved.read_bytes()

    def full_disk(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, ConvVAE(latent_dim=2, hidden_dim=8))
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
    assert load_checkpoint(saved)[0].config == model.config


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


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_share_that_is_none(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        ConvVAE(dropout=share)


def test_transposed_convolution_is_torchs_own():
    torch.manual_seed(0)
    ours = ToOneMap(6, 1, 4, stride=2, padding=1)
    theirs = nn.ConvTranspose2d(6, 1, 4, stride=2, padding=1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6, 14, 14, requires_grad=True)
    images = [layer(x) for layer in (ours, theirs)]
    upstream = torch.randn_like(images[0])
    gradients = [
        torch.autograd.grad(image, (x, *layer.parameters()), upstream)
        for layer, image in zip((ours, theirs), images, strict=True)
    ]
    torch.testing.assert_close(*images, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_training_pass_can_be_compiled_in_one_piece(model, x):
    """All of torch.compile but the machine code, on two sizes of batch; fullgraph leaves nothing out."""
    compiled = torch.compile(model.train(), backend="eager", dynamic=False, fullgraph=True)
    for batch in (x, x[:44]):
        passes = []
        for network in (compiled, model):
            torch.manual_seed(0)  # for eps
            passes.append(network(batch))
        torch.testing.assert_close(*passes, rtol=0, atol=0)
