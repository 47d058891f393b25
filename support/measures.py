"""Figures of a model that more than one script asks for."""

import math

import torch
import torch.distributed as dist
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.nn import functional as F

from importance import log_weights
from model import AT_ONCE, kl_divergence, recon_loss
from support.errors import UserError
from support.terminal import warn

# z to decode at a time: with fewer a GPU waits for Python
DECODED = {"cpu": AT_ONCE, "cuda": 2000, "mps": 2000}
NEIGHBORS = 10
PERPLEXITY = 30.0  # of t-SNE


class Means:
    """Means over images of (loss, bce, kld), added up on the device and in the end over all ranks."""

    def __init__(self, device):
        dtype = torch.float32 if device.type == "mps" else torch.float64  # which MPS does not have
        self.sums = torch.zeros(4, dtype=dtype, device=device)

    def add(self, losses, images):
        self.sums += torch.stack([*losses, torch.ones_like(losses[0])]) * images

    def compute(self):
        if dist.is_initialized():
            dist.all_reduce(self.sums)
        *sums, images = self.sums.tolist()
        return [total / images for total in sums]


@torch.no_grad()
def elbo_terms(model, batches, draws=1, generator=None, precision="fp32"):
    """The terms of the negative ELBO of every image, and the latents that they come from.

    ``batches`` yields images (B, 1, 28, 28) in [0, 1]. Returns bce (N,), averaged over ``draws``
    samples of z, and kld (N,), in closed form, in float32 nats; mu and logvar, (N, latent_dim) each.
    """
    columns = []
    for x in batches:
        mu, logvar = model.encode(x)
        samples = [model.reparameterize(mu, logvar, generator) for _ in range(draws)]
        bce = torch.stack([recon_of(model, z, x, precision) for z in samples]).mean(0)
        columns.append((bce, kl_divergence(mu, logvar).sum(1), mu, logvar))
    return [torch.cat(column) for column in zip(*columns, strict=True)]


def recon_of(model, z, x, precision="fp32"):
    """-log p(x|z) of images x (B, 1, 28, 28) with latents z (..., B, latent_dim): (..., B) float32 nats.

    ``precision`` is that of the decoder's layers: "fp32" or "bf16".
    """
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        parts = z.flatten(0, -2).split(DECODED[x.device.type])
        logits = torch.cat([model.decode_logits(part) for part in parts])
    return recon_loss(logits.unflatten(0, z.shape[:-1]), x)


@torch.no_grad()
def iw_log_likelihood(model, x, k, generator, precision="fp32", spread=1.0):
    """log 1/k sum_i p(x, z_i) / r(z_i) for images x (B, 1, 28, 28), z_i ~ r: (B,) nats.

    A lower bound on log p(x) on average, whatever r is, and tighter for larger k: Burda et al.,
    "Importance Weighted Autoencoders", 2016 (arXiv:1509.00519). r is q(z|x) with its standard
    deviations times ``spread``, but none raised above the prior's 1, which latents out of use have
    already.
    """
    mu, logvar = model.encode(x)  # once, whatever k
    logvar = torch.maximum(logvar, (logvar + 2 * math.log(spread)).clamp(max=0))
    total = torch.full((len(x),), -math.inf, device=x.device)
    at_once = max(1, DECODED[x.device.type] // len(x))  # for each image
    for start in range(0, k, at_once):
        n = min(at_once, k - start)
        eps = torch.randn(n, *mu.shape, generator=generator, device=x.device)  # (n, B, latent_dim)
        z = mu + (0.5 * logvar).exp() * eps
        bce = recon_of(model, z, x, precision)  # (n, B)
        total = torch.logaddexp(total, log_weights(bce, mu, logvar, z).logsumexp(0))
    return total - math.log(k)


def most_likely_class(mixture, z):
    """The class whose part of the latent mixture has the highest density at each z (N, latent_dim): (N,)."""
    density = MixtureSameFamily(  # of each class: K components in D dimensions
        Categorical(mixture["weights"], validate_args=False),
        MultivariateNormal(mixture["means"], scale_tril=mixture["cholesky"], validate_args=False),
        validate_args=False,
    )
    share = mixture["share"].log()
    parts = [(density.log_prob(part[:, None]) + share).argmax(1) for part in z.split(1000)]  # (N, C) -> (N,)
    return torch.cat(parts)


def entropy(x):
    """Mean entropy of the pixels as Bernoulli variables, nats per image: no BCE can be lower."""
    return F.binary_cross_entropy(x, x, reduction="sum") / len(x)


def standard_error(values):
    return (values.cpu().double().std() / math.sqrt(len(values))).item()


def neighbor_accuracy(points, labels, queries=None, query_labels=None):
    """How often the majority of its 10 nearest points has a query's label; of a tie, each has its share.

    points (N, D) and queries (M, D), labels (N,) and query_labels (M,), all tensors on the CPU.
    Without queries they are the points themselves, each without itself among its neighbours.
    """
    from sklearn.neighbors import NearestNeighbors  # here, not above: --help should not wait for it

    search = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(points)), algorithm="brute").fit(points.numpy())
    queried = None if queries is None else queries.numpy()
    nearest = torch.from_numpy(search.kneighbors(queried, return_distance=False))  # (M, 10)
    votes = F.one_hot(labels[nearest], int(labels.max()) + 1).sum(1)  # (M, classes)
    first = votes == votes.amax(1, keepdim=True)  # more than one where votes tie
    wanted = (labels if queries is None else query_labels)[:, None]
    return (first.gather(1, wanted)[:, 0] / first.sum(1)).double().mean().item()


def embed(mu, path, seed, perplexity=None, verbose=0):
    """t-SNE of mu (N, latent_dim), made by the model at ``path``: (N, 2), on the CPU.

    Raises UserError where there is no map, as of a single image.
    """
    from sklearn.manifold import TSNE  # here, not above: --help should not wait for it

    n = len(mu)
    perplexity = perplexity or min(PERPLEXITY, (n - 1) / 3)
    if n < 2 or perplexity >= n:
        raise UserError(f"t-SNE needs at least 2 images and more than --perplexity of tsne.py: there are {n}")
    if not mu.isfinite().all() or (mu == mu[0]).all():
        raise UserError(f"{path} encodes every image as the same z, or none: train another model")
    print(f"t-SNE of {n:,} test images, perplexity {perplexity:.3g}", flush=True)
    if perplexity > n / 3:
        warn(f"at a perplexity of {perplexity:g} nearly all {n:,} points are neighbours: the map says little")
    init = "pca" if min(mu.shape) > 1 else "random"
    tsne = TSNE(perplexity=perplexity, init=init, random_state=seed, n_jobs=-1, verbose=verbose)
    return torch.from_numpy(tsne.fit_transform(mu.numpy()))
