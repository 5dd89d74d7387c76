"""Data sets that stay encoded: pictures are read, decoded and cut when a batch needs them, in processes of their own.

What a training picture looks like is a function of (seed, epoch, position in the training part) and of nothing else:
neither the batch that it is in, nor the process that decodes it, nor how many there are.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kd_lib.data import crops
from kd_lib.data.batches import normalise, stream
from kd_lib.data.dataset import WHOLE, Dataset, Part, Shard
from kd_lib.data.decode import open_rgb
from kd_lib.data.images import HELD_OUT, hold_out_fingerprint, partition
from kd_lib.data.listings import Listing
from kd_lib.errors import unknown

# of ImageNet's training pixels: torchvision's published networks expect them
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Work(NamedTuple):
    """Pictures that one process decodes in one go.

    Attributes:
        at: [B] their positions in the listing.
        draw: seed, epoch and [B] positions in the training part, for a training view; None for the centre.
    """

    at: Tensor
    draw: tuple[int, int, Tensor] | None = None


class Decoder(torch.utils.data.Dataset):
    """Work to pixels; this is what the decoding processes get.

    Args:
        listing: where the pictures are.
        side: of the views.
        work: all that is to be done, in order.
    """

    def __init__(self, listing: Listing, side: int, work: Sequence[Work]):
        self.listing, self.side, self.work = listing, side, work

    def __len__(self) -> int:
        return len(self.work)

    def __getitem__(self, step: int) -> Tensor:
        """[B, side, side, 3] uint8.

        Raises:
            ValueError: a picture that cannot be read; the message names it.
        """
        at, draw = self.work[step]
        x = np.empty((len(at), self.side, self.side, 3), np.uint8)
        for i, position in enumerate(at.tolist()):
            image, _ = open_rgb(self.listing.encoded(position), self.listing.called(position))
            if draw is None:
                x[i] = crops.centre_view(image, self.side)
            else:
                seed, epoch, places = draw
                numbers = torch.rand(crops.DRAWS, generator=stream("picture", seed, epoch, int(places[i])))
                x[i] = crops.training_view(image, self.side, numbers.tolist())
        return torch.from_numpy(x)


@dataclass(frozen=True, eq=False)
class PictureData(Dataset):
    """Pictures on disk. Training cuts out random parts and mirrors half of them; evaluation sees the centre.

    Attributes:
        name: what it was loaded as.
        listing: where the pictures are.
        crop: side of the square that a network sees.
        train_at, test_at: [N] positions in the listing, on the CPU.
        train_y, test_y: [N] int64, positions in `class_names`; on the device that inputs come to.
        class_names: one name a class.
        fingerprint: SHA-256 (hex) of listing and crop. The pictures themselves are not read for it.
    """

    name: str
    listing: Listing
    crop: int
    train_at: Tensor
    test_at: Tensor
    train_y: Tensor
    test_y: Tensor
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def sizes(self) -> dict[str, int]:
        """Number of classes; pictures have three channels, grey ones too."""
        return {"n_classes": self.n_classes, "in_channels": 3}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(3, crop, crop)."""
        return 3, self.crop, self.crop

    @property
    def augmented(self) -> bool:
        """No two epochs see the same."""
        return True

    def training_inputs(
        self, batches: Sequence[Tensor], *, seed: int, epoch: int, shard: Shard = WHOLE
    ) -> Iterator[Tensor]:
        """[B, 3, crop, crop] normalised float32, channels last. Of each batch the shard's part alone is decoded."""
        sizes = [len(batch) for batch in batches]
        on_cpu = torch.cat(list(batches)).cpu().split(sizes)  # one copy from the device instead of one a batch
        mine = [batch[shard.of(len(batch))] for batch in on_cpu]
        return self._inputs([Work(self.train_at[places], (seed, epoch, places)) for places in mine])

    def inputs(self, part: Part, batch_size: int, shard: Shard = WHOLE) -> Iterator[Tensor]:
        """[B, 3, crop, crop] normalised float32, channels last: the pictures' centres."""
        at = self._at(part)
        return self._inputs([Work(chunk) for chunk in at[shard.of(len(at))].split(batch_size)])

    def pixels(self, part: Part, index: Sequence[int], *, draw: tuple[int, int] | None = None) -> Tensor:
        """A few pictures as a network sees them before they are normalised, decoded in this process.

        Args:
            part: "train" or "test".
            index: their positions in it.
            draw: seed and epoch of a training view; None shows the centre.
        Returns:
            [N, 3, crop, crop] uint8.
        """
        places = torch.as_tensor(index)
        work = Work(self._at(part)[places], None if draw is None else (*draw, places))
        self.listing.open()
        return Decoder(self.listing, self.crop, [work])[0].permute(0, 3, 1, 2)

    def to(self, device: torch.device | str) -> "PictureData":
        """The same data with its labels on `device`, where inputs come then too."""
        return replace(self, train_y=self.train_y.to(device), test_y=self.test_y.to(device))

    def hold_out(self) -> "PictureData":
        """Reads no picture."""
        rest, held = partition(self.train_y.cpu().numpy(), HELD_OUT)
        return replace(
            self,
            train_at=self.train_at[rest],
            train_y=self.train_y[rest],
            test_at=self.train_at[held],
            test_y=self.train_y[held],
            fingerprint=hold_out_fingerprint(self.fingerprint),
        )

    def _at(self, part: Part) -> Tensor:
        return {"train": self.train_at, "test": self.test_at}[part]

    def _inputs(self, work: Sequence[Work]) -> Iterator[Tensor]:
        """Decoded ahead by `loader_workers`, which are started for each pass: a second, and two passes cannot mix."""
        device = self.train_y.device
        self.listing.open()
        loader = DataLoader(
            Decoder(self.listing, self.crop, work),
            batch_size=None,
            num_workers=min(loader_workers(device), len(work)),
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or it would move the global one
        )
        for pixels in loader:
            x = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
            yield normalise(x, MEAN, STD).contiguous(memory_format=torch.channels_last)


def picture_data(listing: Listing, crop: int) -> PictureData:
    """All pictures of a listing, whose fingerprint holds `crop`."""
    n, m = len(listing.train_y), len(listing.test_y)
    labels = {key: getattr(listing, key) for key in ("name", "train_y", "test_y", "class_names", "fingerprint")}
    return PictureData(listing=listing, crop=crop, train_at=torch.arange(n), test_at=torch.arange(n, n + m), **labels)


def loader_workers(device: torch.device) -> int:
    """Processes that decode beside the one that trains; pixels do not depend on it.

    `$KD_WORKERS`, or: none on a CPU, where each run has one core; beside a GPU one a core, shared among the training
    processes of this machine.

    Raises:
        ValueError: `$KD_WORKERS` is not a number of processes.
    """
    wanted = os.environ.get("KD_WORKERS", "")
    if wanted:
        if not wanted.isdecimal():
            raise unknown("value of KD_WORKERS", wanted, ["0", "1", "2", "..."])
        return int(wanted)
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
