"""GLUE's tasks. Their development sets are the test part here, as in the papers: the labels of GLUE's test sets are secret.

A choice made on "test" is therefore a choice made on the set that is reported; split "validation" avoids it.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from kd_lib.data import tokens
from kd_lib.data.hosted import Hosted
from kd_lib.data.images import in_canonical_order
from kd_lib.data.text import Score, TextData, text_data

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)
_SLACK = 0.01  # copies in circulation differ by a few rows; one that lacks more is broken

Rows = tuple[tuple[list[str], ...], NDArray[np.number]]  # one or two columns of texts, and labels


class Glue(Hosted):
    """A task of GLUE, tokenised once.

    The order of the texts is our own (`in_canonical_order` of their tokens), not that of the files.

    Attributes:
        tokenizer: of a checkpoint, by hub id or folder; or "wordpiece:N", a vocabulary of N tokens learnt from the
            training part, which needs no download.
        max_length: tokens of a text or a pair, the special ones included; what is longer is cut.
        columns: of the texts.
        counts: rows in train and validation as published.
        score: as in `TextData`.
    """

    version: ClassVar[int] = 1
    keeps: ClassVar[type] = TextData
    kept: ClassVar[str] = "tokenised and kept"
    hub_id: ClassVar[str] = "nyu-mll/glue"
    splits: ClassVar[tuple[str, str]] = ("train", "validation")
    columns: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
    counts: ClassVar[Mapping[str, int]]
    score: ClassVar[Score] = "accuracy"
    licence: ClassVar[str] = (
        "each task its own, see gluebenchmark.com/tasks; cite Wang et al. 2019, GLUE: A Multi-Task Benchmark and "
        "Analysis Platform for Natural Language Understanding, and the task's authors."
    )

    tokenizer: Annotated[str, AfterValidator(tokens.check)] = "google-bert/bert-base-uncased"
    max_length: Annotated[int, Field(ge=8)] = 128

    def identity(self) -> dict[str, object]:
        """Adds the content of a tokenizer's folder."""
        return {**super().identity(), "tokenizer_files": tokens.content(self.tokenizer)}

    def read(self) -> tuple[TextData, str]:
        """Tokenises what `find` finds; else downloads where `$KD_DOWNLOAD` is 1."""
        parts, made_from = self.raw_splits()
        for split, (_, y) in parts.items():
            self._check_count(len(y), f"{split} of {made_from}", self.counts[split])
        own = tokens.tokenizer(self.tokenizer, self.max_length, parts["train"][0])
        train, test = (in_canonical_order((own.encode(texts), y)) for texts, y in (parts[s] for s in self.splits))
        data = text_data(
            self.name, train, test, self.class_names, own.tokens, pad=own.pad, separator=own.separator, score=self.score
        )
        return data, f"{made_from}, tokenised by {self.tokenizer}"

    @classmethod
    def decode_tables(cls, parts: "Mapping[str, pa.Table]", origin: str) -> dict[str, Rows]:
        """Columns of texts and their labels."""
        from kd_lib.data import tables  # pyarrow is slow to import, and not needed once the texts are kept

        raw = {}
        for split, table in parts.items():
            here = f"{split} of {origin}"
            texts = tuple(tables.texts(table, column, here) for column in cls.columns)
            if cls.score == "pearson":
                raw[split] = texts, tables.numbers(table, "label", here)
            else:
                cls.check_names(tables.class_names(table, "label") or cls.class_names, here)
                raw[split] = texts, tables.labels(table, "label", here)
        return raw

    @classmethod
    def _check_count(cls, n: int, what: str, published: int) -> None:
        if abs(n - published) > _SLACK * published:
            raise ValueError(f"{what} holds {n} rows, expected {published}.")
        if n != published:
            _log.warning("%s holds %d rows, and the published %s %d.", what, n, cls.kind, published)


class Sst2(Glue):
    """Is the sentence of a film review positive? (Socher et al. 2013)"""

    kind: ClassVar[str] = "glue/sst2"
    hub_folder: ClassVar[str] = "sst2"
    columns: ClassVar[tuple[str, ...]] = ("sentence",)
    class_names: ClassVar[tuple[str, ...]] = ("negative", "positive")
    counts: ClassVar[Mapping[str, int]] = {"train": 67_349, "validation": 872}
    size: ClassVar[str] = "3 MB"


class Rte(Glue):
    """Does the first text entail the second? (Bentivogli et al. 2009)"""

    kind: ClassVar[str] = "glue/rte"
    hub_folder: ClassVar[str] = "rte"
    class_names: ClassVar[tuple[str, ...]] = ("entailment", "not_entailment")
    counts: ClassVar[Mapping[str, int]] = {"train": 2_490, "validation": 277}
    size: ClassVar[str] = "0.6 MB"


class Mrpc(Glue):
    """Do two sentences of the news say the same? F1 (Dolan & Brockett 2005)"""

    kind: ClassVar[str] = "glue/mrpc"
    hub_folder: ClassVar[str] = "mrpc"
    class_names: ClassVar[tuple[str, ...]] = ("not_equivalent", "equivalent")
    counts: ClassVar[Mapping[str, int]] = {"train": 3_668, "validation": 408}
    score: ClassVar[Score] = "f1"
    size: ClassVar[str] = "0.7 MB"


class Stsb(Glue):
    """How alike are two sentences, from 0 to 5? A regression (Cer et al. 2017)"""

    kind: ClassVar[str] = "glue/stsb"
    hub_folder: ClassVar[str] = "stsb"
    class_names: ClassVar[tuple[str, ...]] = ("similarity",)
    counts: ClassVar[Mapping[str, int]] = {"train": 5_749, "validation": 1_500}
    score: ClassVar[Score] = "pearson"
    size: ClassVar[str] = "0.7 MB"


class Qnli(Glue):
    """Does the sentence answer the question? (Rajpurkar et al. 2016)"""

    kind: ClassVar[str] = "glue/qnli"
    hub_folder: ClassVar[str] = "qnli"
    columns: ClassVar[tuple[str, ...]] = ("question", "sentence")
    class_names: ClassVar[tuple[str, ...]] = ("entailment", "not_entailment")
    counts: ClassVar[Mapping[str, int]] = {"train": 104_743, "validation": 5_463}
    size: ClassVar[str] = "18 MB"


class Qqp(Glue):
    """Do two questions ask the same? F1 (Quora)"""

    kind: ClassVar[str] = "glue/qqp"
    hub_folder: ClassVar[str] = "qqp"
    columns: ClassVar[tuple[str, ...]] = ("question1", "question2")
    class_names: ClassVar[tuple[str, ...]] = ("not_duplicate", "duplicate")
    counts: ClassVar[Mapping[str, int]] = {"train": 363_846, "validation": 40_430}
    score: ClassVar[Score] = "f1"
    size: ClassVar[str] = "37 MB"


class Cola(Glue):
    """Is the sentence grammatical? Correlation of Matthews (Warstadt et al. 2019)"""

    kind: ClassVar[str] = "glue/cola"
    hub_folder: ClassVar[str] = "cola"
    columns: ClassVar[tuple[str, ...]] = ("sentence",)
    class_names: ClassVar[tuple[str, ...]] = ("unacceptable", "acceptable")
    counts: ClassVar[Mapping[str, int]] = {"train": 8_551, "validation": 1_043}
    score: ClassVar[Score] = "matthews"
    size: ClassVar[str] = "0.3 MB"


TASKS: dict[str, type[Glue]] = {task.kind: task for task in (Sst2, Rte, Mrpc, Stsb, Qnli, Qqp, Cola)}
