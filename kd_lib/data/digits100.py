"""digits100: real handwritten digits in pairs, 100 classes "00".."99", made in a second from a seed, with no download.

Two of scikit-learn's 1,797 digits (8x8 pixels, 0..16) stand side by side in an image 12 high and 20 wide; each is
shifted on its own inside its half, then Gaussian noise is added. Train and test use different source digits. Classes
that share a digit at the same place are alike by construction, so what a teacher says of wrong classes can be checked.

Every random number comes from the raw PCG64 stream and every pixel is computed in integers: the bytes depend neither on
the platform nor on the version of NumPy.
"""

from statistics import NormalDist
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from kd_lib.data.images import ImageData, image_data, partition
from kd_lib.data.source import Source

VERSION = 1  # raise it with any change of the bytes; a test pins them

HEIGHT, WIDTH = 12, 20
_SIDE = 8  # of a source digit
_ROWS, _COLUMNS = HEIGHT - _SIDE + 1, WIDTH // 2 - _SIDE + 1  # places a digit can take inside its half
_TEST_SHARE = 1 / 3  # of the source digits

ImageCount = Annotated[int, Field(gt=0, multiple_of=100)]


class Digits100(Source):
    """Settings of digits100.

    Attributes:
        noise: standard deviation of the noise, where the paper is 0 and full ink is 1; what leaves 0..1 is cut off.
        n_train, n_test: images, multiples of 100, so that classes are exactly balanced. A smaller set is the start of a
            larger one.
        seed: decides which source digits are test digits, the pairs, the shifts and the noise.
    """

    kind: ClassVar[str] = "digits100"
    version: ClassVar[int] = VERSION

    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.30
    n_train: ImageCount = 8000
    n_test: ImageCount = 4000
    seed: Annotated[int, Field(ge=0)] = 0

    def read(self) -> tuple[ImageData, str]:
        """Makes the images."""
        import sklearn  # slow to import, and not needed once the images are kept

        train_digits, test_digits = source_digits(self.seed)
        train = compose(train_digits, self.n_train, noise=self.noise, seed=(self.seed, 1))
        test = compose(test_digits, self.n_test, noise=self.noise, seed=(self.seed, 2))
        names = [f"{label:02d}" for label in range(100)]
        return image_data(self.name, train, test, names, "none"), f"load_digits of scikit-learn {sklearn.__version__}"

    @classmethod
    def where(cls) -> str:
        """It needs no files."""
        return "made from scikit-learn's digits"


def shared_digit_mask() -> Tensor:
    """Which classes of digits100 share a digit at the same place: 37 with 30..36, 38, 39 and with 07, 17, 27, 47 .. 97.

    Returns:
        [100, 100] bool, symmetric, 18 True a row, False on the diagonal.
    """
    left, right = torch.arange(100) // 10, torch.arange(100) % 10
    return (left[:, None] == left) ^ (right[:, None] == right)


def source_digits(seed: int) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """The real digits, dealt 2:1 into train and test.

    Args:
        seed: decides which digits go where.
    Returns:
        For train and for test: ten arrays [n, 8, 8] of ink in 0..255, one a digit.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    ink = (digits.images.astype(np.int64) * 255 + 8) // 16
    shuffled = np.argsort(raw_words((seed, 0), len(ink)), kind="stable")
    ink, y = ink[shuffled].astype(np.uint8), digits.target[shuffled]
    train, test = partition(y, _TEST_SHARE)
    return [ink[train][y[train] == d] for d in range(10)], [ink[test][y[test] == d] for d in range(10)]


def compose(
    digits: list[NDArray[np.uint8]], n: int, *, noise: float, seed: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pairs of digits with shifts and noise.

    Args:
        digits: ten arrays [n_d, 8, 8] of ink in 0..255.
        n: number of images; image i has class i mod 100.
        noise: standard deviation, full ink being 1.
        seed: of the random stream; each image takes the next 6 + 60 words of it.
    Returns:
        [n, 1, 12, 20] uint8 and [n] labels.
    """
    pixels = HEIGHT * WIDTH
    words = raw_words(seed, n * (6 + pixels // 4)).reshape(n, -1)
    y = np.arange(n) % 100
    x = np.zeros((n, HEIGHT, WIDTH), np.int64)
    image = np.arange(n)[:, None, None]
    for half, digit in enumerate((y // 10, y % 10)):
        which, down, right = (words[:, 3 * half + k] for k in range(3))
        rows = (down % _ROWS).astype(np.int64)[:, None, None] + np.arange(_SIDE)[:, None]
        columns = (right % _COLUMNS).astype(np.int64)[:, None, None] + np.arange(_SIDE) + half * WIDTH // 2
        x[image, rows, columns] = np.stack(
            [digits[d][w % len(digits[d])] for d, w in zip(digit, which.tolist(), strict=True)]
        )
    draws = words[:, 6:].astype("<u8", order="C").view("<u2").reshape(x.shape)
    x += _noise_levels(noise)[draws]
    return x.clip(0, 255).astype(np.uint8)[:, None], y


def _noise_levels(noise: float) -> NDArray[np.int64]:
    """65,536 equally likely values of rounded Gaussian noise, in pixel steps: a uniform 16-bit number picks one."""
    normal = NormalDist()
    upper = [round(255 * noise * normal.inv_cdf((2 * k + 1) / 131072)) for k in range(32768, 65536)]
    return np.array([-v for v in reversed(upper)] + upper, np.int64)


def raw_words(seed: tuple[int, ...], n: int) -> NDArray[np.uint64]:
    """n numbers of 64 bits from the raw stream, whose values NumPy guarantees."""
    return np.random.PCG64(np.random.SeedSequence(seed)).random_raw(n)
