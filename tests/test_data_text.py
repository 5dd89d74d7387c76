"""TextData: padding, shards, scores and fingerprints of texts that are made up here."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from kd_lib.data import cache
from kd_lib.data.batches import epoch_order
from kd_lib.data.dataset import Shard
from kd_lib.data.text import WINDOW, TextData, lengths, text_data

PAD = 2
TOKENS = ("[CLS]", "[SEP]", "[PAD]", *"abcdefg")
CLASSES = ("no", "yes")


def _rows(n, longest, seed):
    """Texts of 1 to `longest` tokens, some with the padding token inside."""
    rng = np.random.default_rng(seed)
    x = np.full((n, longest + 2), PAD)
    for row in x:
        length = rng.integers(1, longest + 1)
        row[:length] = rng.integers(0, len(TOKENS), length)
        row[length - 1] = 4
    return x


def _make(**changes):
    arguments = {
        "name": "any",
        "train": (_rows(40, 9, 0), np.arange(40) % 2),
        "test": (_rows(17, 6, 1), np.arange(17) % 2),
        "class_names": CLASSES,
        "tokens": TOKENS,
        "pad": PAD,
        "separator": 1,
    }
    return text_data(**arguments | changes)


@pytest.fixture
def texts():
    return _make()


def _posterior(n, seed=3):
    p = np.random.default_rng(seed).random((n, 2))
    return p / p.sum(1, keepdims=True)


def _cut(rows):
    """What a batch of padded rows becomes, slowly."""
    longest = max([max([i + 1 for i, token in enumerate(row) if token != PAD], default=1) for row in rows])
    return [row[:longest] for row in rows]


def test_what_networks_are_built_from(texts):
    assert texts.sizes == {"n_classes": 2, "vocabulary": 10, "pad": 2, "separator": 1, "max_length": 9}
    assert texts.input_shape == (9,)  # the columns that are padding throughout are gone
    assert not texts.augmented
    assert (texts.train_x.dtype, texts.train_y.dtype) == (torch.int32, torch.int64)
    assert texts.test_x.shape == (17, 9)


def test_a_batch_is_as_wide_as_its_longest_text(texts):
    batches = list(torch.randperm(40).split(4))
    widths = set()
    for index, x in zip(batches, texts.training_inputs(batches, seed=0, epoch=0), strict=True):
        assert x.dtype == torch.int64
        assert x.tolist() == _cut(texts.train_x[index].tolist())
        widths.add(x.shape[1])
    assert len(widths) > 1


@pytest.mark.parametrize("part", ["train", "test"])
def test_inputs_come_in_order_and_whole(texts, part):
    rows = {"train": texts.train_x, "test": texts.test_x}[part].tolist()
    chunks = [x.tolist() for x in texts.inputs(part, 5)]
    assert chunks == [_cut(rows[i : i + 5]) for i in range(0, len(rows), 5)]


def test_padding_alone_is_one_token_wide():
    x = torch.full((3, 5), PAD)
    assert lengths(x, PAD).tolist() == [1, 1, 1]
    x[1, 3] = 0
    assert lengths(x, PAD).tolist() == [1, 4, 1]
    empty = _make(test=(np.full((3, 5), PAD), np.array([0, 1, 1])))
    assert [x.shape for x in empty.inputs("test", 2)] == [(2, 1), (1, 1)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shards_of_a_batch_are_the_batch(texts, world):
    batches = list(torch.randperm(40).split(7))
    whole = list(texts.training_inputs(batches, seed=0, epoch=0))
    parts = [list(texts.training_inputs(batches, seed=0, epoch=0, shard=Shard(r, world))) for r in range(world)]
    for step, x in enumerate(whole):
        assert torch.equal(torch.cat([part[step] for part in parts]), x)


def test_shards_of_a_part_are_the_part(texts):
    def rows(chunks):
        return [[token for token in row if token != PAD] for x in chunks for row in x.tolist()]

    parts = [rows(texts.inputs("test", 4, Shard(r, 3))) for r in range(3)]
    assert [len(part) for part in parts] == [6, 6, 5]
    assert [row for part in parts for row in part] == rows(texts.inputs("test", 4))


def test_the_order_of_batches_is_the_callers(texts):
    """No sorting by length: a batch depends on its positions alone."""
    one = list(texts.training_inputs([torch.tensor([5, 3, 9])], seed=0, epoch=0))
    other = list(texts.training_inputs([torch.tensor([5, 3, 9])], seed=7, epoch=4))
    assert torch.equal(one[0], other[0])
    assert one[0].tolist() == _cut(texts.train_x[[5, 3, 9]].tolist())


def test_batches_hold_texts_of_like_length():
    n, size = 1000, 10
    texts = _make(train=(_rows(n, 9, 0), np.arange(n) % 2))
    order = epoch_order(n, seed=0, epoch=0)
    batches = texts.batches(order, size)
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    assert {len(batch) for batch in batches} == {size}
    windows = [torch.cat(batches[:WINDOW]), torch.cat(batches[WINDOW:])]
    for window, drawn in zip(windows, order.split(WINDOW * size), strict=True):
        assert sorted(window.tolist()) == sorted(drawn.tolist()), "nothing moves from one window to another"
    found = lengths(texts.train_x, PAD)
    spread = [int(found[batch].max() - found[batch].min()) for batch in batches]
    assert max(spread) <= 2 and sum(spread) < len(batches) / 2
    widths = [int(found[batch].max()) for batch in batches]
    assert widths != sorted(widths) and len(set(widths[:20])) > 4, "short and long ones take turns"


def test_batches_follow_the_order_and_leave_no_text_alone(texts):
    first, second = (texts.batches(epoch_order(40, seed=0, epoch=e), 13) for e in (0, 1))
    assert [len(batch) for batch in first] != [] and sum(len(batch) for batch in first) == 39
    assert all(len(batch) == 13 for batch in first)
    again = texts.batches(epoch_order(40, seed=0, epoch=0), 13)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_pieces_are_the_tokens_without_padding():
    data = _make(test=(np.array([[0, 3, 4, 1, PAD], [0, 5, PAD, 1, 6]]), np.array([0, 1])))
    assert data.pieces("test", 0) == ["[CLS]", "a", "b", "[SEP]"]
    assert data.pieces("test", 1) == ["[CLS]", "c", "[SEP]", "d"]


def test_validation_takes_a_tenth_of_each_class_and_its_posteriors():
    data = _make(posteriors=(_posterior(40), _posterior(17)))
    held = data.hold_out()
    assert held.train_y.bincount().tolist() == [18, 18]
    assert held.test_y.bincount().tolist() == [2, 2]
    whole = {tuple(row) + tuple(p) for row, p in zip(data.train_x.tolist(), data.train_posterior.tolist(), strict=True)}
    parts = [
        {tuple(row) + tuple(p) for row, p in zip(x.tolist(), p.tolist(), strict=True)}
        for x, p in ((held.train_x, held.train_posterior), (held.test_x, held.test_posterior))
    ]
    assert parts[0] | parts[1] == whole
    assert not parts[0] & parts[1]
    assert held.fingerprint != data.fingerprint


def test_validation_of_a_regression_goes_by_the_nearest_integer():
    y = np.linspace(0, 5, 200)
    data = _make(train=(_rows(200, 4, 0), y), test=(_rows(5, 4, 1), y[:5]), class_names=("likeness",), score="pearson")
    assert data.train_y.dtype == torch.float32
    assert data.n_classes == 1
    held = data.hold_out()
    kept, taken = (np.bincount(np.rint(part.numpy()).astype(int)) for part in (held.train_y, held.test_y))
    assert (kept + taken).tolist() == [20, 40, 40, 40, 40, 20]
    assert taken.tolist() == [2, 4, 4, 4, 4, 2]


def test_scores_of_classes_are_those_of_the_formulas():
    rng = np.random.default_rng(0)
    y, z = rng.integers(0, 2, 60), rng.normal(size=(60, 2))
    logits, labels = torch.from_numpy(z), torch.from_numpy(y)
    guess = [int(b > a) for a, b in z]
    tp, fp, fn, tn = (
        sum(g == a and t == b for g, t in zip(guess, y, strict=True)) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))
    )
    accuracy = 100 * (tp + tn) / 60
    f1 = 100 * 2 * tp / (2 * tp + fp + fn)
    matthews = 100 * (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert _make().scores(logits, labels) == pytest.approx({"accuracy": accuracy})
    assert list(_make(score="f1").scores(logits, labels).items()) == [
        ("f1", pytest.approx(f1)),
        ("accuracy", pytest.approx(accuracy)),
    ]
    scores = _make(score="matthews").scores(logits, labels)
    assert list(scores) == ["matthews", "accuracy"]
    assert scores["matthews"] == pytest.approx(matthews)


def test_scores_of_a_network_that_always_says_no():
    logits, y = torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0, 1, 1, 0])
    assert _make(score="f1").scores(logits, y) == {"f1": 0.0, "accuracy": 50.0}
    assert _make(score="matthews").scores(logits, y) == {"matthews": 0.0, "accuracy": 50.0}


def _correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())


def test_scores_of_a_regression_are_correlations():
    rng = np.random.default_rng(0)
    y = rng.permutation(30) / 7
    z = y**3 + rng.normal(size=30)
    data = _make(train=(_rows(30, 4, 0), y), test=(_rows(30, 4, 1), y), class_names=("likeness",), score="pearson")
    scores = data.scores(torch.from_numpy(z)[:, None], data.test_y)
    ranks = [np.array([sum(v < w for v in values) for w in values]) for values in (z, y)]
    assert list(scores) == ["pearson", "spearman"]
    assert scores["pearson"] == pytest.approx(100 * _correlation(z, data.test_y.double().numpy()))
    assert scores["spearman"] == pytest.approx(100 * _correlation(*ranks))
    assert data.scores(torch.ones(30, 1), data.test_y) == {"pearson": 0.0, "spearman": 0.0}


def test_fingerprint_sees_everything_a_run_sees():
    train = _rows(40, 9, 0)
    token, label = train.copy(), np.arange(40) % 2
    token[3, 0] = (token[3, 0] + 1) % 10
    label[7] ^= 1
    known = (_posterior(40), _posterior(17))
    values = [
        _make(),
        _make(train=(token, np.arange(40) % 2)),
        _make(train=(train, label)),
        _make(class_names=("no", "yea")),
        _make(tokens=(*TOKENS, "h")),
        _make(pad=9),
        _make(separator=-1),
        _make(score="f1"),
        _make(posteriors=known),
        _make(posteriors=(known[0][:, ::-1], known[1])),
    ]
    assert len({data.fingerprint for data in values}) == len(values)


def test_fingerprint_does_not_see_how_it_was_stored(texts):
    wider = np.pad(_rows(40, 9, 0), ((0, 0), (0, 3)), constant_values=PAD)
    same = _make(name="other", train=(wider.astype(np.int16), (np.arange(40) % 2).astype(np.uint8)))
    assert same.fingerprint == texts.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (_rows(40, 9, 0), np.arange(39) % 2)}, r"train holds labels \[39\]"),
        ({"test": (_rows(4, 9, 0).astype(float), np.arange(4) % 2)}, r"test holds .* float64 token ids"),
        ({"tokens": TOKENS[:5]}, "token ids 0 to 9, but there are 5 tokens"),
        ({"test": (_rows(4, 9, 0), np.array([0, 1, 1, -1]))}, "test has labels -1 to 1, but there are 2 classes"),
        ({"train": (_rows(40, 9, 0), np.zeros(40, int))}, "no training text of class yes"),
        ({"score": "pearson"}, "a regression, and needs one name"),
        (
            {"score": "pearson", "class_names": ("a",), "train": (_rows(2, 9, 0), np.array([1.0, np.nan]))},
            "finite labels",
        ),
        ({"posteriors": (_posterior(40), _posterior(16))}, "test_posterior .* is no distribution"),
        ({"posteriors": (_posterior(40) * 1.01, _posterior(17))}, "train_posterior .* is no distribution"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _make(**changes)


@pytest.mark.parametrize("posteriors", [None, (_posterior(40), _posterior(17))])
def test_what_comes_from_the_cache_is_what_was_made(tmp_path, posteriors):
    made = _make(posteriors=posteriors)
    folder = tmp_path / "data" / "x"
    cache.load_or_make(folder, "any", lambda: (made, "nothing"), TextData)
    kept = cache.load_or_make(folder, "any", lambda: pytest.fail("made twice"), TextData)
    for field in dataclasses.fields(TextData):
        a, b = getattr(kept, field.name), getattr(made, field.name)
        assert torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b
    assert (kept.test_posterior is None) == (posteriors is None)
    assert cache.kept_fingerprint(folder) == made.fingerprint


def test_moving_takes_every_tensor_along():
    here = _make(posteriors=(_posterior(40), _posterior(17)))
    there = here.to("meta")
    tensors = [value for value in vars(there).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 6
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert there.fingerprint == here.fingerprint
    assert here.train_x.device.type == "cpu"
    assert _make().to("meta").train_posterior is None
