"""ConvVAE: a convolutional variational autoencoder for 28 x 28 images.

Kingma & Welling, "Auto-Encoding Variational Bayes", 2013 (arXiv:1312.6114).

    from model import ConvVAE, vae_loss, load_checkpoint

    model = ConvVAE(latent_dim=16)
    logits, mu, logvar = model(x)                        # x: (B, 1, 28, 28) in [0, 1]
    loss, bce, kld = vae_loss(logits, x, mu, logvar)     # nats per image
    images = model.sample(64)                            # (64, 1, 28, 28) in [0, 1]
"""

import contextlib
import errno
import io
import os
import pickle
import zipfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

FORMAT, VERSION = "conv-vae", 1
LEAK = 0.1  # slope of every LeakyReLU below zero
LOGVAR_RANGE = (-12.0, 8.0)  # std from 0.0025 to 55: wider than any posterior, narrow enough for exp()


class ConvVAE(nn.Module):
    """Encoder q(z|x) = N(mu, diag(exp(logvar))), decoder p(x|z) = Bernoulli(sigmoid(logits)).

    The arguments are all it takes to rebuild a model; ``config`` is that dict.

    latent_dim: size of z; channels: feature maps after the three convolutions;
    hidden_dim: width of the wide fully connected layers; dropout: share of the feature maps
    and of the hidden units that training drops in the encoder. Raises ValueError for a share
    that is none.
    """

    def __init__(self, latent_dim=16, channels=(16, 32, 40), hidden_dim=1024, dropout=0.0):
        super().__init__()
        if not 0 <= dropout <= 1:  # torch lets NaN pass
            raise ValueError(f"a share dropped of {dropout} is not between 0 and 1")
        self.config = {
            "latent_dim": latent_dim,
            "channels": list(channels),
            "hidden_dim": hidden_dim,
            "dropout": dropout,
        }
        c1, c2, c3 = channels
        # LeakyReLU is increasing, so it commutes with max-pooling: activating after the
        # pool is the same function for a quarter of the work.
        self.encoder = nn.Sequential(
            nn.Conv2d(1, c1, 3, padding=1),  # (B, 1, 28, 28) -> (B, c1, 28, 28)
            nn.MaxPool2d(2),  # -> (B, c1, 14, 14)
            nn.LeakyReLU(LEAK),
            nn.BatchNorm2d(c1),
            nn.Conv2d(c1, c2, 3, padding=1),  # -> (B, c2, 14, 14)
            nn.MaxPool2d(2),  # -> (B, c2, 7, 7)
            nn.LeakyReLU(LEAK),
            nn.BatchNorm2d(c2),
            nn.Conv2d(c2, c3, 3, padding=1),  # -> (B, c3, 7, 7)
            nn.LeakyReLU(LEAK),
            nn.BatchNorm2d(c3),
            nn.Dropout2d(dropout),  # whole maps: one random draw per map, not one per pixel
        )
        self.encoder_fc = nn.Sequential(
            nn.Linear(7 * 7 * c3, hidden_dim),
            nn.LeakyReLU(LEAK),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, hidden_dim // 2),
            nn.LeakyReLU(LEAK),
            nn.Dropout(dropout),
        )
        self.mu_head = nn.Linear(hidden_dim // 2, latent_dim)
        self.logvar_head = nn.Linear(hidden_dim // 2, latent_dim)
        # As many numbers as leave the encoder's convolutions, at twice the resolution: one slow
        # transposed convolution less than from 7 x 7.
        maps = max(1, c3 // 4)
        self.decoder_fc = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim),
            nn.LeakyReLU(LEAK),
            nn.Linear(hidden_dim, 14 * 14 * maps),
            nn.LeakyReLU(LEAK),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(maps, c2, 3, padding=1),  # (B, maps, 14, 14) -> (B, c2, 14, 14)
            nn.LeakyReLU(LEAK),
            nn.Conv2d(c2, c2, 3, padding=1),
            nn.LeakyReLU(LEAK),
            ToOneMap(c2, 1, 4, stride=2, padding=1),  # -> (B, 1, 28, 28)
        )

    def encode(self, x):
        """x (B, 1, 28, 28) in [0, 1] -> mu, logvar of q(z|x), float32 (B, latent_dim) each.

        logvar is clamped here, once, so that the KL and the std see the same value.
        """
        h = self.encoder(x)
        h = h.permute(0, 2, 3, 1).flatten(1)  # (B, c3, 7, 7) -> (B, 7 * 7 * c3): free in channels_last
        h = self.encoder_fc(h)  # -> (B, hidden_dim // 2)
        return self.mu_head(h).float(), self.logvar_head(h).float().clamp(*LOGVAR_RANGE)

    def reparameterize(self, mu, logvar, generator=None):
        """z = mu + std * eps with eps ~ N(0, I): a sample of q(z|x) that mu and logvar get gradients from."""
        eps = torch.randn(mu.shape, generator=generator, device=mu.device)
        return mu + torch.exp(0.5 * logvar) * eps

    def decode_logits(self, z):
        """z (B, latent_dim) -> the Bernoulli logits of every pixel, (B, 1, 28, 28)."""
        h = self.decoder_fc(z)  # -> (B, 14 * 14 * maps)
        h = h.view(len(z), 14, 14, -1).permute(0, 3, 1, 2)  # -> (B, maps, 14, 14), channels_last
        return self.decoder(h)

    def decode(self, z):
        """z (B, latent_dim) -> images, float32 (B, 1, 28, 28) in [0, 1]."""
        return torch.sigmoid(self.decode_logits(z).float())

    def forward(self, x, generator=None):
        """The training pass: x (B, 1, 28, 28) in [0, 1] -> logits, mu, logvar.

        Logits, not images: the BCE on logits keeps its gradient where a sigmoid has
        saturated, and float32 precision under autocast.
        """
        mu, logvar = self.encode(x)
        return self.decode_logits(self.reparameterize(mu, logvar, generator)), mu, logvar

    @torch.no_grad()
    def decode_all(self, z, batch_size=1000):
        """Any number of z (N, latent_dim), on any device -> images (N, 1, 28, 28) on the CPU."""
        device = next(self.parameters()).device
        return torch.cat([self.decode(part.to(device)).cpu() for part in z.split(batch_size)])

    def sample(self, n, temperature=1.0, generator=None):
        """n images decoded from z ~ N(0, temperature^2 I): float32 (n, 1, 28, 28) in [0, 1], on the CPU.

        ``generator`` is a CPU generator, so that a seed gives the same z on every device.
        """
        return self.decode_all(temperature * torch.randn(n, self.config["latent_dim"], generator=generator))


class ToOneMap(nn.ConvTranspose2d):
    """nn.ConvTranspose2d to a single map, which a CPU computes faster as what it is by definition.

    A product with the kernels at every position, and a sum of the patches where they overlap.
    """

    def forward(self, x):
        """x (B, C, H, W) -> (B, 1, 2 H, 2 W), at stride 2 with a kernel of 4 and a padding of 1."""
        if x.device.type != "cpu":  # a GPU's libraries do well by it
            return super().forward(x)
        patches = x.permute(0, 2, 3, 1).flatten(1, 2) @ self.weight.flatten(1)  # -> (B, H * W, 4 * 4)
        size = [self.stride[0] * side for side in x.shape[2:]]
        # in float32: the sums, like those within a product, should not round to bf16 in between
        patches = patches.mT.float()
        return F.fold(patches, size, self.kernel_size, padding=self.padding, stride=self.stride) + self.bias


def vae_terms(logits, x, mu, logvar):
    """The two halves of the negative ELBO of every image: bce (B,) and kld (B,), float32 nats.

    bce: -log p(x|z), summed over the pixels, with gray levels as Bernoulli means.
    kld: KL(q(z|x) || N(0, I)), summed over the latents, in closed form.
    """
    bce = F.binary_cross_entropy_with_logits(logits.float(), x, reduction="none").flatten(1).sum(1)
    kld = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)
    return bce, kld


def vae_loss(logits, x, mu, logvar, beta=1.0):
    """What training minimises: ``(loss, bce, kld)`` with loss = bce + beta * kld.

    float32 scalars in nats per image: summed over pixels and latents, averaged over the
    batch. At beta = 1 the loss is the negative ELBO; other values give the beta-VAE of
    Higgins et al. 2017.
    """
    bce, kld = (term.mean() for term in vae_terms(logits, x, mu, logvar))
    return bce + beta * kld, bce, kld


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged or not ours; the message says what to do."""


def save_checkpoint(path, model, **state):
    """Write the model and ``state`` (tensors and plain Python values only) to ``path``, atomically.

    Raises OSError if that fails; an earlier checkpoint is then still in place.
    """
    buffer = io.BytesIO()
    content = {"format": FORMAT, "version": VERSION, "config": model.config, "model": model.state_dict()}
    torch.save(content | state, buffer)
    write_file(path, buffer.getbuffer())


def write_file(path, content):
    """Write bytes to ``path``, whole or not at all: beside the target, to the disk, renamed over it.

    Folders are made as needed. Raises OSError if that fails; what was there before still is.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say where it is
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def load_checkpoint(path, device="cpu"):
    """Rebuild the model in ``path``: ``(model, state)``, the model in eval mode on ``device``.

    Nothing in the file is executed and nothing larger than the file is allocated.
    Raises CheckpointError if the file is missing, damaged, or not such a checkpoint.
    """
    try:
        content = _read_checkpoint(path)
        weights = content.pop("model")
        with torch.device("meta"):  # shapes without memory: a wrong config cannot cost any
            model = ConvVAE(**content.pop("config"))
        dtypes = {name: value.dtype for name, value in model.state_dict().items()}
        if any(
            weights[name].is_floating_point() != dtype.is_floating_point for name, dtype in dtypes.items()
        ):
            raise TypeError("integers for floats")
        weights = {name: value.to(dtypes[name], copy=True) for name, value in weights.items()}
        model.load_state_dict(weights, assign=True)  # refuses other names and shapes
        model.requires_grad_()
    except (CheckpointError, IsADirectoryError, PermissionError):
        raise
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}: train one with python train.py") from None
    except Exception as error:  # a damaged or hostile file can raise anything
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}): restore it or train again"
        ) from None
    return model.to(device).eval(), content


def _read_checkpoint(path):
    """The dict in a checkpoint file, after every check that needs no model."""
    size = os.path.getsize(path)
    foreign = CheckpointError(f"{path} is not a checkpoint of this project, or is truncated: train again")
    try:
        # Complete, uncompressed and with intact check-sums, before torch reads a byte of it.
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or archive.testzip():
                raise foreign
        # Mapped, not read: a tensor that claims more than the file has cannot reach past its end.
        content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, UnicodeError, NotImplementedError):
        raise foreign from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise foreign
    if content["version"] != VERSION:
        raise CheckpointError(
            f"{path} has format version {content['version']} and this code reads {VERSION}: update the code"
        )
    # A tensor may be of a kind, or claim more elements than the file holds (a stride of zero
    # repeats one), that only a file made to do harm has.
    tensors = content["model"].values()
    if not all(type(t) is torch.Tensor and t.is_cpu and t.layout == torch.strided for t in tensors):
        raise foreign
    if sum(t.nbytes for t in tensors) > size:
        raise foreign
    return content
