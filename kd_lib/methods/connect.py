"""How the stages of two networks meet: which of them are compared, and the layer that turns one map into the other's shape."""

import math
from collections.abc import Sequence
from itertools import combinations, product
from typing import Literal

from torch import Tensor, nn

from kd_lib.shapes import Pair


def pair_stages(pair: Pair) -> list[tuple[int, int]]:
    r"""Which stage of the teacher each stage of the student learns from.

    .. math:: \arg\min_{i_1 < \dots < i_k,\ j_1 < \dots < j_k}
              \sum_n \left| \log_2 (H^s_{i_n} W^s_{i_n}) - \log_2 (H^t_{j_n} W^t_{j_n}) \right|

    with k the smaller number of stages: each stage of that network meets one of the other's, in the same order, none twice, and
    the sizes of their maps differ as little as possible. Among equals the latest stages win, compared from the last backwards,
    the student's before the teacher's. So networks of as many stages meet stage by stage whatever their sizes, and a resnet
    (32, 16, 8 pixels a side) meets the first three stages of a vgg (32, 16, 8, 4, 4).

    Args:
        pair: outputs of both; sizes are read from the maps or, where only they are kept, from the pre-activations.
    Returns:
        (i_s, i_t) from the first stage to the last: positions in the student's and in the teacher's maps.
    Raises:
        ValueError: a network without maps of images.
    """
    check_images(pair)
    areas = [[math.log2(f.shape[2] * f.shape[3]) for f in maps] for maps in maps_of(pair)]
    k = min(map(len, areas))

    def order(choice: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[float, list[int]]:
        chosen_s, chosen_t = choice
        misfit = sum(abs(areas[0][i] - areas[1][j]) for i, j in zip(chosen_s, chosen_t, strict=True))
        # Rounded, so that choices which fit equally well are equal in floating point too.
        return round(misfit, 6), [-i for i in (*reversed(chosen_s), *reversed(chosen_t))]

    best = min(product(*(combinations(range(len(own)), k) for own in areas)), key=order)
    return list(zip(*best, strict=True))


def check_images(pair: Pair) -> None:
    """Raises ValueError unless the maps of both are of images, [B, channels, H, W]."""
    _check_axes(pair, 4, "maps of images")


def check_states(pair: Pair) -> None:
    """Raises ValueError unless both are transformers, whose maps are states of tokens [B, L, D]."""
    _check_axes(pair, 3, "layers of transformers")


def _check_axes(pair: Pair, axes: int, compared: str) -> None:
    for name, maps in zip(pair.names, maps_of(pair), strict=True):
        if maps[0].ndim != axes:
            raise ValueError(
                f"student {pair.names[0]}, teacher {pair.names[1]}: {name} has maps {list(maps[0].shape)}, and what is compared here "
                f"are {compared}."
            )


def pair_layers(pair: Pair, rule: Literal["skip", "last"]) -> list[tuple[int, int]]:
    r"""Which layer of a transformer each layer of the student learns from.

    .. math:: g(i) = \lfloor i L_t / L_s \rfloor \text{ ("skip")} \qquad\text{or}\qquad L_t - L_s + i \text{ ("last")}

    Source: Sun et al. 2019, section 3.2; Jiao et al. 2020, section 3.1.

    Returns:
        (i, g(i)) for i = 1 ... L_s: positions in `Outputs.maps`, whose position 0 is the embedding layer's output.
    Raises:
        ValueError: a student with more layers than its teacher.
    """
    n_s, n_t = (len(out.maps) - 1 for out in (pair.student, pair.teacher))
    if n_s > n_t:
        raise ValueError(
            f"student {pair.names[0]}, teacher {pair.names[1]}: the student has {n_s} layers, more than the teacher's {n_t}."
        )
    return [(i, i * n_t // n_s if rule == "skip" else n_t - n_s + i) for i in range(1, n_s + 1)]


def maps_of(pair: Pair) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The maps of student and teacher or, where only they are kept, the pre-activations.

    Raises:
        ValueError: a network without maps.
    """
    both = tuple((out.maps or out.preactivations) if out is not None else () for out in (pair.student, pair.teacher))
    for name, maps in zip(pair.names, both, strict=True):
        if not maps:
            raise ValueError(f"student {pair.names[0]}, teacher {pair.names[1]}: {name} has no maps to compare.")
    return both


class Regressor(nn.Module):
    r"""A convolution with batch norm that turns maps of one shape into maps of another.

    .. math:: r(f) = \mathrm{ReLU}(\mathrm{BN}(\mathrm{conv}(f)))

    The convolution depends on the sizes: 1x1 for equal ones; 3x3 with stride 2 where the result is half as large, rounded up
    (5 pixels become 3); 4x4 transposed with stride 2 where it is exactly twice as large. For any other ratio the map is resampled
    to the result's size by adaptive average pooling (which repeats pixels where it has to grow), then follows the 1x1 convolution.

    Source: FitNets (Romero et al. 2015) section 2.2; layers as in the experiments of CRD (Tian et al. 2020).
    Differs from the paper: its regressor has no padding, stride or batch norm, only a kernel as large as the two sizes differ.

    Args:
        shape_in, shape_out: [B, channels, H, W] of an example of each; B does not count.
        relu: whether a ReLU ends it. False where what is matched can be negative.
    """

    def __init__(self, shape_in: Sequence[int], shape_out: Sequence[int], *, relu: bool = True):
        super().__init__()
        self.shape_in, self.shape_out = tuple(shape_in[1:]), tuple(shape_out[1:])
        (c_in, *size_in), (c_out, *size_out) = self.shape_in, self.shape_out
        if size_in == size_out:
            layers = [nn.Conv2d(c_in, c_out, 1, bias=False)]
        elif [math.ceil(side / 2) for side in size_in] == size_out:
            layers = [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)]
        elif [2 * side for side in size_in] == size_out:
            layers = [nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False)]
        else:
            layers = [nn.AdaptiveAvgPool2d(tuple(size_out)), nn.Conv2d(c_in, c_out, 1, bias=False)]
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(c_out), *([nn.ReLU()] if relu else []))

    def forward(self, f: Tensor) -> Tensor:
        """Maps of `shape_out`, float32. Raises ValueError for maps of another shape than `shape_in`."""
        if tuple(f.shape[1:]) != self.shape_in:
            raise ValueError(
                f"the regressor was made for maps {list(self.shape_in)} (channels, H, W), got {list(f.shape[1:])}."
            )
        out = self.layers(f.float())
        assert tuple(out.shape[1:]) == self.shape_out  # by the four cases of __init__
        return out
