"""Methods that match the layers of two transformers."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from kd_lib import losses
from kd_lib.methods.base import Matching, Method
from kd_lib.methods.connect import check_states, pair_layers
from kd_lib.shapes import Batch, Outputs, Pair, real_tokens


class PKD(Matching):
    r"""Patient knowledge distillation: the first token's states, layer by layer.

    .. math:: L = (1 - \alpha) CE(z_s, y) + \alpha \, \tau^2 KL(p_t \| p_s) + \beta L_{PT}

    Source: Sun et al. 2019, sections 3.1 to 3.3, `losses.pkd`; PESF-KD v2 Eq. 8, with its alpha 0.5 and beta 100. Where a number
    is predicted and not a class, squared errors stand for CE and KL. The last layer takes no part, as it speaks through the logits.
    The papers leave open: the temperature. PKD searches 5, 10 and 20, v2 takes "previous works'"; 4 here, as all KD terms have.

    Args:
        layers: "skip" pairs the student's layer i with the teacher's i L_t / L_s (rounded down; 2, 4, ... of 12 for 6), "last" with
            the teacher's last ones (7, 8, ... of 12 for 6).
        method_weight: beta; PKD searches 10, 100, 500 and 1000.
        kd_weight, ce_weight: alpha and 1 - alpha.
        common: `tau`, see `Matching`.
    """

    needs_maps = True
    regresses = True

    def __init__(
        self,
        *,
        layers: Literal["skip", "last"] = "skip",
        method_weight: float = 100.0,
        ce_weight: float = 0.5,
        kd_weight: float = 0.5,
        **common: Any,
    ):
        super().__init__(method_weight=method_weight, ce_weight=ce_weight, kd_weight=kd_weight, **common)
        self.layers = layers

    def connect(self, pair: Pair) -> None:
        """Raises ValueError for networks that are no transformers, of unequal widths, or for a student with one layer."""
        check_states(pair)
        d_s, d_t = (out.maps[0].shape[2] for out in (pair.student, pair.teacher))
        self.pairs = pair_layers(pair, self.layers)[:-1]
        if d_s != d_t or not self.pairs:
            raise ValueError(
                f"student {pair.names[0]}, teacher {pair.names[1]}: PKD compares states of one width, in all layers but the last; "
                f"they have {d_s} and {d_t} features, and the student {len(self.pairs) + 1} layers."
            )

    def match(self, student: Outputs, teacher: Outputs, batch: Batch, progress: float) -> Tensor:
        h_s = torch.stack([student.maps[i][:, 0] for i, _ in self.pairs], 1)
        return losses.pkd(h_s, torch.stack([teacher.maps[j][:, 0] for _, j in self.pairs], 1))


class TinyBERT(Method):
    r"""TinyBERT's second stage: distillation on the task, of the layers first, then of the prediction.

    .. math:: L_{setup} = \mathrm{MSE}(E^s W_e, E^t) + \sum_{m=1}^{M} \left[ \mathrm{MSE}(H^s_m W_h, H^t_{g(m)})
              + \mathrm{MSE}(A^s_m, A^t_{g(m)}) \right], \qquad
              L = w_{kd} \, \tau^2 KL(p_t \| p_s) + w_{ce} \, CE(z_s, y)

    with E the output of the embedding layer, H the hidden states and A the scores of attention before its softmax. Source: Jiao et
    al. 2020, Eqs. 7 to 11, `losses.tinybert_attention`, `losses.tinybert_hidden`; g(m) = m L_t / L_s, rounded down. Its first stage,
    on a general corpus, is another network to start from: PESF-KD v2 takes the authors' (A.3, footnote 2), here a checkpoint.
    Its soft cross-entropy is KL plus the teacher's entropy: the same gradient for the student. Where a number is predicted and not
    a class, squared errors stand for KL and CE.
    Differs from the paper: the learning rate is the run's in both phases, and constant in the first; there is no augmented text.
    The paper leaves open: biases of W_e and W_h (none here), and whether layers share W_h, which is printed without an index: here
    they do.

    Args:
        setup_epochs: of the layers; 20 in the paper, 10 for large tasks, 50 for CoLA. The run's `epochs`, 3 in the paper, are of the
            prediction.
        tau, kd_weight, ce_weight: the paper's 1, 1, 0.
    """

    needs_maps = True
    needs_attentions = True
    regresses = True
    setup_moves_student = True

    def __init__(self, *, setup_epochs: int = 20, tau: float = 1.0, kd_weight: float = 1.0, ce_weight: float = 0.0):
        super().__init__()
        self.setup_epochs, self.tau, self.kd_weight, self.ce_weight = setup_epochs, tau, kd_weight, ce_weight

    def connect(self, pair: Pair) -> None:
        """Raises ValueError for networks that are no transformers, or of unequal numbers of heads."""
        check_states(pair)
        heads = [out.attentions[0].shape[1] for out in (pair.student, pair.teacher)]
        if heads[0] != heads[1]:
            raise ValueError(
                f"student {pair.names[0]}, teacher {pair.names[1]}: TinyBERT compares attention head by head, and they have "
                f"{heads[0]} and {heads[1]} heads."
            )
        self.pairs = pair_layers(pair, "skip")
        d_s, d_t = (out.maps[0].shape[2] for out in (pair.student, pair.teacher))
        self.of_embeddings, self.of_states = (nn.Linear(d_s, d_t, bias=False) for _ in range(2))

    def setup(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        real = real_tokens(teacher.maps[0])
        h_s, h_t, a_s, a_t = student.maps, teacher.maps, student.attentions, teacher.attentions
        hidden = [losses.tinybert_hidden(self.of_states(h_s[i].float()), h_t[j], real) for i, j in self.pairs]
        scores = [losses.tinybert_attention(a_s[i - 1], a_t[j - 1], real) for i, j in self.pairs]
        return {
            "embedding": losses.tinybert_hidden(self.of_embeddings(h_s[0].float()), h_t[0], real),
            "hidden": sum(hidden),
            "attention": sum(scores),
        }

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch, progress: float) -> dict[str, Tensor]:
        z_s, y = student.logits, batch.y
        terms = {"kd": self.kd_weight * losses.imitation(z_s, teacher.logits, y, tau=self.tau)}
        if self.ce_weight:
            terms["ce"] = self.ce_weight * losses.supervised(z_s, y)
        return terms

    def temperatures(self, z_s: Tensor, z_t: Tensor) -> tuple[float, float]:
        return self.tau, self.tau
