"""The importance-weighted bound: several z for each image, for a tighter bound on log p(x) than the ELBO.

Burda et al., "Importance Weighted Autoencoders", 2016 (arXiv:1509.00519). The encoder's
gradient is the doubly reparameterised one of Tucker et al., "Doubly Reparameterized Gradient
Estimators for Monte Carlo Objectives", 2019 (arXiv:1810.04152): the plain one drowns in
noise as the number of samples grows.
"""

import math

from torch import nn

from model import kl_divergence, recon_loss


class ImportanceWeighted(nn.Module):
    """A ConvVAE whose forward pass draws ``samples`` z for each image."""

    def __init__(self, model, samples):
        super().__init__()
        self.model, self.samples = model, samples

    def forward(self, x, generator=None):
        """x (B, 1, 28, 28) -> logits (K, B, 1, 28, 28), mu, logvar (B, latent_dim), z (K, B, latent_dim)."""
        mu, logvar = self.model.encode(x)
        shape = (self.samples, *mu.shape)
        z = self.model.reparameterize(mu.expand(shape), logvar.expand(shape), generator)
        logits = self.model.decode_logits(z.flatten(0, 1))  # (K * B, 1, 28, 28)
        return logits.unflatten(0, shape[:2]), mu, logvar, z


def iw_loss(logits, x, mu, logvar, z):
    """``(loss, bce, kld)`` of ImportanceWeighted's output: float32 scalars in nats per image.

    loss is the bound, negated: -log 1/K sum_k p(x, z_k) / q(z_k|x), averaged over the batch. bce, averaged
    over the same z, and kld, in closed form, are the negative ELBO's terms: on average loss <= bce + kld.
    """
    bce = recon_loss(logits, x)  # (K, B)
    # detached: gradients reach the encoder through z alone
    log_w = log_weights(bce, mu.detach(), logvar.detach(), z)
    if z.requires_grad:  # not in evaluation
        # Backward weighs the gradient of sample k by its normalised weight w_k. What reaches the encoder,
        # through z, is weighed by w_k once more: doubly reparameterised. The decoder's keeps w_k.
        weights = log_w.detach().softmax(0)
        z.register_hook(lambda grad: grad * weights.unsqueeze(2))
    loss = math.log(len(z)) - log_w.logsumexp(0)
    return loss.mean(), bce.mean(), kl_divergence(mu, logvar).sum(1).mean()


def log_weights(bce, mu, logvar, z):
    """log p(x, z) / q(z|x) of samples z (K, B, latent_dim) with -log p(x|z) = bce (K, B): (K, B) nats."""
    log_q = -0.5 * ((z - mu).square() / logvar.exp() + logvar).sum(2)
    log_p = -0.5 * z.square().sum(2)  # the two Gaussians' constants cancel
    return log_p - log_q - bce
