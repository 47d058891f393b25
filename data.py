"""Images and labels of a data set as tensors, and batches of them.

A data set of this kind is small (MNIST: 47 MB), so all of it lives in one uint8
tensor on the training device, and a batch is a single indexing operation. There is
no DataLoader, no worker process and no per-image transform to wait for.
"""

import zlib

import torch
from torch.nn import functional as F

from mnist import load_files


def load_dataset(name, data_dir, split, validate=False):
    """One split of a data set: ``"train"``, ``"test"`` or ``"validation"``, as a Split.

    With ``validate``, "train" is without the images that "validation" holds out of it. The
    packaged sample stands in for MNIST when neither files nor network are there. Raises
    DataError if the files are incomplete or corrupt, or cannot be had.
    """
    if split == "test":
        return load_files(name, data_dir, "t10k")
    train = load_files(name, data_dir, "train")
    if validate or split == "validation":
        kept, held_out = hold_out(len(train.images))
        chosen = held_out if split == "validation" else kept
        return train._replace(images=train.images[chosen], labels=train.labels[chosen])
    return train


def hold_out(count):
    """Five sixths of ``count`` images to keep, a sixth to hold out, always the same: two index tensors."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1234))
    return order.tensor_split([count * 5 // 6])


def to_float(images):
    """uint8 images -> float32 in [0, 1], of the same shape and on the same device."""
    return images.float().div_(255)


def draw_pixels(x, binarize, generator=None):
    """Images x in [0, 1] as a model sees them: as they are, or black and white, drawn from their grays."""
    return torch.bernoulli(x, generator=generator) if binarize else x


def move(x):
    """Images x (B, 1, H, W) in [0, 1], each scaled, turned, sheared and shifted a little, at random.

    By up to 3 %, 3.4 degrees either way and 1.5 % of the side: of 28 pixels, 0.4. Interpolation blurs,
    so the contrast is raised about middle gray: MNIST's pixels keep their entropy. It is meant for
    writing; it would make photographs too stark.
    """
    limits = torch.tensor([[0.03, 0.06, 0.03], [0.06, 0.03, 0.03]], device=x.device)
    noise = torch.empty(len(x), 2, 3, device=x.device).uniform_(-1, 1)
    maps = torch.eye(2, 3, device=x.device) + limits * noise  # affine, for coordinates from -1 to 1
    grid = F.affine_grid(maps, x.shape, align_corners=False)  # -> (B, H, W, 2)
    # not "border", which PyTorch has not had on every device
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    return ((x - 0.5) * 1.33 + 0.5).clamp(0, 1)


def checksum(images, labels):
    """A number that tells these images and labels, in this order, from others."""
    return zlib.crc32(labels.cpu().numpy(), zlib.crc32(images.cpu().numpy()))


def batches(images, batch_size, binarize=False, generator=None):
    """Yield float32 batches (B, 1, 28, 28) as a model sees them, of uint8 images (N, 1, 28, 28), in order."""
    for part in images.split(batch_size):
        yield draw_pixels(to_float(part), binarize, generator)
