"""BERT, for texts as token ids [B, L]; the architecture is that of `transformers`.

    bert-l2-d64              2 layers of width 64, fresh
    bert-l4-d312-h12-p10     with another number of heads, and 10% dropout

Trained ones are in `checkpoints`.
"""

import importlib
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_lib import torchvision_shim
from kd_lib.models.layers import check_stage
from kd_lib.shapes import Outputs, real_tokens

ATTENTION = "kd_lib"  # what our attention function is registered as

SIZES = {"n_classes": 100, "vocabulary": 30522, "pad": 0, "separator": 102, "max_length": 512}
"""What a text network is built with where nothing else is asked for: BERT's own, but for the classes."""


class Bert(nn.Module):
    """A BERT-like encoder and a linear classifier of its pooled first token.

    Attributes:
        stages: its layers.
        classifier: reads the pooler's output: of the first token's last state, a linear layer and tanh.
        keep_attentions: whether `Outputs.attentions` is filled, which needs the scores of every pair of tokens in memory.
        keep_preactivations: nothing of a transformer layer is one; for methods of images.

    Args:
        encoder: a transformers model with `embeddings`, `encoder.layer` and `pooler`, such as BertModel, whose attention
            function is `ATTENTION`.
        n_classes: outputs of the classifier.
        pad: id of the token that fills a batch up to its longest text.
        separator: id of the token that ends a text; what follows the first one is of segment 1.
    """

    keep_preactivations = False
    keep_attentions = False

    def __init__(self, encoder: nn.Module, *, n_classes: int, pad: int, separator: int) -> None:
        super().__init__()
        config = encoder.config
        self.embeddings, self.stages, self.pooler = encoder.embeddings, encoder.encoder.layer, encoder.pooler
        self.pad, self.separator, self.last_segment = pad, separator, config.type_vocab_size - 1
        dropout = getattr(config, "classifier_dropout", None)
        self.dropout = nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        self.classifier = nn.Linear(config.hidden_size, n_classes)
        nn.init.normal_(self.classifier.weight, std=config.initializer_range)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, ids: Tensor) -> Outputs:
        """Logits of texts [B, L], int64, filled up with `pad` on the right; L may differ from call to call.

        Padding changes nothing: hidden states and scores are 0 there, and nothing else reads it.
        """
        real = ids != self.pad
        ends = ids == self.separator
        segments = (ends.cumsum(1) - ends.long()).clamp(max=self.last_segment)
        h = self.embeddings(input_ids=ids, token_type_ids=segments)
        return self._run(h * real[..., None], real, 0)

    def forward_from(self, h: Tensor, stage: int) -> Outputs:
        """Go on in the middle: `forward_from(maps[i], i)` ends as the pass that `maps[i]` is from.

        Args:
            h: hidden states [B, L, D]; a token whose state is all 0 is padding.
            stage: the first layer to run, from 0 to the number of layers; that number itself runs pooler and classifier only.
        Returns:
            Logits and embedding; maps from `h` on, attentions of the layers that ran.
        Raises:
            ValueError: no such layer.
        """
        return self._run(h, real_tokens(h), stage)

    def _run(self, h: Tensor, real: Tensor, stage: int) -> Outputs:
        check_stage(stage, len(self.stages))
        scores: list[Tensor] = []
        maps = [h]
        for layer in list(self.stages)[stage:]:
            h = layer(h, real[:, None, None, :], scores=scores if self.keep_attentions else None)
            h = h * real[..., None]
            maps.append(h)
        with torch.autocast(h.device.type, enabled=False):
            embedding = self.pooler(h.float())
            logits = self.classifier(self.dropout(embedding))
        return Outputs(logits, embedding, tuple(maps), attentions=tuple(scores))


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    *,
    scaling: float,
    dropout: float = 0.0,
    scores: list[Tensor] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    r"""Scaled dot-product attention, as transformers calls it, that can give its scores away.

    .. math:: \mathrm{softmax}(S) V, \qquad S = Q K^T / \sqrt{d}

    Args:
        query, key, value: [B, heads, L, d].
        mask: [B, 1, 1, L], True where the key is no padding.
        scores: gets S [B, heads, L, L] appended, 0 where query or key is padding.
    Returns:
        [B, L, heads, d]; and nothing where transformers would have the probabilities.
    """
    if scores is None and query.device.type != "cpu":
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    else:
        # torch's own function takes up to ten times as long on a CPU, backward in bf16
        s = query @ key.mT * scaling
        if scores is not None:
            scores.append(s.masked_fill(~(mask & mask.mT), 0.0))
        p = s.masked_fill(~mask, -torch.inf).softmax(3)
        mixed = F.dropout(p, dropout, training=dropout > 0) @ value
    return mixed.transpose(1, 2), None


def bert(layers: int, width: int, heads: int | None = None, percent: int = 0, **sizes: int) -> Bert:
    """`bert-l2-d64`: the architecture of BERT in any size, fresh.

    Heads have 64 features, as in all published sizes of BERT, but there are at least two. The feed-forward layers are four times
    as wide as the others.

    Differs from BERT: weights start with a standard deviation of 0.02 at its width of 768 and of 0.02 sqrt(768 / width) at others,
    which keeps the spread of what a layer gives; and there is no dropout unless the name says so (BERT's own is p10). On
    word_language, three epochs of bert-l2-d64, 0.02 costs eight points of accuracy and dropout of 0.1 two.

    Args:
        percent: dropout of states and attention probabilities, below 100.
        sizes: as `SIZES`.
    Raises:
        ValueError: a width that the heads do not divide; no such dropout.
    """
    heads = check(layers, width, heads, percent)
    sizes = {**SIZES, **sizes}
    library = transformers()
    config = library.BertConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=sizes["max_length"],
        pad_token_id=sizes["pad"],
        initializer_range=0.02 * (768 / width) ** 0.5,
        hidden_dropout_prob=percent / 100,
        attention_probs_dropout_prob=percent / 100,
        attn_implementation=ATTENTION,
    )
    return Bert(library.BertModel(config), **meaning(sizes))


def check(layers: int, width: int, heads: int | None = None, percent: int = 0) -> int:
    """The number of heads of a `bert`, or the ValueError that it would raise."""
    heads = heads or max(2, width // 64)
    if width % heads:
        raise ValueError(f"'bert-l{layers}-d{width}': {heads} heads do not divide a width of {width}.")
    if percent >= 100:
        raise ValueError(f"'bert-l{layers}-d{width}-p{percent}': dropout is a percentage below 100.")
    return heads


def meaning(sizes: dict[str, int]) -> dict[str, int]:
    """Those of the sizes that `Bert` itself takes."""
    return {name: sizes[name] for name in ("n_classes", "pad", "separator")}


@cache
def transformers() -> ModuleType:
    """The library, told of our attention function; imported when the first such network is asked for, because that takes seconds."""
    torchvision_shim.repair()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # of bars in notebooks, which nobody here will see
        library = importlib.import_module("transformers")
        library.BertModel  # noqa: B018 (what it is made of is imported when it is first named)
    library.AttentionInterface.register(ATTENTION, attention)
    library.utils.logging.set_verbosity_error()  # its reports of what it loads, and its bars, would stand in the notebooks
    library.utils.logging.disable_progress_bar()
    return library
