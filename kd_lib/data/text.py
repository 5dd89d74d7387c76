"""Texts once they are loaded: token ids, labels, and a fingerprint of all that a training run sees."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_lib import metrics
from kd_lib.data.dataset import WHOLE, Dataset, Part, Shard
from kd_lib.data.images import HELD_OUT, content_fingerprint, hold_out_fingerprint, partition

Score = Literal["accuracy", "f1", "matthews", "pearson"]
TextPart = tuple[NDArray[np.integer], NDArray[np.number]]  # token ids [N, L] and labels [N]
Posteriors = tuple[NDArray[np.floating], NDArray[np.floating]]  # of train and of test, [N, C]

NO_SEPARATOR = -1
WINDOW = 64  # batches that are sorted by length together
_POSTERIORS = ("train_posterior", "test_posterior")


@dataclass(frozen=True, eq=False)
class TextData(Dataset):
    """Texts in memory. A network reads int64 token ids [B, L], L being the longest text of the batch.

    It finds the mask where ids differ from `pad`, and BERT's segments from `separator`: 1 after the first one.

    Attributes:
        name: what it was loaded as.
        train_x, test_x: [N, L] int32 token ids, filled up with `pad` at the end. Every text starts with the token whose
            state stands for the whole (BERT's [CLS]).
        train_y, test_y: [N] int64, positions in `class_names`; float32 of a regression.
        class_names: one name a class; of a regression, the one number's.
        tokens: the vocabulary, by id.
        pad, separator: token ids; the separator is -1 where there is none.
        score: the main one of `scores`.
        fingerprint: SHA-256 (hex) of all of the above but the name, and of the posteriors.
        train_posterior, test_posterior: [N, C] float32, the true p(class | text), where it is known.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    class_names: tuple[str, ...]
    tokens: tuple[str, ...]
    pad: int
    separator: int
    score: Score
    fingerprint: str
    train_posterior: Tensor | None = None
    test_posterior: Tensor | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of classes and tokens, the ids with a meaning, and the longest input."""
        return {
            "n_classes": self.n_classes,
            "vocabulary": len(self.tokens),
            "pad": self.pad,
            "separator": self.separator,
            "max_length": self.train_x.shape[1],
        }

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(L,), of the longest text."""
        return tuple(self.train_x.shape[1:])

    @property
    def augmented(self) -> bool:
        """Texts are read as they are."""
        return False

    def pieces(self, part: Part, position: int) -> list[str]:
        """The tokens of one text, without padding, for people."""
        row = self._x(part)[position].tolist()
        return [self.tokens[token] for token in row if token != self.pad]

    def batches(self, order: Tensor, batch_size: int) -> list[Tensor]:
        """Texts of like length together, so that little of a batch is padding: each `WINDOW` batches of the order are sorted by
        length, cut anew, and shuffled.
        """
        found = []
        for window in order.split(WINDOW * batch_size):
            parts = self._train_lengths[window].argsort(stable=True).split(batch_size)
            # shuffled by the first place that one of its texts had in the order
            turns = torch.stack([places.min() for places in parts]).argsort().tolist()
            found += [window[parts[i]] for i in turns if len(parts[i]) > 1]
        return found

    def training_inputs(
        self, batches: Sequence[Tensor], *, seed: int, epoch: int, shard: Shard = WHOLE
    ) -> Iterator[Tensor]:
        """[B, L] int64; L is the whole batch's, so that a shard's part is as wide as the others'."""
        widths = torch.stack([self._train_lengths[index].max() for index in batches]).tolist()
        for index, width in zip(batches, widths, strict=True):
            yield self.train_x[index[shard.of(len(index))], :width].long()

    def inputs(self, part: Part, batch_size: int, shard: Shard = WHOLE) -> Iterator[Tensor]:
        """[B, L] int64."""
        x = self._x(part)
        for chunk in x[shard.of(len(x))].split(batch_size):
            yield chunk[:, : int(lengths(chunk, self.pad).max())].long()

    def scores(self, logits: Tensor, y: Tensor) -> dict[str, float]:
        """The task's scores in percent, the main one first.

        Accuracy; "f1" adds F1 of class 1, "matthews" the correlation of Matthews; "pearson" stands for a regression's
        two correlations. A correlation with predictions that are all equal is 0.
        """
        if self.score == "pearson":
            return _correlations(logits, y)
        accuracy = {"accuracy": 100 * metrics.accuracy(logits, y)}
        if self.score == "accuracy":
            return accuracy
        from sklearn.metrics import f1_score, matthews_corrcoef  # slow to import, and not needed to load data

        score = {"f1": f1_score, "matthews": matthews_corrcoef}[self.score]
        return {self.score: 100 * float(score(y.cpu(), logits.argmax(1).cpu())), **accuracy}

    def to(self, device: torch.device | str) -> "TextData":
        """The same data with its tensors on `device`."""
        tensors = {key: getattr(self, key) for key in ("train_x", "train_y", "test_x", "test_y", *_POSTERIORS)}
        return replace(self, **{key: None if tensor is None else tensor.to(device) for key, tensor in tensors.items()})

    def hold_out(self) -> "TextData":
        """Numbers to predict are stratified by the nearest integer."""
        rest, held = partition(np.rint(self.train_y.numpy()).astype(np.int64), HELD_OUT)
        known = self.train_posterior
        return replace(
            self,
            train_x=self.train_x[rest],
            train_y=self.train_y[rest],
            test_x=self.train_x[held],
            test_y=self.train_y[held],
            train_posterior=None if known is None else known[rest],
            test_posterior=None if known is None else known[held],
            fingerprint=hold_out_fingerprint(self.fingerprint),
        )

    def _x(self, part: Part) -> Tensor:
        return {"train": self.train_x, "test": self.test_x}[part]

    @cached_property
    def _train_lengths(self) -> Tensor:
        return lengths(self.train_x, self.pad)


def text_data(
    name: str,
    train: TextPart,
    test: TextPart,
    class_names: Sequence[str],
    tokens: Sequence[str],
    *,
    pad: int,
    separator: int = NO_SEPARATOR,
    score: Score = "accuracy",
    posteriors: Posteriors | None = None,
) -> TextData:
    """Checked arrays with their fingerprint.

    Args:
        name: what the data set is called.
        train, test: token ids [N, L] and labels [N]; columns that are padding throughout are cut off.
        class_names, tokens, pad, separator, score: as in `TextData`. With "pearson" the labels are numbers to predict.
        posteriors: the true p(class | text) of train and of test, where it is known.
    Returns:
        The data set.
    Raises:
        ValueError: ids outside the vocabulary, labels outside the classes, a class without training texts, posteriors
            that do not sum to 1, or arrays that do not fit together.
    """
    for part, (x, y) in (("train", train), ("test", test)):
        _check_tokens(f"{name}: {part}", x, y, len(tokens))
        _check_labels(f"{name}: {part}", y, class_names, score)
    missing = set(range(len(class_names))) - set(np.unique(train[1]).tolist())
    if missing and score != "pearson":
        raise ValueError(f"{name}: no training text of class {', '.join(class_names[c] for c in sorted(missing)[:5])}.")
    known = {} if posteriors is None else dict(zip(_POSTERIORS, posteriors, strict=True))
    for key, y in zip(known, (train[1], test[1]), strict=False):
        if known[key].shape != (len(y), len(class_names)) or not np.allclose(known[key].sum(1), 1, atol=1e-5):
            raise ValueError(f"{name}: {key} {list(known[key].shape)} is no distribution over classes for each text.")
    width = max(int(lengths(torch.from_numpy(x), pad).max()) for x, _ in (train, test))
    number = "<f4" if score == "pearson" else "<i8"
    arrays = {
        "train_x": _columns(train[0], width, pad),
        "train_y": train[1].astype(number),
        "test_x": _columns(test[0], width, pad),
        "test_y": test[1].astype(number),
        **{key: np.ascontiguousarray(posterior, "<f4") for key, posterior in known.items()},
    }
    labels = {
        "class_names": tuple(class_names),
        "tokens": tuple(tokens),
        "pad": pad,
        "separator": separator,
        "score": score,
    }
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return TextData(name=name, **tensors, **labels, fingerprint=content_fingerprint(arrays, labels))


def lengths(x: Tensor, pad: int) -> Tensor:
    """Tokens of each text up to its last one that is not padding, at least 1.

    Args:
        x: [N, L] token ids.
        pad: the id of padding.
    Returns:
        [N] int64.
    """
    places = torch.arange(1, x.shape[1] + 1, device=x.device)
    return ((x != pad) * places).amax(1).clamp(min=1)


def _check_tokens(what: str, x: NDArray, y: NDArray, vocabulary: int) -> None:
    if x.ndim != 2 or x.dtype.kind != "i" or y.shape != (len(x),) or x.size == 0:
        raise ValueError(f"{what} holds labels {list(y.shape)} and {x.dtype} token ids {list(x.shape)}.")
    if x.min() < 0 or x.max() >= vocabulary:
        raise ValueError(f"{what} has token ids {x.min()} to {x.max()}, but there are {vocabulary} tokens.")


def _check_labels(what: str, y: NDArray, class_names: Sequence[str], score: Score) -> None:
    if score == "pearson":
        if len(class_names) != 1 or not np.isfinite(y).all():
            raise ValueError(f"{what} is a regression, and needs one name and finite labels.")
    elif y.min() < 0 or y.max() >= len(class_names):
        raise ValueError(f"{what} has labels {y.min()} to {y.max()}, but there are {len(class_names)} classes.")


def _columns(x: NDArray[np.integer], width: int, pad: int) -> NDArray[np.int32]:
    """The first columns, padding where there are fewer."""
    out = np.full((len(x), width), pad, "<i4")
    out[:, : x.shape[1]] = x[:, :width]
    return out


def _correlations(logits: Tensor, y: Tensor) -> dict[str, float]:
    from scipy import stats  # slow to import, and not needed to load data

    z, truth = logits[:, 0].double().cpu().numpy(), y.double().cpu().numpy()
    if min(np.ptp(z), np.ptp(truth)) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": 100 * float(stats.pearsonr(z, truth).statistic),
        "spearman": 100 * float(stats.spearmanr(z, truth).statistic),
    }
