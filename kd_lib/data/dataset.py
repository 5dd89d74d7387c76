"""What the training loop knows of a data set: labels, sizes, and network inputs a batch at a time."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kd_lib import metrics

Part = Literal["train", "test"]


class Shard(NamedTuple):
    """Which part of the work is this process's, where several share a run.

    Attributes:
        rank: of this process, from 0.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1

    def of(self, n: int) -> slice:
        """This process's positions of n: neighbours, and as many as every other process has, or one more."""
        least, more = divmod(n, self.world)
        first = self.rank * least + min(self.rank, more)
        return slice(first, first + least + (self.rank < more))


WHOLE = Shard()


class Dataset(ABC):
    """A training and a test part. Loaded sets are shared within a process: read them, never write to them.

    Attributes:
        name: what it was loaded as.
        train_y, test_y: [N] int64, positions in `class_names`; float32 where a number is to be predicted (a regression).
        class_names: one name a class; of a regression, the one number's.
        fingerprint: SHA-256 (hex) of all that a training run sees.
    """

    name: str
    train_y: Tensor
    test_y: Tensor
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def scores(self, logits: Tensor, y: Tensor) -> dict[str, float]:
        """What the field reports of predictions [N, C] for labels [N], in percent; the first is the main one."""
        return {"accuracy": 100 * metrics.accuracy(logits, y)}

    @property
    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """What `models.build` must know of the data, by argument."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample, without the batch."""

    @property
    @abstractmethod
    def augmented(self) -> bool:
        """Whether a training sample differs from epoch to epoch, so that a teacher's answer cannot be remembered."""

    def batches(self, order: Tensor, batch_size: int) -> list[Tensor]:
        """One epoch's batches, as positions in the training part; a last batch of one is left out, batch norm needs two.

        Args:
            order: [N], every position once, shuffled.
        """
        return [part for part in order.split(batch_size) if len(part) > 1]

    @abstractmethod
    def training_inputs(
        self, batches: Sequence[Tensor], *, seed: int, epoch: int, shard: Shard = WHOLE
    ) -> Iterator[Tensor]:
        """One epoch of network inputs, augmented.

        Args:
            batches: positions in the training part, a tensor a step.
            seed, epoch: with the step, all that the augmentation depends on.
            shard: whose part of each batch; all parts together are what one process gets.
        Yields:
            What the network reads of each batch.
        """

    @abstractmethod
    def inputs(self, part: Part, batch_size: int, shard: Shard = WHOLE) -> Iterator[Tensor]:
        """Network inputs of a part of the data (of the shard's positions in it), in order and as they are."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Dataset":
        """The same data with its tensors on `device`."""

    @abstractmethod
    def hold_out(self) -> "Dataset":
        """The data for making choices: a fixed, stratified tenth of train stands in for test, and test itself is not in it.

        Which samples are held out depends on the labels alone; the fingerprint is `hold_out_fingerprint`'s.

        Raises:
            ValueError: a class with a single training sample.
        """
