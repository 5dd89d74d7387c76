"""Squares cut out of a picture: a random part for training, the centre for evaluation (METHODS section 0, ImageNet)."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VERSION = 1  # raise it when the same picture and the same draws would give other pixels

AREA = 0.08, 1.0  # of the picture, that a training crop shows
RATIO = 3 / 4, 4 / 3  # of the crop's width to its height, before it becomes a square
DRAWS = 41  # numbers in [0, 1) that `training_view` reads: four for each of ten tries, and one for the mirror
SHORTER_SIDE = 256 / 224  # of the picture before its centre is cut out, over the side of the crop

Box = tuple[int, int, int, int]  # left, top, right, bottom


def training_view(image: Image.Image, side: int, draws: Sequence[float]) -> NDArray[np.uint8]:
    """A random part of a picture, resized to a square (bilinear, with antialiasing), and mirrored in half of all cases.

    Source: Szegedy et al. 2015, section 6, as all ImageNet recipes of the papers use it.

    Args:
        image: in red, green and blue.
        side: of the square, in pixels.
        draws: `DRAWS` numbers in [0, 1).
    Returns:
        [side, side, 3].
    """
    part = image.crop(random_box(*image.size, draws)).resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(part)
    return pixels[:, ::-1] if draws[-1] < 0.5 else pixels


def centre_view(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """The centre of a picture whose shorter side was resized to 256/224 of `side`.

    Args:
        image, side: as in `training_view`.
    Returns:
        [side, side, 3].
    """
    shorter = round(side * SHORTER_SIDE)
    width, height = (max(shorter, int(shorter * length / min(image.size))) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def random_box(width: int, height: int, draws: Sequence[float]) -> Box:
    """The part of a picture that a training crop shows.

    Its area (evenly) and its ratio (evenly in the logarithm) are drawn up to ten times until the part fits in; then its
    place is drawn. Where none fits, it is the largest centred part with the allowed ratio next to the picture's own.

    Args:
        width, height: of the picture.
        draws: as in `training_view`.
    """
    low, high = map(math.log, RATIO)
    for i in range(0, DRAWS - 1, 4):
        area, ratio, right, down = draws[i : i + 4]
        pixels = width * height * (AREA[0] + (AREA[1] - AREA[0]) * area)
        shape = math.exp(low + (high - low) * ratio)
        w, h = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(right * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
