"""jpegs: a small made-up picture folder in ImageNet's layout, real JPEG files that go ImageNet's way to the network.

A picture is full of real handwritten digits (scikit-learn's) of one class in a light colour, so that nearly every part of
it shows what it is: ImageNet's training crops may keep 8% of a picture only. Train and test use different source
digits.
"""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from kd_lib import store
from kd_lib.data import cache
from kd_lib.data.digits100 import raw_words, source_digits
from kd_lib.data.imagenet import PictureSource
from kd_lib.data.images import content_fingerprint
from kd_lib.data.listings import Files, list_files
from kd_lib.data.pictures import PictureData, picture_data

N_CLASSES = 10
QUALITY = 90  # of the JPEG files

_SIDES = range(64, 121)  # of a picture
_CELLS = 3  # places for a digit along the shorter side
_NOISE = 15  # at most so much is added to a pixel or taken from it; little is likelier than much
_HEAD, _WORDS = 8, 4  # random numbers for a picture, and for each digit on it
_DIGITS = _CELLS * (max(_SIDES) // (min(_SIDES) // _CELLS))  # on the longest picture
_NOISE_WORDS = max(_SIDES) * (max(_SIDES) + 1) * 3 * 2 // 8 + 1

PictureCount = Annotated[int, Field(gt=0, multiple_of=N_CLASSES)]


class Jpegs(PictureSource):
    """Settings of jpegs.

    The pixels are the same on every machine up to the JPEG encoder, whose bytes depend on its version. So the fingerprint
    is that of the settings, and not of the files: two machines agree on a run's key, though not on every last bit.

    Attributes:
        n_train, n_test: pictures, multiples of 10, so that classes are exactly balanced.
        seed: of everything that is drawn.
    """

    kind: ClassVar[str] = "jpegs"
    version: ClassVar[int] = 1
    kept: ClassVar[str] = "made and kept"

    crop: Annotated[int, Field(ge=8)] = 32
    n_train: PictureCount = 1600
    n_test: PictureCount = 400
    seed: Annotated[int, Field(ge=0)] = 0

    def load(self, folder: Path) -> PictureData:
        """Makes the files where there are none; a damaged folder is set aside and made again. Then reads what is there."""
        with store.lock(folder.name):
            if store.verify_or_quarantine(folder) is None:
                record = json.dumps({"name": self.name, "fingerprint": self._fingerprint()}).encode()
                work = folder.with_name(f".{folder.name}.work")
                store.publish(work, folder, {**self._files(), cache.RECORD: record}, durable=False)
        return picture_data(self.read()[0], self.crop)

    def read(self) -> tuple[Files, str]:
        """Lists the files that `load` has made; their listing is not kept, because theirs is the folder in the cache."""
        folder = cache.address(self.identity())
        listing = list_files(self.name, folder, {"train": folder / "train", "test": folder / "val"}, {})
        return replace(listing, fingerprint=self._fingerprint()), self.where()

    @classmethod
    def where(cls) -> str:
        """It needs no files."""
        return "drawn with scikit-learn's digits"

    def _fingerprint(self) -> str:
        return content_fingerprint({}, {**self.identity(), **self.facts()})

    def _files(self) -> dict[str, bytes]:
        """Content by name, such as "train/7/00042.JPEG"."""
        train, test = source_digits(self.seed)
        return {
            f"{part}/{i % N_CLASSES}/{i:05d}.JPEG": _encoded(draw(digits[i % N_CLASSES], (self.seed, stream, i)))
            for stream, (part, n, digits) in enumerate([("train", self.n_train, train), ("val", self.n_test, test)], 1)
            for i in range(n)
        }


def draw(digits: NDArray[np.uint8], seed: tuple[int, ...]) -> NDArray[np.uint8]:
    """One picture full of digits, light on dark.

    Args:
        digits: [n, 8, 8] of ink in 0..255, those to choose from.
        seed: of the random stream.
    Returns:
        [height, width, 3], never square.
    """
    raw = raw_words(seed, _HEAD + _DIGITS * _WORDS + _NOISE_WORDS)
    words = raw[:-_NOISE_WORDS].tolist()
    width, height = (_SIDES[word % len(_SIDES)] for word in words[:2])
    height += width == height
    x = np.empty((height, width, 3), np.int64)
    x[:] = [word % 40 for word in words[2:5]]
    ink = np.array([156 + word % 100 for word in words[5:8]])
    cell = min(width, height) // _CELLS
    places = [(row, column) for row in range(height // cell) for column in range(width // cell)]
    for i, (row, column) in enumerate(places):
        which, size, right, down = words[_HEAD + i * _WORDS :][:_WORDS]
        side = cell - size % (cell // 7 + 1)
        glyph = Image.fromarray(digits[which % len(digits)]).resize((side, side), Image.Resampling.BILINEAR)
        top, left = row * cell + down % (cell - side + 1), column * cell + right % (cell - side + 1)
        place = x[top : top + side, left : left + side]
        place += (ink - place) * np.asarray(glyph, np.int64)[..., None] // 255
    noise = raw[-_NOISE_WORDS:].astype("<u8").view(np.uint8).astype(np.int64)
    plus, minus = noise[: x.size].reshape(x.shape), noise[x.size : 2 * x.size].reshape(x.shape)
    return (x + (plus - minus) * _NOISE // 255).clip(0, 255).astype(np.uint8)


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
