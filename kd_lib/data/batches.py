"""Order, augmentation and normalisation of batches.

All are pure functions of (seed, epoch, step), so that a resumed run repeats an uninterrupted one bit by bit.
"""

import hashlib
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_lib.errors import unknown

Augment = Literal["none", "crop", "crop_flip"]

PADDING = 4  # zero pixels on each side before the crop (CRD's CIFAR-100 protocol)


def epoch_order(n: int, *, seed: int, epoch: int) -> Tensor:
    """The order in which one epoch visits the training set.

    Args:
        n: number of training images.
        seed: the run's seed.
        epoch: counted from 0.
    Returns:
        [n] int64 on the CPU, a permutation of 0..n-1 that depends on nothing but the arguments.
    """
    return torch.randperm(n, generator=stream("order", seed, epoch, 0))


def augment(x: Tensor, mode: Augment, *, seed: int, epoch: int, step: int) -> Tensor:
    """Random crops and flips of a whole batch at once, on the device where the batch lies.

    The draws are made on the CPU, so that every device sees the same crops; "crop" and "crop_flip" crop alike.

    Args:
        x: [B, channels, H, W] uint8. Pixels outside the image are 0 *before* normalisation, as in CRD's protocol, which
            pads the picture; padding after normalisation would make the border grey instead of black.
        mode: "none" returns `x` itself; "crop" pads by 4 and crops back to H x W; "crop_flip" also mirrors about
            half of the images.
        seed: the run's seed.
        epoch, step: counted from 0; the step is the batch's position within its epoch.
    Returns:
        [B, channels, H, W] uint8, contiguous where anything was changed.
    Raises:
        ValueError: an unknown mode, or images that are not uint8.
    """
    if mode not in get_args(Augment):
        raise unknown("augmentation", mode, get_args(Augment))
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise ValueError(f"augment takes uint8 images [B, channels, H, W], not {x.dtype} of shape {list(x.shape)}.")
    if mode == "none":
        return x
    generator = stream("augment", seed, epoch, step)
    batch, _, height, width = x.shape
    offsets = torch.randint(0, 2 * PADDING + 1, (2, batch), generator=generator)
    rows = offsets[0, :, None] + torch.arange(height)
    columns = offsets[1, :, None] + torch.arange(width)
    if mode == "crop_flip":
        mirrored = torch.randint(0, 2, (batch, 1), generator=generator).bool()
        columns = torch.where(mirrored, columns.flip(1), columns)
    return _gather(x, rows, columns)


def normalise(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Pixels to network input.

    .. math:: (x / 255 - mean) / std

    Args:
        x: [B, channels, H, W] uint8.
        mean, std: one number a channel, of pixels in 0..1.
    Returns:
        [B, channels, H, W] float32 on the device of `x`.
    Raises:
        ValueError: images that are not uint8, or another number of channels than `mean` and `std` have.
    """
    if x.dtype != torch.uint8 or x.ndim != 4:
        raise ValueError(f"normalise takes uint8 images [B, channels, H, W], not {x.dtype} of shape {list(x.shape)}.")
    if not len(mean) == len(std) == x.shape[1]:
        raise ValueError(
            f"images with {x.shape[1]} channels, but {len(mean)} means and {len(std)} standard deviations."
        )
    shape = (1, -1, 1, 1)
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32).to(x.device, non_blocking=True).view(shape)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32)
    return torch.addcmul(shift.to(x.device, non_blocking=True).view(shape), x.float(), scale)


def _gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """out[b, c, i, j] = padded[b, c, rows[b, i], columns[b, j]]."""
    batch, channels, height, width = x.shape
    padded = F.pad(x, (PADDING,) * 4)
    at = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    at = at.to(x.device, non_blocking=True).view(batch, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, at).view(x.shape)


def stream(purpose: str, seed: int, epoch: int, step: int) -> torch.Generator:
    """A CPU generator seeded with the first 8 bytes of SHA-256 of the arguments: neighbouring steps share nothing.

    Of these 64 bits torch's CPU generator uses 32, so two given steps share their draws once in 4e9 cases.
    """
    digest = hashlib.sha256(f"{purpose}/{seed}/{epoch}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
