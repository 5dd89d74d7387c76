"""Three made-up texts and small transformers with no weight at 0 or 1."""

import torch

from kd_lib.models import build

PAD, SEPARATOR = 0, 3
TOKENS = {"n_classes": 5, "vocabulary": 40, "pad": PAD, "separator": SEPARATOR, "max_length": 16}
LENGTHS = (9, 5, 7)


def texts(seed=0):
    """Three texts of 9, 5 and 7 tokens, each with a separator after its third token and one at its end."""
    ids = torch.randint(4, 40, (3, max(LENGTHS)), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = 1
    for row, length in zip(ids, LENGTHS, strict=True):
        row[3], row[length - 1], row[length:] = SEPARATOR, SEPARATOR, PAD
    return ids


def network(name="bert-l2-d8", seed=0, **sizes):
    torch.manual_seed(seed)
    made = build(name, **{**TOKENS, **sizes})
    with torch.no_grad():
        for parameter in made.parameters():  # so that nothing is 0 or 1 from the start
            parameter.add_(0.1 * torch.randn(parameter.shape))
    made.keep_attentions = True
    return made.eval()
