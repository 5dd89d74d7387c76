"""Trained transformers, by the name of their checkpoint, and students that are a part of their teacher.

    bert:google-bert/bert-base-uncased              an id of the Hugging Face hub, or a folder
    bert-first-6:google-bert/bert-base-uncased      its first six layers
    bert-every-second-6:...                         its layers 2, 4, ..., 12

The name and not the content is in a run's key: a checkpoint that changes needs a new name.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_lib.data.source import DataNotFound, download_allowed
from kd_lib.errors import unknown
from kd_lib.models.transformer import ATTENTION, SIZES, Bert, meaning, transformers

CHECKPOINT = re.compile(r"bert(?:-(?P<which>first|every-second)-(?P<layers>[1-9][0-9]*))?:(?P<path>.+)")
PARTS = ("embeddings", "encoder.layer", "pooler")
SPARE = 128  # rows of an embedding that no token has: some checkpoints round their number up


def checkpoint(name: str, *, published: bool = True, **sizes: int) -> Bert:
    """`bert:google-bert/bert-base-uncased`: a checkpoint's encoder, a fresh classifier.

    Args:
        name: see the top of this file. An id is looked for in the hub's cache, and fetched only where `$KD_DOWNLOAD` is 1.
        published: False makes the same network without the weights; its config.json must be there all the same.
        sizes: as `SIZES`, of the data, whose tokens must be the checkpoint's own.
    Raises:
        DataNotFound: no such checkpoint on this machine.
        ValueError: another kind of network, fewer layers than asked for, or tokens that are not the checkpoint's.
    """
    match = CHECKPOINT.fullmatch(name)
    library, path = transformers(), match["path"]
    if Path(path).expanduser().is_dir():
        path = str(Path(path).expanduser())
    where = {"local_files_only": not download_allowed()}
    try:
        config = library.AutoConfig.from_pretrained(path, **where)
        _check_sizes(name, config, sizes)
        how = {"attn_implementation": ATTENTION, "dtype": torch.float32}
        if published:
            how |= {"config": config, "output_loading_info": True, **where}
            encoder, found = library.AutoModel.from_pretrained(path, **how)
            _check_weights(name, found["missing_keys"])
        else:
            encoder = library.AutoModel.from_config(config, **how)
    except OSError as error:
        raise DataNotFound(
            f"network {name!r}: no checkpoint {path!r} on this machine. Set KD_DOWNLOAD=1 to fetch it from the Hugging Face hub "
            f"once, or name the folder that holds its config.json and weights: 'bert:PATH'. ({str(error).splitlines()[0]})"
        ) from None
    for part in PARTS:
        if not _has(encoder, part):
            raise ValueError(
                f"network {name!r}: a checkpoint needs {', '.join(PARTS)}; {type(encoder).__name__} has no {part}."
            )
    if match["which"]:
        layers = encoder.encoder.layer
        chosen = chosen_layers(match["which"], n_from=len(layers), n=int(match["layers"]))
        encoder.encoder.layer = nn.ModuleList(layers[i] for i in chosen)
    own = {"pad": config.pad_token_id}
    return Bert(encoder, **meaning({**SIZES, **own, **sizes})).train()


def check_checkpoint(name: str) -> None:
    """Raises ValueError where a name cannot be one of a checkpoint; a folder must hold a config.json, an id is not looked up."""
    path = CHECKPOINT.fullmatch(name)["path"]
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"network {name!r}: the folder {path!r} holds no config.json.")
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise ValueError(
            f"network {name!r}: {path!r} is neither a folder nor an id such as 'google-bert/bert-base-uncased'."
        )


def chosen_layers(which: str, *, n_from: int, n: int) -> list[int]:
    """Positions of `n` out of `n_from` layers: "first", or "every-second": 1, 3, ..., so that half as many end with the last.

    Raises:
        ValueError: not so many layers; an unknown choice.
    """
    rules: dict[str, Sequence[int]] = {"first": range(n), "every-second": range(1, 2 * n, 2)}
    if which not in rules:
        raise unknown("choice of layers", which, rules)
    if rules[which][-1] >= n_from:
        raise ValueError(f"there are not {which} {n} layers in a network of {n_from}.")
    return list(rules[which])


def copy_layers(student: nn.Module, teacher: nn.Module, which: str) -> None:
    """Makes the student a part of the teacher: its embeddings, chosen layers, pooler and classifier.

    Args:
        student: changed in place; of the teacher's width, with fewer layers.
        teacher: read.
        which: as in `chosen_layers`.
    Raises:
        ValueError: networks that are not both transformers, of unequal widths or heads, or without so many layers.
    """
    for network in (student, teacher):
        if not isinstance(network, Bert):
            raise ValueError(f"layers are copied from transformer to transformer; {type(network).__name__} is none.")
    shapes = [(n.classifier.in_features, _heads(n)) for n in (student, teacher)]
    if shapes[0] != shapes[1]:
        (d_s, heads_s), (d_t, heads_t) = shapes
        raise ValueError(
            f"layers are copied between equal widths: the student has {d_s} features and {heads_s} heads, the teacher {d_t} and "
            f"{heads_t}."
        )
    chosen = chosen_layers(which, n_from=len(teacher.stages), n=len(student.stages))
    pairs = [(own, teacher.stages[i]) for own, i in zip(student.stages, chosen, strict=True)]
    pairs += [(getattr(student, part), getattr(teacher, part)) for part in ("embeddings", "pooler", "classifier")]
    for own, other in pairs:
        own.load_state_dict(other.state_dict())


def _heads(network: Bert) -> int:
    return network.stages[0].attention.self.num_attention_heads


def _check_sizes(name: str, config: Any, sizes: dict[str, int]) -> None:
    """Raises ValueError where a checkpoint cannot read the data's tokens."""
    spare = config.vocab_size - sizes.get("vocabulary", config.vocab_size)
    if not 0 <= spare < SPARE or sizes.get("pad", config.pad_token_id) != config.pad_token_id:
        raise ValueError(
            f"network {name!r} knows {config.vocab_size} tokens and pads with {config.pad_token_id}; the data has "
            f"{sizes.get('vocabulary')} and pads with {sizes.get('pad')}. Its texts must be read with this checkpoint's own tokenizer."
        )
    if sizes.get("max_length", 0) > config.max_position_embeddings:
        raise ValueError(
            f"network {name!r} reads at most {config.max_position_embeddings} tokens, the data has texts of {sizes['max_length']}."
        )


def _check_weights(name: str, missing: Sequence[str]) -> None:
    """Raises ValueError for a checkpoint without the weights of its own layers; a missing pooler starts fresh, as the classifier."""
    if lost := sorted(key for key in missing if not key.startswith("pooler.")):
        raise ValueError(f"network {name!r}: its checkpoint lacks {len(lost)} weights, such as {lost[0]}.")


def _has(module: nn.Module, path: str) -> bool:
    try:
        return module.get_submodule(path) is not None
    except AttributeError:
        return False
