"""Factor transfer: the teacher's last map, paraphrased, and the student's, translated."""

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from kd_lib import losses
from kd_lib.methods.base import Matching
from kd_lib.methods.connect import check_images
from kd_lib.shapes import Batch, Outputs, Pair


class FT(Matching):
    r"""Factor transfer.

    .. math:: L = L_{Matching} + w \, FT(T(f^s), P(f^t)), \qquad L_{setup} = \mathrm{mean} (D(P(f^t)) - f^t)^2

    with f the last maps, P the paraphraser (trained in the initialisation phase with its decoder D, then fixed) and T the
    translator (trained beside the student). Each has three layers of a 3x3 convolution (in D transposed), batch norm and leaky
    ReLU; a factor has `rate` times as many channels as the teacher's map.

    Source: Kim et al. 2018, sections 3.1 (reconstruction) and 3.2 (`losses.ft`).
    Differs from the paper: w and the 30 epochs of initialisation are CRD's for CIFAR-100. The authors' published code has w = 500, no
    batch norms, and reconstructs with the L1 distance.
    The paper leaves open: last maps of unequal sizes. The student's is averaged (or repeated) to the teacher's size first.

    Args:
        method_weight: w.
        rate: channels of a factor, in multiples of the teacher's; the paper's paraphrase rate k.
        p: power of the distance >= 1; the paper uses 1.
        setup_epochs: length of the initialisation phase, in which only the paraphraser trains.
        common: `ce_weight`, `kd_weight`, `tau`, see `Matching`.
    """

    needs_maps = True

    def __init__(
        self, *, method_weight: float = 200.0, rate: float = 0.5, p: int = 1, setup_epochs: int = 30, **common: Any
    ):
        super().__init__(method_weight=method_weight, **common)
        self.rate, self.p, self.setup_epochs = rate, p, setup_epochs

    def connect(self, pair: Pair) -> None:
        """Raises ValueError for a rate that leaves no channel, or networks without maps of images."""
        check_images(pair)
        c_s, c_t = pair.student.maps[-1].shape[1], pair.teacher.maps[-1].shape[1]
        c_factor = round(self.rate * c_t)
        if c_factor < 1:
            raise ValueError(
                f"rate={self.rate} leaves no channel of the {c_t} of teacher {pair.names[1]} (student {pair.names[0]})."
            )
        self.paraphraser = _layers(nn.Conv2d, (c_t, c_t, c_factor, c_factor))
        self.decoder = _layers(nn.ConvTranspose2d, (c_factor, c_factor, c_t, c_t))
        self.translator = _layers(nn.Conv2d, (c_s, c_s, c_factor, c_factor))

    def setup(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        f_t = teacher.maps[-1].float()
        self.paraphraser.train()
        return {"reconstruction": F.mse_loss(self.decoder(self.paraphraser(f_t)), f_t)}

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        f_s, f_t = student.maps[-1].float(), teacher.maps[-1].float()
        # Fixed are its weights (no gradient) and its batch norms (the loop puts all of a method into training mode). A teacher
        # that moves still gets its gradient through it.
        weights = {name: weight.detach() for name, weight in self.paraphraser.named_parameters()}
        factor_t = functional_call(self.paraphraser.eval(), weights, f_t)
        factor_s = self.translator(F.adaptive_avg_pool2d(f_s, f_t.shape[2:]))
        return losses.ft(factor_s, factor_t, p=self.p)


def _layers(convolution: type[nn.Module], channels: tuple[int, ...]) -> nn.Sequential:
    """A 3x3 convolution that keeps H x W, batch norm and leaky ReLU, from each number of channels to the next."""
    layers = []
    for c_in, c_out in pairwise(channels):
        layers += [convolution(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
