"""The usual way of training a VAE, which benchmark.py compares this repository's with."""

import copy

import torch
from torch import nn
from torch.utils.data import DataLoader

from model import ConvVAE, vae_loss


def usual_way(model, split, batch_size, lr):
    """A function that trains on a part of the images once, as most examples do it."""
    from torchvision import datasets, transforms  # here, not above: --help should not wait for it

    class InMemory(datasets.MNIST):
        """torchvision's MNIST, reading an item as it always does, from images that are already here."""

        def __init__(self, part):
            datasets.VisionDataset.__init__(self, root="", transform=transforms.ToTensor())
            self.data, self.targets = split.images[part, 0], split.labels[part]  # (N, 28, 28), (N,)

    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def run(part=slice(None)):
        model.train()
        total = 0.0
        for x, _ in DataLoader(InMemory(part), batch_size, shuffle=True):
            x = x.to(device)
            optimizer.zero_grad()
            logits, mu, logvar = model(x)
            loss, _, _ = vae_loss(logits, x, mu, logvar)
            loss.backward()
            total += loss.item()
            optimizer.step()

    return run


def usual_layers(model):
    """A copy of the ConvVAE with every LeakyReLU before its max-pooling: the same function, more work."""
    model = copy.deepcopy(model)
    layers = list(model.encoder)
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    for i in pools:
        layers[i], layers[i + 1] = layers[i + 1], layers[i]
    model.encoder = nn.Sequential(*layers)
    return model


class Example(nn.Module):
    """Kingma & Welling's VAE of 2013 with ReLU, as in pytorch/examples: called like ConvVAE, same shapes."""

    reparameterize, forward = ConvVAE.reparameterize, ConvVAE.forward

    def __init__(self, hidden=400, latents=20):
        super().__init__()
        self.encoder = nn.Linear(784, hidden)
        self.mu_head, self.logvar_head = nn.Linear(hidden, latents), nn.Linear(hidden, latents)
        self.decoder = nn.Linear(latents, hidden)
        self.logits = nn.Linear(hidden, 784)

    def encode(self, x):
        h = self.encoder(x.flatten(1)).relu()  # (B, 1, 28, 28) -> (B, hidden)
        return self.mu_head(h), self.logvar_head(h)

    def decode_logits(self, z):
        return self.logits(self.decoder(z).relu()).view(-1, 1, 28, 28)
