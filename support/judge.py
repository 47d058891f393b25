"""The judge of samples: a small classifier, and the Fréchet distance in its features.

A likelihood says little about how samples look, so evaluate.py --samples asks a
classifier that has never seen the model: how far the distribution of its features on
samples is from that on the test images (Heusel et al., "GANs trained by a two time-scale
update rule", 2017, arXiv:1706.08500, do this with Inception), and which class it sees.
"""

import io
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from support.files import write_file
from support.runs import checksum
from support.terminal import progress, warn

STEPS, BATCH = 1407, 128  # three passes over MNIST, and as many steps on fewer images
ENOUGH, RIGHT = 300, 0.8  # images, and how often the judge has to be right, for a distance to mean anything
KINDS = {  # of images that are judged: what they are called
    "train": "training images",
    "recon": "reconstructions",
    "prior": "N(0, I)",
    "mixture": "latent mixture",
}


def new_judge(classes, image_size):
    """A classifier in two halves: images (B, 1, 28, 28) in [0, 1] -> features (B, 128) -> class logits."""
    features = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),  # (B, 1, 28, 28) -> (B, 16, 28, 28)
        nn.MaxPool2d(2),  # -> (B, 16, 14, 14)
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),  # -> (B, 32, 14, 14)
        nn.MaxPool2d(2),  # -> (B, 32, 7, 7)
        nn.ReLU(),
        nn.Flatten(),  # -> (B, 32 * 7 * 7)
        nn.Dropout(0.3),
        nn.Linear(32 * (image_size // 4) ** 2, 128),
        nn.ReLU(),
    )
    return nn.Sequential(features, nn.Linear(128, classes))


def load_judge(folder, images, labels):
    """The judge of these images (N, 1, 28, 28) and labels (N,), trained and then kept in ``folder``.

    Each set of training images has its own, since it must not have seen the images that it judges.
    """
    path = Path(folder) / f"judge-{checksum(images, labels):08x}.pt"
    torch.manual_seed(0)  # the same judge whatever it is to judge: its first weights come from here
    judge = new_judge(int(labels.max()) + 1, images.shape[-1]).to(images.device)
    try:
        judge.load_state_dict(torch.load(path, map_location=images.device, weights_only=True))
    except Exception:  # whatever is wrong with a cache, training anew mends it
        train_judge(judge, images, labels)
        buffer = io.BytesIO()
        torch.save(judge.state_dict(), buffer)
        try:
            write_file(path, buffer.getvalue())
        except OSError as error:  # no reason to lose what was measured
            warn(f"the judge cannot be kept for next time ({path}: {error.strerror})")
    return judge.eval()


@torch.enable_grad()  # evaluate.py, which asks for a judge, has no use for gradients otherwise
def train_judge(judge, images, labels):
    judge.train()
    labels = labels.to(images.device)
    optimizer = torch.optim.Adam(judge.parameters())
    indices = ()
    for _ in progress(range(STEPS), desc="training the judge", unit="step"):
        indices = indices[1:] or torch.randperm(len(images)).to(images.device).split(BATCH)  # the next pass
        x = images[indices[0]].float() / 255
        loss = F.cross_entropy(judge(x), labels[indices[0]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def assess(judge, images):
    """The judge's features (N, 128) and class probabilities (N, classes) of images in [0, 1], on the CPU."""
    to_features, to_logits = judge
    device = to_logits.weight.device
    features = torch.cat([to_features(part.to(device)) for part in images.split(1000)])
    return features.cpu(), to_logits(features).softmax(1).cpu()


def frechet_distance(a, b):
    """Squared Fréchet distance between the Gaussians that fit features a (N, D) and b (M, D)."""
    a, b = a.double(), b.double()
    cov_a, cov_b = a.T.cov(), b.T.cov()
    # tr (A B)^1/2 = tr (A^1/2 B A^1/2)^1/2, which is symmetric and has real eigenvalues
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * overlap).item()


def sample_numbers(judge, kinds, images, labels):
    """What the judge says of evaluate.py's kinds of images, beside real images and their labels (N,).

    ``floor`` is the distance between two halves of as many training images as there are real ones, each: what
    a distribution's distance to itself is at that number.
    """
    real, probabilities = assess(judge, images)
    accuracy = (probabilities.argmax(1) == labels).float().mean().item()
    one, other = (assess(judge, half)[0] for half in kinds["halves"])
    result = {"judge_accuracy": accuracy, "floor": frechet_distance(one, other), "halves": len(one)}
    result["meaningful"] = accuracy >= RIGHT and len(images) >= ENOUGH
    for kind in KINDS:
        features, probabilities = assess(judge, kinds[kind])
        seen = torch.bincount(probabilities.argmax(1), minlength=probabilities.shape[1])
        result[kind] = {
            "frechet": frechet_distance(features, real),
            "confidence": probabilities.max(1).values.mean().item(),
            "share": (seen / len(features)).tolist(),
        }
    _, probabilities = assess(judge, kinds["asked"])
    classes = probabilities.shape[1]
    asked = torch.arange(classes).repeat_interleave(len(probabilities) // classes)
    result["asked_for"] = (probabilities.argmax(1) == asked).float().mean().item()
    return result


def sample_table(s, names, split):
    """What is printed of sample_numbers, with the classes' names: its lines."""
    width = max(5, *map(len, names))  # as wide as "100.0", or as the longest name
    lines = [
        f"{s['n']:,} samples of each kind, seed {s['seed']}, the mixture's at temperature {s['temperature']};"
        f" the judge is right on {s['judge_accuracy']:.2%} of the {split} images",
        "                   Frechet distance   confidence     share of each class, %",
        " " * 51 + " ".join(f"{name:>{width}}" for name in names),
    ]
    for kind, name in KINDS.items():
        share = " ".join(f"{100 * value:{width}.1f}" for value in s[kind]["share"])
        distance = f"{s[kind]['frechet']:12.2f}" if s["meaningful"] else f"{'-':>12}"
        lines.append(f"  {name:16} {distance} {s[kind]['confidence']:16.1%}   {share}")
    if s["meaningful"]:
        lines.append(
            f"  {s['halves']:,} training images are {s['floor']:.2f} from as many others: no less can be seen"
        )
    else:
        lines.append(
            f"  no distances: they need {ENOUGH} {split} images, and a judge that is right on {RIGHT:.0%}"
        )
    return "\n".join([*lines, f"  --digit D is seen as D {s['asked_for']:.1%} of the time"])
