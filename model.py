"""ConvVAE: a convolutional variational autoencoder for 28 x 28 images, and its loss.

Kingma & Welling, "Auto-Encoding Variational Bayes", 2013 (arXiv:1312.6114).

    from model import ConvVAE, vae_loss

    model = ConvVAE(latent_dim=16)    # a trained one: model, run = support.checkpoint.load_checkpoint(path)
    logits, mu, logvar = model(x)                        # x: (B, 1, 28, 28) in [0, 1]
    loss, bce, kld = vae_loss(logits, x, mu, logvar)     # nats per image
    images = model.eval().sample(64)                     # (64, 1, 28, 28) in [0, 1]
"""

import torch
from torch import nn
from torch.nn import functional as F

LEAK = 0.1  # slope of every LeakyReLU below zero
LOGVAR_RANGE = (-12.0, 8.0)  # std from 0.0025 to 55, and exp() cannot overflow
AT_ONCE = 250  # images in encode_all and decode_all: on a CPU larger batches take longer per image


class ConvVAE(nn.Module):
    """Encoder q(z|x) = N(mu, diag(exp(logvar))), decoder p(x|z) = Bernoulli(sigmoid(logits)).

    The arguments are all it takes to rebuild a model; ``config`` holds them as a dict.

    latent_dim: size of z; channels: feature maps at 28 x 28 (encoder only), 14 x 14 and 7 x 7;
    hidden_dim: width of the fully connected layers; dropout: probability, in training, of dropping a
    feature map or hidden unit of the encoder; image_size: side of the images, 28 in the comments here.
    Raises ValueError if image_size is not a multiple of 4.
    """

    def __init__(self, latent_dim=16, channels=(16, 32, 48), hidden_dim=512, dropout=0.0, image_size=28):
        super().__init__()
        if image_size < 4 or image_size % 4:
            raise ValueError(f"image_size is {image_size}, which is not a multiple of 4")
        self.config = {
            "latent_dim": latent_dim,
            "channels": list(channels),
            "hidden_dim": hidden_dim,
            "dropout": dropout,
            "image_size": image_size,
        }
        self.side = image_size
        c1, c2, c3 = channels
        features = (image_size // 4) ** 2 * c3
        # LeakyReLU is increasing, so it commutes with max-pooling: activating after the
        # pool is the same function for a quarter of the work.
        self.encoder = nn.Sequential(
            nn.Conv2d(1, c1, 3, padding=1),  # (B, 1, 28, 28) -> (B, c1, 28, 28)
            nn.MaxPool2d(2),  # -> (B, c1, 14, 14)
            nn.LeakyReLU(LEAK),
            nn.Conv2d(c1, c2, 3, padding=1),  # -> (B, c2, 14, 14)
            ResidualBlock(c2),  # begins with an activation of its own
            nn.MaxPool2d(2),  # -> (B, c2, 7, 7)
            nn.LeakyReLU(LEAK),
            nn.Conv2d(c2, c3, 3, padding=1),  # -> (B, c3, 7, 7)
            ResidualBlock(c3),
            nn.LeakyReLU(LEAK),
            nn.Dropout2d(dropout),  # whole maps: one random draw per map, not one per pixel
        )
        self.encoder_fc = nn.Sequential(
            nn.Linear(features, hidden_dim), nn.LeakyReLU(LEAK), nn.Dropout(dropout)
        )
        self.mu_head = nn.Linear(hidden_dim, latent_dim)
        self.logvar_head = nn.Linear(hidden_dim, latent_dim)
        self.decoder_fc = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim), nn.LeakyReLU(LEAK), nn.Linear(hidden_dim, features)
        )
        self.decoder = nn.Sequential(
            ResidualBlock(c3),  # (B, c3, 7, 7)
            nn.LeakyReLU(LEAK),
            nn.ConvTranspose2d(c3, c2, 4, stride=2, padding=1),  # -> (B, c2, 14, 14)
            ResidualBlock(c2),
            nn.LeakyReLU(LEAK),
            nn.ConvTranspose2d(c2, 1, 4, stride=2, padding=1),  # -> (B, 1, 28, 28)
        )
        nn.init.constant_(self.decoder[-1].bias, -2.0)  # sigmoid(-2) = 0.12, about MNIST's mean

    def encode(self, x):
        """x (B, 1, 28, 28) in [0, 1] -> mu, logvar of q(z|x), float32 (B, latent_dim) each.

        logvar is clamped once, so that KL and std see the same value. Raises ValueError for another size.
        """
        if x.shape[1:] != (1, self.side, self.side):
            raise ValueError(f"images {tuple(x.shape)} for a model of (B, 1, {self.side}, {self.side})")
        h = self.encoder(x.to(self.mu_head.weight.dtype))  # to the weights' dtype: float16 after model.half()
        h = h.permute(0, 2, 3, 1).flatten(1)  # (B, c3, 7, 7) -> (B, 7 * 7 * c3), no copy in channels_last
        h = self.encoder_fc(h)  # -> (B, hidden_dim)
        return self.mu_head(h).float(), self.logvar_head(h).float().clamp(*LOGVAR_RANGE)

    def reparameterize(self, mu, logvar, generator=None):
        """z = mu + std * eps with eps ~ N(0, I): a sample of q(z|x) that mu and logvar get gradients from."""
        eps = torch.empty_like(mu).normal_(generator=generator)
        return mu + torch.exp(0.5 * logvar) * eps

    def decode_logits(self, z):
        """z (B, latent_dim) -> the Bernoulli logits of every pixel, (B, 1, 28, 28)."""
        h = self.decoder_fc(z.to(self.mu_head.weight.dtype))  # -> (B, 7 * 7 * c3)
        h = h.unflatten(1, (self.side // 4, self.side // 4, -1)).permute(0, 3, 1, 2)  # -> (B, c3, 7, 7)
        return self.decoder(h)

    def decode(self, z):
        """z (B, latent_dim) -> images, float32 (B, 1, 28, 28) in [0, 1]."""
        return torch.sigmoid(self.decode_logits(z).float())

    def forward(self, x, generator=None):
        """The training pass: x (B, 1, 28, 28) in [0, 1] -> logits, mu, logvar.

        Logits, not images: the BCE on logits keeps its gradient where a sigmoid has saturated.
        """
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar, generator)
        return self.decode_logits(z), mu, logvar

    @torch.no_grad()
    def encode_all(self, batches):
        """Any number of batches of images, on any device -> mu, logvar, (N, latent_dim) each, on the CPU."""
        parts = (self.encode(x.to(self.mu_head.weight.device)) for xs in batches for x in xs.split(AT_ONCE))
        return tuple(torch.cat(values).cpu() for values in zip(*parts, strict=True))  # of mu, then of logvar

    @torch.no_grad()
    def decode_all(self, z):
        """Any number of z (N, latent_dim), on any device -> images (N, 1, 28, 28) on the CPU."""
        parts = z.to(self.mu_head.weight.device).split(AT_ONCE)
        return torch.cat([self.decode(part).cpu() for part in parts])

    def sample(self, n, temperature=1.0, generator=None):
        """n images decoded from z ~ N(0, temperature^2 I): float32 (n, 1, 28, 28) in [0, 1], on the CPU.

        For a model in eval mode. ``generator`` is a CPU generator: a seed gives the same z on all devices.
        """
        return self.decode_all(temperature * torch.randn(n, self.config["latent_dim"], generator=generator))


class ResidualBlock(nn.Module):
    """x + body(x): (B, maps, H, W) -> the same.

    Pre-activated (He et al. 2016, arXiv:1603.05027), but with only one batch norm. The last convolution
    starts at zero (Zhang et al. 2019, arXiv:1901.09321), so that an untrained block passes x on as it is.
    """

    def __init__(self, maps):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(maps),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(maps, maps, 3, padding=1),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(maps, maps, 3, padding=1),
        )
        for parameter in self.body[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x):
        return x + self.body(x)


RECON = "BCE"  # the name of recon_loss, printed, and checked in checkpoints: rename it with the loss


def recon_loss(logits, x):
    """-log p(x|z) of every image in nats, summed over its pixels: logits (..., C, H, W) -> (...), float32.

    The pixels are Bernoulli variables; gray levels count as their means. x is (B, C, H, W), and logits
    may have more dimensions in front of these: many z for each image.
    """
    x = x.expand_as(logits)
    return F.binary_cross_entropy_with_logits(logits.float(), x, reduction="none").flatten(-3).sum(-1)


def kl_divergence(mu, logvar):
    """KL(q(z|x) || N(0, I)) of every latent in nats, in closed form: (B, latent_dim) -> (B, latent_dim)."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def vae_loss(logits, x, mu, logvar, beta=1.0):
    """What training minimises: ``(loss, bce, kld)`` with loss = bce + beta * kld.

    float32 scalars in nats per image: summed over pixels and latents, averaged over the
    batch. At beta = 1 the loss is the negative ELBO; other values give the beta-VAE of
    Higgins et al. 2017.
    """
    bce, kld = recon_loss(logits, x).mean(), kl_divergence(mu, logvar).sum(1).mean()
    return bce + beta * kld, bce, kld
