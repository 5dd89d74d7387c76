"""Small trainable modules put on a frozen teacher."""

import torch
from torch import Tensor, nn


class Houlsby(nn.Module):
    r"""Residual bottleneck adapter.

    .. math:: h \leftarrow h + f(h W_{down}) W_{up}, \quad f = \mathrm{ReLU}

    Source: Houlsby et al. 2019; PESF-KD v1 Eq. 6, v2 Eq. 5 (no biases, as printed).
    The paper leaves open: the initialisation. W_up starts at zero, so that training starts from the unchanged teacher.

    Args:
        width: features of the input, D (or C where it sits on the logits).
        rank: width of the bottleneck, >= 1 (32 in the paper).
    """

    def __init__(self, width: int, rank: int = 32):
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, h: Tensor) -> Tensor:
        """[B, width] -> [B, width]."""
        return h + self.up(torch.relu(self.down(h)))
