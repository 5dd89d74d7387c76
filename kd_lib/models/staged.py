"""`Staged`: a network that was not written for this library takes part by naming its stages.

    # mine.py, anywhere on the import path
    def small(n_classes, in_channels):
        return Staged(MyNetwork(in_channels, n_classes), stages=["layer1", "layer2"], classifier="fc")

    ensure(Run(network="mine:small", teacher=..., method="kd"))

`tests/test_own_network.py` is the whole example. A run's key holds the name "mine:small", not the code behind it: a
network that changes needs a new name.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from kd_lib.models.layers import check_stage
from kd_lib.shapes import Outputs


class Staged(nn.Module):
    """A network whose maps, embedding and logits are read off while it runs, by forward hooks.

    What follows a stage reads a copy of its map, because it may change it in place; that costs one more write of each map.

    Args:
        network: any network for images.
        stages: names of modules, as in `network.named_modules()`, whose outputs are the maps, in the order they run. A
            module that runs several times in a pass counts with its last time.
        classifier: name of the last linear layer: its input is the embedding, its output the logits, whatever the
            network does with them afterwards.
        preactivations: names of the activations that end the stages, one a stage; what such a module reads is the
            preactivation. None: methods that match preactivations cannot use this network.
    Raises:
        ValueError: a name that is no module of the network; a classifier that is not `nn.Linear`.
    """

    def __init__(
        self, network: nn.Module, *, stages: Sequence[str], classifier: str, preactivations: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.stage_names, self.classifier_name = tuple(stages), classifier
        self.activation_names = None if preactivations is None else tuple(preactivations)
        self.keep_preactivations = False
        kind = type(network).__name__
        for name in (*self.stage_names, classifier, *(self.activation_names or ())):
            _check_module(network, name)
        if not self.stage_names:
            raise ValueError(f"Staged({kind}): name at least one stage.")
        if self.activation_names is not None and len(self.activation_names) != len(self.stage_names):
            raise ValueError(
                f"Staged({kind}): {len(self.activation_names)} preactivations for {len(self.stage_names)} stages; "
                "name one activation a stage, or none at all."
            )
        if not isinstance(self.classifier, nn.Linear):
            found = type(self.classifier).__name__
            raise ValueError(f"Staged({kind}): the classifier must be nn.Linear; {classifier!r} is {found}.")

    @property
    def classifier(self) -> nn.Linear:
        return self.network.get_submodule(self.classifier_name)

    @property
    def stages(self) -> nn.ModuleList:
        return nn.ModuleList(self.network.get_submodule(name) for name in self.stage_names)

    def forward(self, x: Tensor) -> Outputs:
        """Raises ValueError where a named module does not run, or returns something else than a map."""
        return self._observe(lambda: self.network(x), 0)

    def forward_from(self, x: Tensor, stage: int) -> Outputs:
        """As in `layers.Network`; a subclass says how to go on, in `run_from`."""
        check_stage(stage, len(self.stage_names))
        return self._observe(lambda: self.run_from(x, stage), stage)

    def run_from(self, x: Tensor, stage: int) -> Any:
        """Run stage `stage`, what follows it, and the classifier; what it returns is not read.

        Raises:
            ValueError: unless a subclass implements it.
        """
        raise ValueError(
            f"forward_from: hooks cannot know how {type(self.network).__name__} goes on from the middle. Subclass Staged "
            "and implement run_from(x, stage): run the modules from that stage to the classifier, x being the stage's input."
        )

    def _observe(self, run: Callable[[], Any], first: int) -> Outputs:
        """Outputs of a pass that begins with stage `first`.

        The hooks live as long as the pass, so that a copy of this module never writes to the original.
        """
        maps: dict[str, Tensor] = {}
        inputs: dict[str, Tensor] = {}
        ends: list[tuple[Tensor, Tensor]] = []
        if self.keep_preactivations and self.activation_names is None:
            kind = type(self.network).__name__
            raise ValueError(
                f"{kind}: no preactivations are named. Staged(..., preactivations=[one activation a stage])."
            )
        activations = (self.activation_names or ())[first:] if self.keep_preactivations else ()
        with ExitStack() as hooks:
            for name in self.stage_names[first:]:
                part = self.network.get_submodule(name)
                hooks.enter_context(part.register_forward_hook(_keep_output(maps, name)))
            for name in activations:
                part = self.network.get_submodule(name)
                hooks.enter_context(part.register_forward_pre_hook(_keep_input(inputs, name)))
            ending = self.classifier.register_forward_hook(lambda _module, read, wrote: ends.append((read[0], wrote)))
            hooks.enter_context(ending)
            run()
        for names, found in ((self.stage_names[first:], maps), (activations, inputs)):
            self._check_maps(names, found)
        embedding, logits = self._in_float32(ends)
        return Outputs(
            logits, embedding, tuple(maps[n] for n in self.stage_names[first:]), tuple(inputs[n] for n in activations)
        )

    def _check_maps(self, names: Sequence[str], found: dict[str, Any]) -> None:
        for name in names:
            if name not in found:
                raise ValueError(f"{type(self.network).__name__}: the module {name!r} did not run in this pass.")
            if not isinstance(found[name], Tensor) or found[name].dim() != 4:
                shape = tuple(found[name].shape) if isinstance(found[name], Tensor) else type(found[name]).__name__
                raise ValueError(
                    f"{type(self.network).__name__}: {name!r} must give a map [B, channels, H, W], not {shape}."
                )

    def _in_float32(self, ends: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Embedding and logits; where autocast made them bfloat16, the logits are computed again from the embedding."""
        if not ends:
            raise ValueError(f"{type(self.network).__name__}: the classifier {self.classifier_name!r} did not run.")
        embedding, logits = ends[-1]
        if embedding.dim() != 2:
            raise ValueError(
                f"{type(self.network).__name__}: the classifier {self.classifier_name!r} must read a pooled embedding "
                f"[B, D], not {tuple(embedding.shape)}."
            )
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = embedding.float()
            return embedding, logits if logits.dtype == torch.float32 else self.classifier(embedding)


def _keep_output(store: dict[str, Any], name: str) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        store[name] = output
        return output.clone() if isinstance(output, Tensor) else None

    return hook


def _keep_input(store: dict[str, Any], name: str) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
        store[name] = inputs[0]
        return (inputs[0].clone(), *inputs[1:])

    return hook


def _check_module(network: nn.Module, name: str) -> None:
    names = [n for n, _ in network.named_modules() if n]
    if name not in names:
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        parts = ", ".join(n for n, _ in network.named_children())
        raise ValueError(
            f"{type(network).__name__} has no module {name!r}.{hint} Its parts: {parts}; inside them, see named_modules()."
        )
