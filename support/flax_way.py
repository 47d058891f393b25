"""Flax's example VAE in JAX, the fastest peer that we know of, for benchmark.py.

It is fully connected, 784-500-20-500-784, with ReLU, Adam and batches of 128; each step is compiled:
https://github.com/google/flax/tree/main/examples/vae
"""

import jax
import numpy as np
import optax
import torch
from flax import linen
from jax import numpy as jnp


def flax_way(example, images, batch_size, lr, seed):
    """A function that trains on a part of the images (N, 1, 28, 28) once, then copies weights to ``example``.

    ``example`` is a usual.Example, so that one function measures every network. The first compilation
    is done here.
    """
    hidden, latents = example.mu_head.in_features, example.mu_head.out_features

    class VAE(linen.Module):
        @linen.compact
        def __call__(self, x, key):  # (B, 784), a random key -> logits (B, 784), mu, logvar (B, 20)
            h = linen.relu(linen.Dense(hidden, name="encoder")(x))
            mu, logvar = (linen.Dense(latents, name=name)(h) for name in ("mu_head", "logvar_head"))
            z = mu + jnp.exp(0.5 * logvar) * jax.random.normal(key, mu.shape)
            h = linen.relu(linen.Dense(hidden, name="decoder")(z))
            return linen.Dense(x.shape[1], name="logits")(h), mu, logvar

    def loss(weights, x, key):
        logits, mu, logvar = network.apply(weights, x, key)
        bce = optax.sigmoid_binary_cross_entropy(logits, x).sum(1)
        kld = 0.5 * (jnp.square(mu) + jnp.exp(logvar) - 1 - logvar).sum(1)
        return (bce + kld).mean()

    @jax.jit
    def step(weights, state, x, key):
        updates, state = adam.update(jax.grad(loss)(weights, x, key), state)
        return optax.apply_updates(weights, updates), state

    x = jnp.asarray(images.flatten(1).numpy(), jnp.float32) / 255
    network, adam, key = VAE(), optax.adam(lr), jax.random.key(seed)
    weights = network.init(key, x[:1], key)
    state, order = adam.init(weights), np.random.default_rng(seed)
    jax.block_until_ready(step(weights, state, x[:batch_size], key))  # compiled, and forgotten

    def run(part=slice(None)):
        nonlocal weights, state, key
        chosen = order.permutation(np.arange(len(x))[part])
        # whole batches: each other size would be compiled, too
        for start in range(0, len(chosen) - batch_size + 1, batch_size):
            key, own = jax.random.split(key)
            weights, state = step(weights, state, x[chosen[start : start + batch_size]], own)
        for name, layer in example.named_children():
            kernel, bias = (np.array(weights["params"][name][kind]) for kind in ("kernel", "bias"))
            layer.load_state_dict({"weight": torch.from_numpy(kernel.T), "bias": torch.from_numpy(bias)})

    return run
