"""Several processes, one a GPU, that train one run together.

    accelerate launch --multi_gpu --num_processes 8 -m kd_lib run KEY
    torchrun --nproc-per-node 2 -m kd_lib run KEY --device cpu

The global batch is the run's `batch_size`, whatever the number of processes: each takes its share of every batch, and gradients are
averaged with the shares as weights. So a run's key does not hold that number, and a network without batch norm ends where one process
would have brought it, up to rounding. Batch norm sees a process's share alone; its running statistics are averaged after each epoch.
Dropout draws its own in each process. A frozen teacher answers in each process about its share, and sends nothing.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from kd_lib import data, hardware, store
from kd_lib.config import Run
from kd_lib.data.dataset import WHOLE, Shard

# The others wait while the first one decodes data or waits for a lock. A process that died is no reason for a shorter time: the
# launcher then ends its fellows.
PATIENCE = timedelta(days=7)

Exchange = Callable[[float, Tensor, Tensor], tuple[Tensor, Tensor]]


class FirstProcessFailed(RuntimeError):
    """What the first process was to do for all has failed; the message holds its error."""


class Group:
    """A process alone: all that several would do together is nothing.

    Attributes:
        shard: this process's rank, and the number of processes.
    """

    shard = WHOLE

    @property
    def first(self) -> bool:
        """Whether this process writes, locks and reports for all."""
        return self.shard.rank == 0

    def find_device(self, name: str) -> torch.device:
        """This process's device."""
        return hardware.find_device(name)

    def check(self, run: Run) -> None:
        """Raises ValueError for a run that several processes would train to something else than one."""

    def once(self, do: Callable[[], Any]) -> Any:
        """What `do` returns in the first process, in all of them; none goes on before it is done."""
        return do()

    def lock(self, name: str) -> AbstractContextManager:
        """The store's lock, held by the first process for all."""
        return store.lock(name)

    def start_alike(self, parts: nn.Module) -> None:
        """Give all processes the first one's weights and buffers."""

    def exchange(self, parameters: Mapping[str, nn.Parameter]) -> Exchange:
        """What averages the gradients of these parameters in each step of an epoch.

        Returns:
            A function of this process's share of the batch, its loss terms (means over its share) and its number of right
            answers, that averages gradients in place and returns terms and number of the whole batch.
        """
        return lambda _share, terms, right: (terms, right)

    def settle(self, parts: nn.Module) -> None:
        """After an epoch: average the running statistics of batch norm, and make sure that all the rest is the same everywhere.

        Raises:
            RuntimeError: a tensor differs between processes; the message names it.
        """

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """All n rows of what each process holds its shard of, in every process."""
        return rows


ALONE = Group()


class Several(Group):
    """One of several processes."""

    def __init__(self, shard: Shard, device: torch.device):
        self.shard, self.device = shard, device

    def find_device(self, name: str) -> torch.device:
        return self.device

    def check(self, run: Run) -> None:
        world, alone = self.shard.world, f"Train it by one process: python -m kd_lib run {run.key}"
        if run.method_type(**run.method_settings).relates_samples:
            raise ValueError(
                f"{run.label}: what {run.method!r} says of a sample depends on the other samples, and {world} processes would each "
                f"see their own part of a batch. {alone}"
            )
        dataset = data.load(run.data, split=run.split, **run.data_settings)
        n = len(dataset.train_y)
        smallest = min(size for size in (min(run.batch_size, n), n % run.batch_size) if size > 1)
        if smallest < 2 * world:
            raise ValueError(
                f"{run.label}: of {n} training samples in batches of {run.batch_size} one batch has {smallest}, too few for "
                f"{world} processes, which need two samples each. Take fewer processes or another batch_size. {alone}"
            )
        if len(dataset.test_y) < world:
            raise ValueError(f"{run.label}: {len(dataset.test_y)} test samples for {world} processes. {alone}")

    def once(self, do: Callable[[], Any]) -> Any:
        answer, error = [None, ""], None
        if self.first:
            try:
                answer[0] = do()
            except Exception as raised:  # sent on, or the others would wait for ever
                error, answer[1] = raised, f"{type(raised).__name__}: {raised}"
        torch.distributed.broadcast_object_list(answer, src=0)
        if error is not None:
            raise error
        if answer[1]:
            raise FirstProcessFailed(answer[1])
        return answer[0]

    def lock(self, name: str) -> AbstractContextManager:
        return store.lock(name) if self.first else nullcontext()

    @torch.no_grad()
    def start_alike(self, parts: nn.Module) -> None:
        for tensor in parts.state_dict().values():
            plain = tensor.contiguous()  # channels last is not, for a broadcast
            torch.distributed.broadcast(plain, src=0)
            tensor.copy_(plain)

    def exchange(self, parameters: Mapping[str, nn.Parameter]) -> Exchange:
        moving: list[str] | None = None

        def average(share: float, terms: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal moving
            found = [name for name, parameter in parameters.items() if parameter.grad is not None]
            if moving is None:
                self._check_alike({name: name in found for name in parameters}, "the gradient's existence")
                moving = found
            elif moving != found:
                raise RuntimeError(
                    f"{', '.join(set(moving) ^ set(found))}: has a gradient in some steps of an epoch and none in others; "
                    f"{self.shard.world} processes cannot average that."
                )
            gradients = [parameters[name].grad for name in moving]
            parts = [share * part.reshape(-1) for part in (*gradients, terms)]
            flat = torch.cat([*parts, right.reshape(1).to(terms.dtype)])
            torch.distributed.all_reduce(flat)
            sizes = [part.numel() for part in (*parts, right)]
            *averaged, terms, right = flat.split(sizes)
            for gradient, whole in zip(gradients, averaged, strict=True):
                gradient.copy_(whole.view(gradient.shape))
            return terms, right.round().long().squeeze()

        return average

    @torch.no_grad()
    def settle(self, parts: nn.Module) -> None:
        for name, tensor in parts.named_buffers():
            if name.rpartition(".")[2] in ("running_mean", "running_var"):
                torch.distributed.all_reduce(tensor)
                tensor /= self.shard.world
        self._check_alike({name: _digest(tensor) for name, tensor in parts.state_dict().items()}, "the value")

    def _check_alike(self, mine: dict[str, object], what: str) -> None:
        everyone: list[Any] = [None] * self.shard.world
        torch.distributed.all_gather_object(everyone, mine)
        differing = [name for name in mine if any(other[name] != mine[name] for other in everyone)]
        if differing:
            raise RuntimeError(
                f"the {self.shard.world} processes of this run differ in {what} of {', '.join(differing[:5])}"
                f"{f' and {len(differing) - 5} more' if len(differing) > 5 else ''}: something in a step depends on the process. "
                "Train the run by one process."
            )

    def gather(self, rows: Tensor, n: int) -> Tensor:
        shards = [Shard(rank, self.shard.world).of(n) for rank in range(self.shard.world)]
        sizes = [shard.stop - shard.start for shard in shards]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        everyone = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(everyone, padded)
        return torch.cat([part[:size] for part, size in zip(everyone, sizes, strict=True)])


def _digest(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()).digest()


def launched() -> bool:
    """Whether a launcher (`accelerate launch`, `torchrun`) started this process as one of several."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: str = "auto") -> Group:
    """The group that this process was launched in; a process that was not has a group of its own.

    Args:
        device: "auto", "cpu" or "cuda"; on GPUs each process of a machine has one of its own.
    Raises:
        ValueError: a device with a number; another kind of device than before.
        RuntimeError: no accelerate; a device that processes cannot share a run on; fewer GPUs than processes.
    """
    if not launched():
        return ALONE
    wanted = hardware.find_device(device)
    if wanted.index is not None:
        raise ValueError(f"device {device!r} in one of several processes: each takes a GPU of its own, so say 'cuda'.")
    return _join(wanted.type)


@lru_cache
def _join(kind: str) -> Several:
    world = int(os.environ["WORLD_SIZE"])
    try:
        from accelerate import PartialState  # here: a process alone needs none of it
    except ImportError:
        raise RuntimeError(
            f"{world} processes share a run by accelerate: python -m pip install 'accelerate>=1.2'"
        ) from None
    if kind not in ("cpu", "cuda"):
        raise RuntimeError(f"{world} processes share a run on 'cpu' or 'cuda', not on {kind!r}; say --device cpu")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if kind == "cuda" and torch.cuda.device_count() < here:
        raise RuntimeError(f"{here} processes on this machine need a GPU each; it has {torch.cuda.device_count()}")
    state = PartialState(cpu=kind == "cpu", backend={"cpu": "gloo", "cuda": "nccl"}[kind], timeout=PATIENCE)
    if state.device.type != kind:
        raise ValueError(f"device {kind!r} in a group of processes that has begun on {state.device.type!r}")
    own = torch.device("cpu") if kind == "cpu" else state.device  # the state numbers processors too
    return Several(Shard(state.process_index, state.num_processes), own)


def leave() -> None:
    """End the group, once nothing is left to do together."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
