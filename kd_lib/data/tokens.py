"""Texts to token ids: with the tokenizer of a checkpoint, or with a WordPiece vocabulary learnt from the training part."""

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_lib.data.source import DataNotFound, download_allowed

_LEARNT = re.compile(r"wordpiece:(\d+)")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_FILES = ("*.json", "vocab.txt", "merges.txt", "*.model")  # of a checkpoint, those that can decide about tokens

Texts = Sequence[Sequence[str]]  # one column, or two of equal length where texts are pairs


class Tokenizer(NamedTuple):
    """A vocabulary and how it is used.

    Attributes:
        tokens: by id.
        pad, separator: ids.
        rows: token ids, a list for each text: [CLS] a [SEP], or [CLS] a [SEP] b [SEP].
    """

    tokens: tuple[str, ...]
    pad: int
    separator: int
    rows: Callable[[Texts], list[list[int]]]

    def encode(self, texts: Texts) -> NDArray[np.int32]:
        """[N, longest], filled up with `pad`."""
        rows = self.rows(texts)
        x = np.full((len(rows), max(map(len, rows))), self.pad, np.int32)
        for out, row in zip(x, rows, strict=True):
            out[: len(row)] = row
        return x


def check(name: str) -> str:
    """The name of a tokenizer, if it can be one.

    Raises:
        ValueError: a vocabulary to learn without a sensible size.
    """
    learnt = _LEARNT.fullmatch(name)
    if name.startswith("wordpiece:") and (learnt is None or int(learnt[1]) < 100):
        raise ValueError(f"tokenizer {name!r}: a vocabulary to learn is 'wordpiece:N' with N of 100 or more tokens")
    return name


def content(name: str) -> dict[str, str] | None:
    """SHA-256 of the files that decide about tokens, where `name` is a folder; None where it is not."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return None
    files = sorted({file for pattern in _FILES for file in folder.glob(pattern)})
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def tokenizer(name: str, max_length: int, training: Texts) -> Tokenizer:
    """The tokenizer of a name.

    Args:
        name: "wordpiece:N" to learn N tokens from `training`; else a folder or a hub id, for `transformers`.
        max_length: tokens at which a text is cut; of pairs, the longer one is shortened.
        training: the texts to learn from.
    Returns:
        The tokenizer.
    Raises:
        ValueError: a vocabulary too small for the characters of the texts; a tokenizer without padding, start token or
            separator.
        DataNotFound: a checkpoint that is not on this machine.
    """
    learnt = _LEARNT.fullmatch(name)
    if learnt:
        return _learnt(int(learnt[1]), max_length, training)
    return _pretrained(name, max_length)


def _learnt(size: int, max_length: int, training: Texts) -> Tokenizer:
    """BERT's normalisation (lower case, no accents) and its splitting into words, the pieces learnt."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

    texts = [text for column in training for text in column]
    splitter = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    splitter.normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    letters = sorted(c for c in set(splitter.normalizer.normalize_str("\n".join(texts))) if not c.isspace())
    if size <= len(_SPECIAL) + 2 * len(letters):
        raise ValueError(f"a vocabulary of {size} has no room for pieces beside {len(letters)} characters.")
    # the trainer numbers "##a" in the order of a hash map and breaks ties by number: numbered here, it is deterministic
    fixed = [*_SPECIAL, *(f"##{letter}" for letter in letters)]
    splitter.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=fixed, show_progress=False)
    )
    vocabulary = splitter.get_vocab()
    learnt = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]")
    )  # without the special meaning of "##a"
    learnt.normalizer, learnt.pre_tokenizer = splitter.normalizer, splitter.pre_tokenizer
    learnt.post_processor = processors.BertProcessing(*((t, vocabulary[t]) for t in ("[SEP]", "[CLS]")))
    learnt.enable_truncation(max_length)

    def rows(texts: Texts) -> list[list[int]]:
        whole = list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))
        return [encoding.ids for encoding in learnt.encode_batch(whole)]

    tokens = tuple(sorted(vocabulary, key=vocabulary.__getitem__))
    return Tokenizer(tokens, vocabulary["[PAD]"], vocabulary["[SEP]"], rows)


def _pretrained(name: str, max_length: int) -> Tokenizer:
    from transformers import AutoTokenizer  # slow to import, and not needed once the texts are kept

    folder = Path(name).expanduser()
    try:
        own = AutoTokenizer.from_pretrained(
            folder if folder.is_dir() else name, local_files_only=not download_allowed()
        )
    except (OSError, ValueError) as error:
        raise DataNotFound(
            f"the tokenizer {name} is not on this machine, or it is none ({str(error).splitlines()[0]})\n"
            "Set KD_DOWNLOAD=1 to fetch it from the Hugging Face hub once, give the setting `tokenizer` a checkpoint's "
            "folder, or choose tokenizer='wordpiece:4000', which is learnt from the training part."
        ) from error
    if None in (own.pad_token_id, own.cls_token_id, own.sep_token_id):
        raise ValueError(f"the tokenizer {name} lacks padding, start token or separator, so it is not BERT-like.")

    def rows(texts: Texts) -> list[list[int]]:
        return own(*map(list, texts), truncation=True, max_length=max_length)["input_ids"]

    tokens = tuple(own.convert_ids_to_tokens(range(len(own))))
    return Tokenizer(tokens, own.pad_token_id, own.sep_token_id, rows)
