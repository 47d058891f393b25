"""The optimiser: Muon for convolutions with several input and output channels, AdamW for the rest."""

from collections import defaultdict

import torch

MOMENTUM = 0.95
# orthogonal() applies p(s) = 3.4445 s - 4.7750 s^3 + 2.0315 s^5 to singular values s, five times, and so
# maps [0.0015, 1] into [0.68, 1.21]: the Newton-Schulz iteration of Jordan et al. 2024
LINEAR, CUBIC, QUINTIC, ROUNDS = 3.4445, -4.7750, 2.0315, 5


def make_optimizer(model, lr, weight_decay, betas=(0.9, 0.999)):
    """Muon for convolutions with several input and output channels; AdamW, with these betas, for the rest.

    Only the fully connected weights decay: they are nearly all of the parameters, and those that overfit.
    Muon on them would more than double the time of a step. benchmark.py passes other betas.
    """
    convolutions, matrices, others = [], [], []
    for p in model.parameters():
        if p.ndim == 4 and min(p.shape[:2]) > 1:
            convolutions.append(p)
        elif p.ndim == 2:
            matrices.append(p)
        else:
            others.append(p)
    groups = [
        {"params": convolutions, "weight_decay": 0.0, "muon": True},
        {"params": matrices, "weight_decay": weight_decay, "muon": False},
        {"params": others, "weight_decay": 0.0, "muon": False},
    ]
    device = next(model.parameters()).device.type
    # capturable: its steps can be part of a CUDA graph
    return MuonAdamW(groups, lr=lr, betas=betas, fused=device != "mps", capturable=device == "cuda")


class MuonAdamW(torch.optim.AdamW):
    """AdamW that leaves the groups with ``muon=True`` to Muon (https://kellerjordan.github.io/posts/muon).

    Adam divides each parameter's step by the size of its own past gradients. Muon takes
    the momentum of a layer as one matrix and sets its singular values to about 1, so that rare
    directions move as far as common ones. Its steps have a root mean square of about 0.2 lr, as
    AdamW's usually do (Liu et al. 2025, arXiv:2502.16982), so one learning rate serves both. ``step``
    sets the gradients of Muon's groups to None.
    """

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            same_shape = defaultdict(list)
            for p in group["params"]:
                if group["muon"] and p.grad is not None:
                    same_shape[p.shape].append(p)
            for parameters in same_shape.values():
                self.muon_step(parameters, group["lr"], group["weight_decay"])
        super().step()

    def muon_step(self, parameters, lr, weight_decay):
        """One step for parameters of one shape, orthogonalised in one batch: one by one takes longer."""
        ahead = []
        for p in parameters:
            state = self.state[p]
            if "momentum" not in state:  # AdamW's load_state_dict wants a "step", which stays 0
                state.update(step=torch.zeros(()), momentum=torch.zeros_like(p))
            state["momentum"].lerp_(p.grad, 1 - MOMENTUM)
            # Nesterov: 0.95 of the momentum and 0.05 of this gradient. (out, in, k, k) ->
            # (out, in * k * k); in and out change places in a transposed convolution
            ahead.append(p.grad.lerp(state["momentum"], MOMENTUM).flatten(1))
            p.grad = None  # so that AdamW passes it by
        for p, direction in zip(parameters, orthogonal(torch.stack(ahead)), strict=True):
            p.mul_(1 - lr * weight_decay)
            # rows of norm 1 have a root mean square of 1 / sqrt(columns), the longer side: make it 0.2 lr
            p.sub_(direction.view_as(p) * (0.2 * max(direction.shape) ** 0.5 * lr))


def orthogonal(matrices):
    """About U V^T for every matrix U S V^T of (..., rows, columns), without its SVD.

    Singular values of at least 0.0015 times the matrix's norm end between 0.68 and 1.21, smaller ones below.
    All rounds work on the small square matrix x x^T: no convolution here has more rows than columns.
    """
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # no singular value is above 1
    square = x @ x.mT  # U S^2 U^T
    factor = identity = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    for _ in range(ROUNDS):  # the iterate is y = factor @ x, and square is y y^T
        # a round multiplies x by this, U (p(S) / S) U^T
        ratio = LINEAR * identity + CUBIC * square + QUINTIC * square @ square
        factor, square = ratio @ factor, ratio @ square @ ratio
    return factor @ x
