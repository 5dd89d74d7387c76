"""What a data set is once it is loaded: uint8 tensors, labels, and a fingerprint of all that a training run sees."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_lib.data.batches import Augment, augment, normalise
from kd_lib.data.dataset import WHOLE, Dataset, Shard
from kd_lib.data.dataset import Part as PartName

Part = tuple[NDArray[np.uint8], NDArray[np.integer]]  # images [N, channels, H, W] and labels [N]

_PARTITION_SEED = 20_240_229  # never change it: every held-out part depends on it
HELD_OUT = 0.1


@dataclass(frozen=True, eq=False)
class ImageData(Dataset):
    """Images in memory.

    Attributes:
        name: what it was loaded as.
        train_x, test_x: [N, channels, H, W] uint8.
        train_y, test_y: [N] int64, positions in `class_names`.
        class_names: one name a class.
        mean, std: one number a channel, of training pixels in 0..1.
        augment: what training batches go through.
        fingerprint: SHA-256 (hex) of all of the above but the name.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment
    fingerprint: str

    @property
    def sizes(self) -> dict[str, int]:
        """Number of classes, and channels: 1 for grey images, 3 for colour."""
        return {"n_classes": self.n_classes, "in_channels": self.train_x.shape[1]}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, H, W)."""
        return tuple(self.train_x.shape[1:])

    @property
    def augmented(self) -> bool:
        """Whether `augment` does anything."""
        return self.augment != "none"

    def training_inputs(
        self, batches: Sequence[Tensor], *, seed: int, epoch: int, shard: Shard = WHOLE
    ) -> Iterator[Tensor]:
        """[B, channels, H, W] normalised float32, channels last."""
        for step, index in enumerate(batches):
            x = augment(self.train_x[index], self.augment, seed=seed, epoch=epoch, step=step)
            yield self._normal(x[shard.of(len(x))])

    def inputs(self, part: PartName, batch_size: int, shard: Shard = WHOLE) -> Iterator[Tensor]:
        """[B, channels, H, W] normalised float32, channels last."""
        x = {"train": self.train_x, "test": self.test_x}[part]
        yield from map(self._normal, x[shard.of(len(x))].split(batch_size))

    def _normal(self, x: Tensor) -> Tensor:
        return normalise(x, self.mean, self.std).contiguous(memory_format=torch.channels_last)

    def to(self, device: torch.device | str) -> "ImageData":
        """The same data with its four tensors on `device`."""
        tensors = ("train_x", "train_y", "test_x", "test_y")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def hold_out(self) -> "ImageData":
        """The pixel statistics stay those of the whole training set."""
        rest, held = partition(self.train_y.numpy(), HELD_OUT)
        return replace(
            self,
            train_x=self.train_x[rest],
            train_y=self.train_y[rest],
            test_x=self.train_x[held],
            test_y=self.train_y[held],
            fingerprint=hold_out_fingerprint(self.fingerprint),
        )


def image_data(
    name: str,
    train: Part,
    test: Part,
    class_names: Sequence[str],
    augment: Augment,
    *,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> ImageData:
    """Checked arrays with their fingerprint.

    Args:
        name: what the data set is called.
        train, test: images [N, channels, H, W] uint8 and labels [N].
        class_names: one name a class.
        augment: what training batches go through.
        statistics: mean and std of each channel; None computes them from the training images.
    Returns:
        The data set.
    Raises:
        ValueError: labels outside the classes, a class without training images, or arrays that do not fit together.
    """
    for part, (x, y) in (("train", train), ("test", test)):
        if x.dtype != np.uint8 or x.ndim != 4 or len(x) != len(y) or len(x) == 0:
            raise ValueError(f"{name}: {part} holds {len(y)} labels and {x.dtype} images of shape {list(x.shape)}.")
        if y.min() < 0 or y.max() >= len(class_names):
            raise ValueError(
                f"{name}: {part} has labels {y.min()} to {y.max()}, but there are {len(class_names)} classes."
            )
    if train[0].shape[1:] != test[0].shape[1:]:
        raise ValueError(f"{name}: images are {train[0].shape[1:]} in train and {test[0].shape[1:]} in test.")
    missing = sorted(set(range(len(class_names))) - set(np.unique(train[1]).tolist()))
    if missing:
        raise ValueError(f"{name}: no training image of class {', '.join(class_names[c] for c in missing[:5])}.")
    mean, std = statistics or pixel_statistics(train[0])
    arrays = {
        "train_x": np.ascontiguousarray(train[0]),
        "train_y": train[1].astype("<i8"),
        "test_x": np.ascontiguousarray(test[0]),
        "test_y": test[1].astype("<i8"),
    }
    labels = {"class_names": tuple(class_names), "mean": mean, "std": std, "augment": augment}
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return ImageData(name=name, **tensors, **labels, fingerprint=content_fingerprint(arrays, labels))


def in_canonical_order(part: Part) -> Part:
    """The same images in an order that depends on nothing but themselves: by SHA-256 of the pixels, then by label.

    Copies of a published data set differ in the order of their rows; a batch order drawn from a seed would mean other
    batches in each. Sorted so, all copies are one data set, with classes as mixed as after a shuffle.

    Args:
        part: images and labels in any order.
    Returns:
        Both, sorted.
    """
    x, y = part
    keys = [
        (hashlib.sha256(np.ascontiguousarray(image)).digest(), label)
        for image, label in zip(x, y.tolist(), strict=True)
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return x[order], y[order]


def pixel_statistics(x: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel, of pixels in 0..1.

    Sums are counted in integers, so that every platform gets the same floats and hence the same fingerprint.

    Args:
        x: [N, channels, H, W].
    Returns:
        Means and standard deviations, one a channel.
    Raises:
        ValueError: a channel that never changes, which could not be normalised.
    """
    mean, std = [], []
    for channel in range(x.shape[1]):
        counts = np.bincount(np.ascontiguousarray(x[:, channel]).reshape(-1), minlength=256)
        n, total, squares = (int((counts * np.arange(256) ** power).sum()) for power in (0, 1, 2))
        if n * squares == total**2:
            raise ValueError(f"channel {channel} has the same value in every training pixel.")
        mean.append(total / (255 * n))
        std.append(math.sqrt((n * squares - total**2) / (255 * n) ** 2))
    return tuple(mean), tuple(std)


def hold_out_fingerprint(fingerprint: str) -> str:
    """The fingerprint of `hold_out(data)` from that of `data`, without touching the arrays."""
    return hashlib.sha256(f"{fingerprint}/hold_out/{_PARTITION_SEED}/{HELD_OUT}".encode()).hexdigest()


def partition(y: NDArray[np.integer], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits positions in two, class by class, the same way every time.

    Each position gets a number from the raw PCG64 stream, which NumPy never changes; the smallest of each class go.

    Args:
        y: [N] labels.
        share: the part of each class to take out, in (0, 1); at least one image of each class is taken and one is left.
    Returns:
        The positions that stay and those taken out, each in ascending order.
    Raises:
        ValueError: a class with a single image.
    """
    order = np.lexsort((np.random.PCG64(_PARTITION_SEED).random_raw(len(y)), y))
    taken = np.zeros(len(y), bool)
    classes, starts, counts = np.unique(y[order], return_index=True, return_counts=True)
    for label, start, count in zip(classes, starts, counts, strict=True):
        if count < 2:
            raise ValueError(f"class {label} has one image, and a split needs two.")
        taken[order[start : start + max(1, round(int(count) * share))]] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def content_fingerprint(arrays: dict[str, NDArray], labels: dict[str, object]) -> str:
    """SHA-256 (hex) of arrays, with their names, types and shapes, and of labels that JSON can hold."""
    head = {"labels": labels, "arrays": {key: [str(a.dtype), list(a.shape)] for key, a in arrays.items()}}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for array in arrays.values():
        digest.update(array)
    return digest.hexdigest()
