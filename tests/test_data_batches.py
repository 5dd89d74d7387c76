"""Batch order, augmentation and normalisation."""

import pytest
import torch

from kd_lib.data import batches
from kd_lib.data.batches import augment, epoch_order, normalise


def _crops(image: torch.Tensor, flips: bool) -> dict[tuple[int, int, bool], torch.Tensor]:
    """Every result a padded crop may have, by (down, right, mirrored), cut out one at a time."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 8, width + 8, dtype=torch.uint8)
    padded[:, 4:-4, 4:-4] = image
    cut = {(i, j, False): padded[:, i : i + height, j : j + width] for i in range(9) for j in range(9)}
    return cut | ({(i, j, True): crop.flip(-1) for (i, j, _), crop in cut.items()} if flips else {})


def _drawn(x: torch.Tensor, mode: str, **at: int) -> list[tuple[int, int, bool]]:
    """Which crop each image of an augmented batch is."""
    drawn = []
    for image, result in zip(x, augment(x, mode, **at), strict=True):
        matches = [key for key, crop in _crops(image, mode == "crop_flip").items() if torch.equal(crop, result)]
        assert len(matches) == 1
        drawn += matches
    return drawn


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(1, 256, (96, 3, 12, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_every_image_is_one_padded_crop_of_itself(images):
    drawn = _drawn(images, "crop_flip", seed=0, epoch=0, step=0)
    assert {i for i, _, _ in drawn} == {j for _, j, _ in drawn} == set(range(9))
    assert 30 < sum(mirrored for *_, mirrored in drawn) < 66  # 48 expected, standard deviation 4.9
    assert len(set(drawn)) > 48


def test_crop_draws_the_same_offsets_without_mirroring(images):
    cropped = _drawn(images, "crop", seed=3, epoch=1, step=2)
    both = _drawn(images, "crop_flip", seed=3, epoch=1, step=2)
    assert [key[:2] for key in cropped] == [key[:2] for key in both]


def test_augmentation_is_a_function_of_seed_epoch_and_step(images):
    first = augment(images, "crop_flip", seed=1, epoch=2, step=3)
    assert torch.equal(first, augment(images, "crop_flip", seed=1, epoch=2, step=3))
    for other in (
        {"seed": 2, "epoch": 2, "step": 3},
        {"seed": 1, "epoch": 3, "step": 2},
        {"seed": 1, "epoch": 2, "step": 4},
    ):
        assert not torch.equal(first, augment(images, "crop_flip", **other))


def test_augmentation_leaves_the_global_generator_alone(images):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    augment(images, "crop_flip", seed=0, epoch=0, step=0)
    epoch_order(10, seed=0, epoch=0)
    assert torch.equal(torch.rand(1), expected)


def test_border_is_black_before_normalisation():
    white = torch.full((64, 1, 8, 8), 255, dtype=torch.uint8)
    values = augment(white, "crop", seed=0, epoch=0, step=0).unique().tolist()
    assert values == [0, 255]


def test_none_returns_the_batch_itself(images):
    assert augment(images, "none", seed=0, epoch=0, step=0) is images


def test_channels_last_batches_give_the_same_pixels(images):
    there = augment(images.contiguous(memory_format=torch.channels_last), "crop_flip", seed=0, epoch=0, step=0)
    assert torch.equal(there, augment(images, "crop_flip", seed=0, epoch=0, step=0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_pixels(images):
    there = augment(images.cuda(), "crop_flip", seed=0, epoch=0, step=0)
    assert there.is_cuda
    assert torch.equal(there.cpu(), augment(images, "crop_flip", seed=0, epoch=0, step=0))
    mean, std = (0.5,) * 3, (0.25,) * 3
    torch.testing.assert_close(normalise(there, mean, std).cpu(), normalise(there.cpu(), mean, std), rtol=0, atol=1e-6)


def test_augment_refuses_what_it_would_get_wrong(images):
    with pytest.raises(ValueError, match=r"'crop_flop'.*'crop_flip'"):
        augment(images, "crop_flop", seed=0, epoch=0, step=0)
    with pytest.raises(ValueError, match="float32"):
        augment(images.float(), "crop", seed=0, epoch=0, step=0)


def test_epoch_order_is_a_permutation_of_its_own():
    order = epoch_order(1000, seed=0, epoch=0)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert torch.equal(order, epoch_order(1000, seed=0, epoch=0))
    assert not torch.equal(order, epoch_order(1000, seed=0, epoch=1))
    assert not torch.equal(epoch_order(1000, seed=0, epoch=1), epoch_order(1000, seed=1, epoch=0))


def test_seeds_of_published_runs_do_not_change():
    """Other numbers here would give every run other batches under its old key."""
    assert batches.stream("order", 0, 0, 0).initial_seed() == 10_690_515_315_345_109_876
    assert batches.stream("augment", 1, 2, 3).initial_seed() == 7_269_203_770_681_109_848


def test_normalise_is_its_formula(images):
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    column = [torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (mean, std)]
    expected = (images.double() / 255 - column[0]) / column[1]
    actual = normalise(images, mean, std)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-6)


def test_normalise_refuses_another_number_of_channels(images):
    with pytest.raises(ValueError, match="3 channels, but 1 means and 1 standard"):
        normalise(images, (0.5,), (0.2,))
    with pytest.raises(ValueError, match="float32"):
        normalise(images.float(), (0.5,) * 3, (0.2,) * 3)
