"""Moved training images, and a network that is told how each was moved, so that it need not draw such ones.

Images that are scaled, turned, sheared and shifted at random are new in every epoch, but a model of
them draws blurred and crooked digits. So it is told the moves a of each: it learns q(z|x, a) and
p(x|z, a), and at a = 0, where it is tested, saved and sampled, it is a plain VAE of plain images.
Jun et al., "Distribution Augmentation for Generative Modeling", ICML 2020; Karras et al. 2022
(arXiv:2206.00364, appendix F.2) do so for diffusion.
"""

import torch
from torch import nn
from torch.nn import functional as F

from model import LEAK

# Of an affine map of coordinates from -1 to 1, at size 1: scale, shear and shift of x, then shear, scale
# and shift of y. So up to 3 % of scale, 3.4 degrees of turning, 0.4 of 28 pixels of shift.
LIMITS = ((0.03, 0.06, 0.03), (0.06, 0.03, 0.03))
STILL = 0.1  # the share of told images that stay as they are: what the model is for
WIDTH = 64  # of the layer between the moves and what they add


def augment(x, settings, epoch):
    """Images x (B, 1, H, W) as training sees them in this epoch, and their moves (B, 6): 0 for none."""
    if settings.augment:
        moves = draw_moves(x, STILL)
        return move(x, moves, settings.augment), moves
    moves = torch.zeros(len(x), 6, device=x.device)
    if epoch <= settings.move_epochs:
        moves = draw_moves(x)
        x = move(x, moves)
    return x, moves


def draw_moves(x, still=0.0):
    """Moves for images x (B, 1, H, W): (B, 6), uniform from -1 to 1, and 0 for a share ``still`` of them."""
    moves = torch.empty(len(x), 6, device=x.device).uniform_(-1, 1)
    return moves * (torch.rand(len(x), 1, device=x.device) >= still)


def move(x, moves, size=1.0):
    """Images x (B, 1, H, W) in [0, 1], each moved as ``moves`` (B, 6) says, ``size`` times LIMITS at most.

    Interpolation blurs; a contrast 1.33 times as high about middle gray gives MNIST's pixels their entropy
    back. It is meant for writing, and too stark for photographs. Moves of 0 leave an image as it is.
    """
    limits = size * torch.tensor(LIMITS, device=x.device)
    maps = torch.eye(2, 3, device=x.device) + limits * moves.view(-1, 2, 3)  # (B, 2, 3)
    grid = F.affine_grid(maps, x.shape, align_corners=False)  # -> (B, H, W, 2)
    # "border" would do as well, but older versions of PyTorch lack it on MPS
    edge = "reflection" if size <= 1 else "zeros"
    moved = F.grid_sample(x, grid, padding_mode=edge, align_corners=False)
    moved = ((moved - 0.5) * 1.33 + 0.5).clamp(0, 1)
    return torch.where(moves.any(1)[:, None, None, None], moved, x)


class Told(nn.Module):
    """A ConvVAE that is told how its training images were moved, in the hidden layer of either half.

    What the moves add there is 0 at the start, and always at moves of 0: the model without this is the
    model that was trained. Its weights are for training alone.
    """

    def __init__(self, model):
        super().__init__()
        self.model, self.moves = model, None
        hidden = model.encoder_fc[0], model.decoder_fc[0]
        self.tells = nn.ModuleList(Tell(layer.out_features) for layer in hidden)
        for layer, tell in zip(hidden, self.tells, strict=True):
            layer.register_forward_hook(lambda _, __, h, tell=tell: tell(h, self.moves))

    def forward(self, x, generator=None, moves=None):
        """What the model returns for x (B, 1, 28, 28), told of ``moves`` (B, 6), or of none."""
        self.moves = moves
        outputs = self.model(x, generator)
        self.moves = None
        return outputs


class Tell(nn.Module):
    """h (B, width), moves (B, 6) -> h and what the moves add to it, the same shape."""

    def __init__(self, width):
        super().__init__()
        # no biases: nothing is added at moves of 0
        self.layers = nn.Sequential(
            nn.Linear(6, WIDTH, bias=False), nn.LeakyReLU(LEAK), nn.Linear(WIDTH, width, bias=False)
        )
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, h, moves):
        return h if moves is None else h + self.layers(moves)
