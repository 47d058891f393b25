"""Training images moved at random, and a network that is told how and so learns to draw unmoved ones.

Images that are scaled, turned, sheared and shifted are new in every epoch, but a model that learns them
draws crooked and blurred digits. So with --augment the network is conditional on the moves m of an image:
it learns q(z|x, m) and p(x|z, m), and at m = 0, where it is tested, saved and sampled, it is a plain VAE.
Jun et al., "Distribution Augmentation for Generative Modeling", ICML 2020; Karras et al. 2022
(arXiv:2206.00364, appendix F.2) do so for diffusion.
"""

import torch
from torch import nn
from torch.nn import functional as F

from model import LEAK

# By how much, at size 1, each entry of affine_grid's 2 x 3 matrix changes at most: scale, shear, shift of x;
# shear, scale, shift of y. In images of 28 pixels: 3 % of scale, 3.4 degrees and a shift of 0.4 pixels.
LIMITS = ((0.03, 0.06, 0.03), (0.06, 0.03, 0.03))
STILL = 0.1  # with --augment: the share of images left unmoved, as all are in a test


def augment(x, settings, epoch):
    """Images x (B, 1, H, W) as training sees them in this epoch, and their moves (B, 6): 0 for none."""
    if settings.augment:
        moves = draw_moves(x, STILL)
        return move(x, moves, settings.augment), moves
    if epoch <= settings.move_epochs:
        moves = draw_moves(x)
        return move(x, moves), moves
    return x, torch.zeros(len(x), 6, device=x.device)  # not None: a step's inputs are tensors and numbers


def draw_moves(x, still=0.0):
    """Moves for images x (B, 1, H, W): (B, 6), uniform from -1 to 1, and 0 for a share ``still`` of them."""
    moves = torch.empty(len(x), 6, device=x.device).uniform_(-1, 1)
    return moves * (torch.rand(len(x), 1, device=x.device) >= still)


def move(x, moves, size=1.0):
    """Images x (B, 1, H, W) in [0, 1], each moved as ``moves`` (B, 6) says, ``size`` times LIMITS at most.

    Interpolation blurs; a contrast 1.33 times as high about middle gray makes MNIST's pixels as sharp as they
    were, by their entropy; for photographs it is too high. Moves of 0 leave an image as it is.
    """
    limits = size * torch.tensor(LIMITS, device=x.device)
    maps = torch.eye(2, 3, device=x.device) + limits * moves.view(-1, 2, 3)  # (B, 2, 3)
    grid = F.affine_grid(maps, x.shape, align_corners=False)  # -> (B, H, W, 2)
    # For small moves reflection is as good as "border", which older versions of PyTorch lack on MPS; large
    # ones would mirror ink.
    edge = "reflection" if size <= 1 else "zeros"
    moved = F.grid_sample(x, grid, padding_mode=edge, align_corners=False)
    moved = ((moved - 0.5) * 1.33 + 0.5).clamp(0, 1)
    return torch.where(moves.any(1)[:, None, None, None], moved, x)


class MoveConditioned(nn.Module):
    """A ConvVAE that is told, in training, how its images were moved: in its encoder_fc and decoder_fc.

    An embedding of the moves is added to the first layer's output. It is 0 at moves of 0, and for all moves
    at the start. So at moves of 0 this is the plain model, and a finished run keeps nothing else.
    """

    def __init__(self, model, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.model, self.moves = model, None
        hidden = model.encoder_fc[0], model.decoder_fc[0]
        self.embeddings = nn.ModuleList(MoveEmbedding(layer.out_features) for layer in hidden)
        # Hooks, so that model.py knows nothing of moves: what a hook returns replaces the layer's output.
        for layer, embedding in zip(hidden, self.embeddings, strict=True):
            layer.register_forward_hook(
                lambda _, __, h, embed=embedding: h if self.moves is None else h + embed(self.moves)
            )

    def forward(self, x, generator=None, moves=None):
        """What the model returns for x (B, 1, 28, 28), told of ``moves`` (B, 6), or of none."""
        self.moves = moves
        outputs = self.model(x, generator)
        self.moves = None
        return outputs


class MoveEmbedding(nn.Sequential):
    """Moves (B, 6) -> what they add to a hidden layer, (B, width). Without biases, so that 0 adds 0."""

    def __init__(self, width, between=64):
        super().__init__(
            nn.Linear(6, between, bias=False), nn.LeakyReLU(LEAK), nn.Linear(between, width, bias=False)
        )
        nn.init.zeros_(self[-1].weight)
