"""Networks by import path: "package.module:function" names a builder of one's own, in this process and in any other."""

import importlib
import inspect
from collections.abc import Callable

from torch import nn

from kd_lib.errors import unknown

NEEDED = ("classifier", "keep_preactivations", "forward_from")
SIZES = (("n_classes", "in_channels"), ("n_classes", "vocabulary", "pad", "separator", "max_length"))


def find_builder(name: str) -> Callable[..., nn.Module]:
    """The function that a name such as "package.module:function" stands for.

    Raises:
        ValueError: no such module, no such function in it, or one that can be called neither with the sizes of images nor with
            those of texts.
    """
    path, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise  # the module is there; what it imports is not
        raise ValueError(
            f"network {name!r}: there is no module {error.name!r} on the import path. Put its folder into PYTHONPATH, so that "
            "worker processes find it as well."
        ) from None
    builder = getattr(module, attribute, None)
    if not callable(builder):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"function of module {path}", attribute, names)
    refused = [error for error in (_refusal(builder, names) for names in SIZES) if error is not None]
    if len(refused) == len(SIZES):
        raise ValueError(
            f"network {name!r}: called as {attribute}(n_classes=..., in_channels=...), which it does not take: {refused[0]}. (For "
            f"texts, with {', '.join(SIZES[1])}.)"
        )
    return builder


def _refusal(builder: Callable[..., nn.Module], names: tuple[str, ...]) -> TypeError | None:
    try:
        inspect.signature(builder).bind(**dict.fromkeys(names, 1))
    except TypeError as error:
        return error
    return None


def build_own(name: str, sizes: dict[str, int]) -> nn.Module:
    """The network that this builder makes of the data's sizes.

    Raises:
        ValueError: as `find_builder`; it does not take these sizes; or a network that lacks what runs need of it.
    """
    builder = find_builder(name)
    if (error := _refusal(builder, tuple(sizes))) is not None:
        raise ValueError(f"network {name!r} is not made for this data, whose sizes are {', '.join(sizes)}: {error}.")
    network, n_classes = builder(**sizes), sizes["n_classes"]
    missing = [attribute for attribute in NEEDED if not hasattr(network, attribute)]
    if not isinstance(network, nn.Module) or missing:
        raise ValueError(
            f"network {name!r}: {type(network).__name__} has no {', '.join(missing) or 'nn.Module'}. Return "
            "kd_lib.models.Staged(network, stages=[...], classifier=...), which gives it all of these."
        )
    if not isinstance(network.classifier, nn.Linear):
        raise ValueError(
            f"network {name!r}: its classifier must be nn.Linear, not {type(network.classifier).__name__}. In "
            "kd_lib.models.Staged(network, stages=[...], classifier=...) name the last linear layer."
        )
    if network.classifier.out_features != n_classes:
        raise ValueError(
            f"network {name!r}: built for {network.classifier.out_features} classes, asked for {n_classes}. Pass n_classes on."
        )
    return network
