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
        self.down, self.up = _bottleneck(width, rank, width)

    def forward(self, h: Tensor) -> Tensor:
        """[B, width] -> [B, width]."""
        return h + self.up(torch.relu(self.down(h)))


class LoRA(nn.Module):
    r"""Low-rank update of a frozen linear layer: what it adds to that layer's output.

    .. math:: h W_0 \leftarrow h W_0 + \frac{\alpha}{r} h A B

    Source: Hu et al. 2022, section 4.1: A starts at random, B at zero, so that training starts from the unchanged layer.
    Differs from the paper: A starts as torch's linear layers do (uniform), not Gaussian.

    Args:
        width, out: features of the frozen layer's input and output.
        rank: r, >= 1.
        alpha: alpha > 0; alpha / r scales the update. Hu et al. fix alpha to the first rank they try, here PESF-KD's 32.
    """

    def __init__(self, width: int, out: int, rank: int = 32, alpha: float = 32.0):
        super().__init__()
        self.down, self.up = _bottleneck(width, rank, out)
        self.scale = alpha / rank

    def forward(self, h: Tensor) -> Tensor:
        """[B, width], the frozen layer's input -> [B, out], to be added to its output."""
        return self.scale * self.up(self.down(h))


class ScaledParallel(nn.Module):
    r"""Bottleneck beside a frozen layer: what it adds to that layer's output.

    .. math:: h W_0 \leftarrow h W_0 + s f(h W_{down}) W_{up}, \quad f = \mathrm{ReLU}

    Source: He et al. 2022, the "scaled parallel adapter" with s = 4. Here without biases, W_up starting at zero, as in the other two.

    Args:
        width, out: features of the frozen layer's input and output.
        rank: width of the bottleneck, >= 1.
        scale: s > 0.
    """

    def __init__(self, width: int, out: int, rank: int = 32, scale: float = 4.0):
        super().__init__()
        self.down, self.up = _bottleneck(width, rank, out)
        self.scale = scale

    def forward(self, h: Tensor) -> Tensor:
        """[B, width], the frozen layer's input -> [B, out], to be added to its output."""
        return self.scale * self.up(torch.relu(self.down(h)))


def _bottleneck(width: int, rank: int, out: int) -> tuple[nn.Linear, nn.Linear]:
    """Both projections, the second one zero."""
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    down, up = nn.Linear(width, rank, bias=False), nn.Linear(rank, out, bias=False)
    nn.init.zeros_(up.weight)
    return down, up
