"""SSKD: the teacher also answers a self-supervised task, and the student learns those answers too."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from kd_lib import losses
from kd_lib.methods.base import Method
from kd_lib.shapes import Batch, Outputs, Pair


class SSKD(Method):
    r"""Knowledge distillation meets self-supervision.

    .. math:: L = w_{ce} CE + w_{kd} L_{kd} + w_{tf} L_{transformed} + w_{ss} L_{similarity}

    The first two on the images as they are; `losses.transformed_kd` on three turned views of each; `losses.sskd` on the
    cosines between views and images, through a head of two layers on either embedding. The teacher's head is trained first, in
    `setup_epochs`, by `losses.contrastive_prediction` on the unmoved teacher, and then stays as it is.

    Source: Xu et al. 2020 (SSKD), section 3 and its CIFAR-100 settings; where the text gives no number, the authors' published
    experiments. Those keep all wrong predictions on transformed images and 75% of the wrong similarities.
    Differs from the paper: the transformations are the rotations by 90, 180 and 270 degrees alone, as in those experiments. Images
    that are not square are turned by 180 degrees, mirrored and turned upside down instead, which keeps their shape. The teacher's head
    is trained at a constant learning rate; theirs fell by 10 after 30 and 45 of the 60 epochs.

    Args:
        ce_weight, kd_weight, transformed_weight, similarity_weight: of the four terms.
        tau, transformed_tau, similarity_tau: their temperatures.
        keep_transformed, keep_similarity: shares of the teacher's wrong answers that are copied, in [0, 1].
        setup_epochs, setup_tau: epochs and temperature of the training of the teacher's head.
    """

    views = 4
    relates_samples = True  # a view is told from the batch's other images

    def __init__(
        self,
        *,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        transformed_weight: float = 2.7,
        similarity_weight: float = 10.0,
        tau: float = 4.0,
        transformed_tau: float = 4.0,
        similarity_tau: float = 0.5,
        keep_transformed: float = 1.0,
        keep_similarity: float = 0.75,
        setup_epochs: int = 60,
        setup_tau: float = 1.0,
    ):
        super().__init__()
        self.ce_weight, self.kd_weight, self.tau = ce_weight, kd_weight, tau
        self.transformed_weight, self.transformed_tau = transformed_weight, transformed_tau
        self.similarity_weight, self.similarity_tau = similarity_weight, similarity_tau
        self.keep_transformed, self.keep_similarity = keep_transformed, keep_similarity
        self.setup_epochs, self.setup_tau = setup_epochs, setup_tau

    def connect(self, pair: Pair) -> None:
        """Raises ValueError where there are no images to turn."""
        if len(pair.image_size) != 2:
            raise ValueError(
                f"student {pair.names[0]}, teacher {pair.names[1]}: SSKD turns images, and these read texts."
            )
        self.head_s = _head(pair.student.embedding.shape[1])
        self.head_t = _head(pair.teacher.embedding.shape[1])

    def expand(self, batch: Batch) -> Batch:
        """The images as they are, then each of the three views of all of them, in the same order."""
        x = torch.cat(four_views(batch.x))
        return batch._replace(index=batch.index.repeat(self.views), x=x, y=batch.y.repeat(self.views))

    def setup(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        similarity = self._similarity(self.head_t(teacher.embedding.detach()))
        return {"prediction": losses.contrastive_prediction(similarity, tau=self.setup_tau)}

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        b = len(batch.y) // self.views
        z_s, z_t, y = student.logits, teacher.logits, batch.y
        # the head's weights are constants now, but the teacher's embedding is not under every policy
        fixed = {name: weight.detach() for name, weight in self.head_t.named_parameters()}
        a_t = self._similarity(functional_call(self.head_t, fixed, (teacher.embedding,)))
        a_s = self._similarity(self.head_s(student.embedding))
        transformed = losses.transformed_kd(
            z_s[b:], z_t[b:], y[b:], tau=self.transformed_tau, keep_wrong=self.keep_transformed
        )
        similarity = losses.sskd(a_s, a_t, tau=self.similarity_tau, keep_wrong=self.keep_similarity)
        return {
            "ce": self.ce_weight * F.cross_entropy(z_s[:b], y[:b]),
            "kd": self.kd_weight * losses.kd(z_s[:b], z_t[:b], tau=self.tau),
            "transformed": self.transformed_weight * transformed,
            "similarity": self.similarity_weight * similarity,
        }

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[float, float]:
        return self.tau, self.tau

    def _similarity(self, h: Tensor) -> Tensor:
        b = len(h) // self.views
        return losses.view_similarity(h[b:], h[:b])


def four_views(x: Tensor) -> tuple[Tensor, ...]:
    """Images [B, channels, H, W] as they are and three times turned, all of one shape.

    Square images by 90, 180 and 270 degrees; others by 180 degrees, mirrored left to right, and top to bottom.
    """
    if x.shape[2] == x.shape[3]:
        return x, *(x.rot90(quarters, (2, 3)) for quarters in (1, 2, 3))
    return x, x.flip(2, 3), x.flip(3), x.flip(2)


def _head(features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features))
