"""The latent mixture: where in the latent space the encoder puts each class.

The decoder is trained where the encoder sends images, and N(0, I) has places where it
sends none: samples from there look like no digit. So the encoded training set is summed
up by a Gaussian mixture for each class, fitted after training. The labels serve this
summary alone; the network never sees them.

Ghosh et al., "From Variational to Deterministic Autoencoders", 2020 (arXiv:1903.12436),
fit a density to the latents after training in the same way.
"""

import torch

COMPONENTS = 10  # per class, or less for few images, each with a full covariance
TEMPERATURE = 0.9  # below 1, since the tails of a component seldom decode to digits


def fit_mixture(z, labels, seed=0):
    """Fit a Gaussian mixture to each class of z (N, latent_dim) with labels (N,).

    z are samples of q(z|x), not their means: the posterior's own width is part of the mixture.
    Returns float32 tensors for C classes of K components: ``share`` (C,) of each class in
    the data, ``weights`` (C, K), ``means`` (C, K, D), ``cholesky`` (C, K, D, D), the lower
    triangular factor of each covariance.
    """
    from sklearn.mixture import GaussianMixture  # here, not above: only the end of a run needs it
    from threadpoolctl import threadpool_limits

    members = [z[labels == label].double().numpy() for label in range(int(labels.max()) + 1)]
    # so many that a component of the smallest class has 4 images for each latent, but at least one
    smallest = min(len(own) for own in members)
    components = max(1, min(COMPONENTS, smallest // (4 * z.shape[1])))
    with threadpool_limits(1):  # with matrices this small two threads take six times as long as one
        fits = [
            GaussianMixture(components, reg_covar=1e-3, random_state=seed, max_iter=200).fit(own)
            for own in members
        ]

    def stack(name):
        return torch.stack([torch.from_numpy(getattr(fit, name)) for fit in fits])

    return {
        "share": torch.bincount(labels).float() / len(labels),
        "weights": stack("weights_").float(),
        "means": stack("means_").float(),
        "cholesky": torch.linalg.cholesky(stack("covariances_")).float(),
    }


def sample_mixture(mixture, labels, temperature=TEMPERATURE, generator=None):
    """One z for each of labels (n,), from fit_mixture's dict: (n, latent_dim), on the CPU.

    ``temperature`` scales the spread.
    """
    component = torch.multinomial(mixture["weights"][labels], 1, generator=generator)[:, 0]
    means, cholesky = mixture["means"][labels, component], mixture["cholesky"][labels, component]
    eps = torch.randn(means.shape, generator=generator)
    return means + temperature * (cholesky @ eps[:, :, None])[:, :, 0]


def sample_labels(mixture, n, generator=None):
    """n class numbers, each as often as in the training set: (n,)."""
    return torch.multinomial(mixture["share"], n, replacement=True, generator=generator)
