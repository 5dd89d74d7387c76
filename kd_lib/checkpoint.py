"""A training on disk: everything that a run which was killed needs to end with the bits of one that was not."""

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from kd_lib import store
from kd_lib.session import Session


def save(session: Session, folder: Path) -> None:
    """Write one file that holds everything, its own hash in its name, and delete the one before it."""
    tensors = {f"parts.{name}": tensor for name, tensor in session.parts.state_dict().items()}
    for i, parameter in enumerate(_parameters(session)):
        for name, tensor in session.optimiser.state[parameter].items():
            if tensor is not None:
                tensors[f"optimiser.{i}.{name}"] = tensor
    content = safetensors.torch.save(packed(tensors), metadata={"log": json.dumps(session.log)})
    digest = hashlib.sha256(content).hexdigest()[:16]
    older = list(folder.glob("checkpoint-*"))
    store.write_atomic(folder / f"checkpoint-{session.epoch:06d}-{digest}.safetensors", content)
    for path in older:
        path.unlink()


def epochs(folder: Path) -> int:
    """Epochs that the newest checkpoint holds, 0 without one."""
    return max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*.safetensors")), default=0)


def resume(session: Session, folder: Path) -> None:
    """Go on from the newest checkpoint whose hash is right, if there is one."""
    newest = session.group.once(lambda: _newest(folder))
    if newest is not None:
        _restore(session, newest)
    if session.group.first:
        lines = "".join(json.dumps(row) + "\n" for row in session.log)
        store.write_atomic(folder / "metrics.jsonl", lines.encode())


def _newest(folder: Path) -> Path | None:
    for path in sorted(folder.glob("checkpoint-*.safetensors"), reverse=True):
        if store.file_hash(path)[:16] == path.stem.rpartition("-")[2]:
            return path
    return None


def _restore(session: Session, path: Path) -> None:
    with safetensors.safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)
        session.log = json.loads(file.metadata()["log"])
    session.parts.load_state_dict(
        {name.removeprefix("parts."): tensor for name, tensor in tensors.items() if name.startswith("parts.")}
    )
    for i, parameter in enumerate(_parameters(session)):
        prefix = f"optimiser.{i}."
        for name in [n for n in tensors if n.startswith(prefix)]:
            # in the parameter's own memory order: another order takes another code path, which may round differently
            state = tensors[name]
            if state.shape == parameter.shape:
                state = torch.empty_like(parameter, requires_grad=False).copy_(state)
            session.optimiser.state[parameter][name.removeprefix(prefix)] = state


def _parameters(session: Session) -> list[nn.Parameter]:
    return [p for group in session.optimiser.param_groups for p in group["params"]]


def packed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As safetensors takes them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
