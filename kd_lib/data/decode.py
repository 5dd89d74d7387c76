"""Encoded pictures to one uint8 array."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

_MODES = (
    "1",
    "L",
    "LA",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
)  # 8 bits or fewer a channel: nothing is lost on the way to RGB
_GREY = ("1", "L", "LA")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")  # of files that are taken for pictures


def decode(pictures: Sequence[bytes | Path], *, size: int, origin: str) -> tuple[NDArray[np.uint8], bool]:
    """Decodes pictures to squares.

    A picture of size x size stays as it is; any other is resized (bilinear, with antialiasing) so that its shorter side
    has `size` pixels, and its centre is cut out. Alpha channels are dropped.

    Args:
        pictures: paths, or the bytes of PNG, JPEG and so on.
        size: side of the result, in pixels.
        origin: where pictures given as bytes came from, for messages.
    Returns:
        [N, 3, size, size] uint8, and whether every picture was grey (then the three channels are equal).
    Raises:
        ValueError: a picture that cannot be decoded, or one with more than 8 bits a channel; the message names it.
    """
    x = np.empty((len(pictures), size, size, 3), np.uint8)
    grey = True
    for i, picture in enumerate(pictures):
        name = str(picture) if isinstance(picture, Path) else f"picture {i} of {origin}"
        image, mode = open_rgb(picture, name)
        grey = grey and mode in _GREY
        x[i] = np.asarray(_square(image, size))
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), grey


def open_rgb(picture: bytes | Path, name: str) -> tuple[Image.Image, str]:
    """One picture, decoded whole, in red, green and blue.

    A note in the file that the picture is to be turned (EXIF) is not followed, as in the papers' pipelines.

    Args:
        picture: a path, or the bytes of PNG, JPEG and so on; their content counts and not the file's name.
        name: for messages.
    Returns:
        The picture, and the mode in which it was stored.
    Raises:
        ValueError: as `decode`.
    """
    try:
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            if image.mode not in _MODES:
                raise ValueError(f"{name} has mode {image.mode}, which 8 bits a channel cannot hold; convert it first.")
            return image.convert("RGB"), image.mode
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(f"{name} cannot be decoded: {error}") from error


def _square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    shorter = min(image.size)
    width, height = (max(size, round(side * size / shorter)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
