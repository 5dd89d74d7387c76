"""What a network's probabilities say: how unsure it is, whether rightly so, and what else it holds possible."""

import torch
from torch.nn import functional as F

from kd_lib.metrics.inputs import Array, MetricTemperature, labels, matrix, temperature


def entropy(z: Array, tau: MetricTemperature = 1.0) -> float:
    r"""How unsure the predictions are.

    .. math:: -\frac{1}{N} \sum_n \sum_c p_{nc} \log p_{nc}, \quad p = \mathrm{softmax}(z / \tau)

    Source: ATKD section A.3, Table 10.
    Args:
        z: logits [N, C].
        tau: temperature > 0.
    Returns:
        Nats, summed over classes, mean over samples; 0 to log C.
    Raises:
        ValueError: logits that are no matrix; a temperature that is not positive.
    """
    z = matrix("z", z)
    log_p = F.log_softmax(z / temperature(tau, z), dim=1)
    return -(log_p.exp() * log_p).sum(dim=1).mean().item()


def expected_calibration_error(z: Array, y: Array, bins: int = 15) -> float:
    r"""How far confidence and accuracy lie apart, over bins of equal width.

    .. math:: \sum_m \frac{|B_m|}{N} \left| \mathrm{acc}(B_m) - \mathrm{conf}(B_m) \right|, \quad
              B_m = \{ n : (m - 1)/M < \max_c p_{nc} \le m/M \}

    Source: Guo et al. 2017, "On calibration of modern neural networks", Eq. 3.
    Args:
        z: logits [N, C], softened with temperature 1.
        y: labels [N].
        bins: how many, M >= 1.
    Returns:
        0 to 1.
    Raises:
        ValueError: logits that are no matrix; labels that do not fit them; fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}.")
    z = matrix("z", z)
    confidence, prediction = F.softmax(z, dim=1).max(dim=1)
    surplus = confidence - (prediction == labels(y, len(z))).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    # The bin's size cancels: |B| / N times the difference of two means over B is the sum of the differences over N.
    per_bin = torch.bincount(torch.bucketize(confidence, edges), weights=surplus, minlength=bins)
    return per_bin.abs().sum().item() / len(z)


def shared_class_mass(z: Array, y: Array, mask: Array, tau: MetricTemperature = 1.0) -> float:
    r"""Of the probability given to wrong classes, the share that lies on the marked ones.

    .. math:: \frac{1}{N} \sum_n \frac{\sum_{c \ne y_n,\, M_{y_n c}} p_{nc}}{\sum_{c \ne y_n} p_{nc}},
              \quad p = \mathrm{softmax}(z / \tau)

    With the classes marked that are related to the right one (`data.related_classes`: 18 that share a digit in digits100,
    4 of the same superclass in CIFAR-100), this counts the inter-class information of which the papers speak (PESF v2
    section 4.2). The right class's logit cancels, so the share is exact however sure the network is. Log-probabilities
    are logits too, so that smoothed labels can be measured. Chance: a prediction that is uniform over the wrong classes
    scores the number of marked classes over C - 1, there 18/99 and 4/99.
    Args:
        z: logits [N, C].
        y: labels [N].
        mask: [C, C], true at [y, c] where class c is marked for samples of class y. The diagonal is not read.
        tau: temperature > 0.
    Returns:
        Mean over samples, 0 to 1; every sample counts the same, however little it gives to wrong classes.
    Raises:
        ValueError: logits that are no matrix of two or more classes; labels or a mask that do not fit them; a
            temperature that is not positive.
    """
    z = matrix("z", z)
    n, classes = z.shape
    y, mask = labels(y, n), torch.as_tensor(mask).detach().to("cpu", torch.bool)
    if classes < 2 or mask.shape != (classes, classes):
        raise ValueError(f"mask must be [C, C] for logits {[n, classes]} with C >= 2, got shape {list(mask.shape)}.")
    wrong = torch.ones_like(z, dtype=torch.bool).scatter(1, y[:, None], False)
    log_p = F.log_softmax((z / temperature(tau, z)).masked_fill(~wrong, -torch.inf), dim=1)
    return (log_p.exp() * mask[y]).sum(dim=1).mean().item()
