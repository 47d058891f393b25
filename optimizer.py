"""The optimiser: AdamW, but Muon for the convolutions."""

import torch

MOMENTUM = 0.95
# Of the polynomial that, five times over, takes singular values between 0 and 1 close to 1
# (Jordan et al. 2024).
LINEAR, CUBIC, QUINTIC, ROUNDS = 3.4445, -4.7750, 2.0315, 5


def make_optimizer(model, lr, weight_decay):
    """Muon for convolutions between many maps, AdamW for the rest; only fully connected weights decay.

    Those are nearly all the weights there are, and the ones that overfit.
    """
    parameters = list(model.parameters())
    convolutions = [p for p in parameters if p.ndim == 4 and min(p.shape[:2]) > 1]
    matrices = [p for p in parameters if p.ndim == 2]
    taken = {id(p) for p in convolutions + matrices}
    groups = [
        {"params": convolutions, "weight_decay": 0.0, "muon": True},
        {"params": matrices, "weight_decay": weight_decay, "muon": False},
        {"params": [p for p in parameters if id(p) not in taken], "weight_decay": 0.0, "muon": False},
    ]
    return MuonAdamW(groups, lr=lr, fused=parameters[0].device.type != "mps")


class MuonAdamW(torch.optim.AdamW):
    """AdamW that leaves the groups with ``muon=True`` to Muon (https://kellerjordan.github.io/posts/muon).

    Adam weighs every weight by itself. Muon takes the momentum of a layer as one matrix and sets its
    singular values to about 1, so that rare directions are learned as fast as the common ones. Its
    steps are scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982): both have one learning rate.
    """

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"] if group["muon"] else []:
                if not self.state[p]:  # AdamW asks every state for its step when it is restored
                    self.state[p] = {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}
                momentum = self.state[p]["momentum"].lerp_(p.grad, 1 - MOMENTUM)
                direction = orthogonal(p.grad.lerp(momentum, MOMENTUM).flatten(1))  # (B, C, 3, 3) -> (B, 9 C)
                p.sub_(direction.view_as(p), alpha=0.2 * max(direction.shape) ** 0.5 * group["lr"])
                p.grad = None  # so that AdamW passes it by
        super().step()


def orthogonal(matrix):
    """U V^T for a matrix U S V^T, about: its singular values come to lie between 0.7 and 1.2."""
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = LINEAR * x + (CUBIC * square + QUINTIC * square @ square) @ x
    return x
