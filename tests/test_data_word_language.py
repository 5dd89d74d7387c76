"""word_language: what its words are, and that its posterior is the distribution of its labels."""

import sys
from collections import Counter
from importlib.metadata import version

import numpy as np
import pytest
import torch
import wordfreq

from kd_lib import data
from kd_lib.data import word_language
from kd_lib.data.word_language import FAMILIES, LANGUAGES, LETTERS, WordLanguage, grouping


@pytest.fixture(scope="module")
def forms():
    return word_language.common_forms(word_language._word_lists())


def _share(forms, patch):
    patch.setattr(word_language, "_word_lists", list)
    patch.setattr(word_language, "common_forms", lambda _: forms)


@pytest.fixture
def quick(forms, monkeypatch):
    """The lists are read once for all tests that ask for this."""
    _share(forms, monkeypatch)


@pytest.fixture(scope="module")
def small(forms):
    with pytest.MonkeyPatch.context() as patch:
        _share(forms, patch)
        return WordLanguage(n_train=2000, n_test=1000).read()[0]


def _words(texts, part):
    n = len({"train": texts.train_x, "test": texts.test_x}[part])
    return ["".join(texts.pieces(part, i)[1:]) for i in range(n)]


@pytest.mark.skipif(version("wordfreq") != "3.1.1", reason="pinned for the lists of wordfreq 3.1.1")
def test_the_default_words_are_frozen(quick):
    """Other words or labels make every number published from them belong to other data: raise VERSION with it."""
    assert word_language.VERSION == 1
    texts, made_from = WordLanguage().read()
    assert texts.fingerprint == "88879583cb4f8af53937f9d9287c468d670b7b468971aa29e13085a9ce6bc793"
    assert made_from == "the small word lists of wordfreq 3.1.1"
    assert (len(texts.train_y), len(texts.test_y)) == (20_000, 4_000)
    assert texts.sizes == {"n_classes": 20, "vocabulary": 94, "pad": 0, "separator": -1, "max_length": 13}


def test_no_form_stands_twice_or_in_both_parts(small):
    train, test = _words(small, "train"), _words(small, "test")
    assert (len(set(train)), len(set(test))) == (2000, 1000)
    assert not set(train) & set(test)


def test_a_form_is_of_one_part_whatever_the_sizes(quick, small):
    larger = WordLanguage(n_train=30_000, n_test=500).read()[0]
    assert not set(_words(larger, "train")) & set(_words(small, "test"))


def test_forms_are_common_words_of_known_letters(small):
    words = _words(small, "train") + _words(small, "test")
    assert {len(word) for word in words} == set(range(2, 13))
    assert set("".join(words)) <= set(LETTERS)
    assert len(set(LETTERS)) == len(LETTERS)
    assert small.train_x[:, 0].eq(small.tokens.index("[CLS]")).all()
    for word in words[:200]:
        assert max(wordfreq.get_frequency_dict(language, "small").get(word, 0) for language in LANGUAGES) > 0.99e-5


def _slow_posterior(word):
    """From wordfreq's own frequencies, one language at a time."""
    share = [wordfreq.get_frequency_dict(language, "small").get(word, 0.0) for language in LANGUAGES]
    return [value / sum(share) for value in share]


def test_the_posterior_is_that_of_the_frequencies(small):
    for part, posterior in (("train", small.train_posterior), ("test", small.test_posterior)):
        assert posterior.dtype == torch.float32
        for word, row in zip(_words(small, part)[:300], posterior.tolist(), strict=False):
            assert row == pytest.approx(_slow_posterior(word), abs=1e-6)
    assert small.class_names == LANGUAGES


def test_a_posterior_sums_to_one(small):
    for posterior in (small.train_posterior, small.test_posterior):
        assert posterior.double().sum(1).numpy() == pytest.approx(1, abs=1e-6)
    ambiguous = (small.train_posterior.max(1).values < 0.95).float().mean()
    assert 0.15 < ambiguous < 0.35


def test_labels_are_drawn_from_the_posterior(quick):
    """Counts of a class, of all and of the ambiguous forms, within 4 standard deviations of what the posterior says."""
    texts = WordLanguage(n_train=30_000, n_test=10).read()[0]
    p, y = texts.train_posterior.double(), texts.train_y
    assert p[torch.arange(len(y)), y].min() > 0
    ambiguous = p.max(1).values < 0.9
    assert ambiguous.sum() > 5000
    for some in (torch.ones_like(ambiguous), ambiguous):
        counts = y[some].bincount(minlength=20)
        spread = (p[some] * (1 - p[some])).sum(0).sqrt()
        assert ((counts - p[some].sum(0)).abs() < 4 * spread).all()
        likely = p[some].max(1)
        right = (likely.indices == y[some]).sum()
        assert abs(right - likely.values.sum()) < 4 * (likely.values * (1 - likely.values)).sum().sqrt()


def test_one_form_over_many_seeds_follows_its_posterior(forms):
    names, frequency = forms
    row = frequency[[names.index("radio")]]
    draws = np.array([word_language._draws(seed, ["radio"])[0, 2] for seed in range(4000)])
    counts = np.bincount(word_language._draw_language(np.repeat(row, 4000, 0), draws), minlength=20)
    p = np.array(_slow_posterior("radio"))
    assert (p > 0.01).sum() > 10
    assert (abs(counts - 4000 * p) <= 4 * np.sqrt(4000 * p * (1 - p))).all()


def test_the_ends_of_the_draw():
    frequency = np.array([[0.0, 0.25, 0.0, 0.75, 0.0]] * 4)
    draw = np.array([0, 2**62 - 2048, 2**62, 2**64 - 1], np.uint64)
    assert word_language._draw_language(frequency, draw).tolist() == [1, 1, 3, 3]


def test_part_place_and_label_of_a_form_are_independent(forms):
    draws = word_language._draws(0, forms[0]).astype(float)
    correlation = np.corrcoef(draws.T) - np.eye(3)
    assert abs(correlation).max() < 4 / np.sqrt(len(draws))
    assert (word_language._draws(0, forms[0])[:, 0] % 5 == 0).mean() == pytest.approx(0.2, abs=0.005)


@pytest.mark.parametrize("classes", [5, 2])
def test_families_are_the_same_words_with_posteriors_summed(quick, small, classes):
    texts = WordLanguage(n_train=2000, n_test=1000, classes=classes).read()[0]
    names, of_language = grouping(classes)
    assert torch.equal(texts.train_x, small.train_x)
    assert texts.class_names == names
    for part in ("train", "test"):
        fine, coarse = getattr(small, f"{part}_y").tolist(), getattr(texts, f"{part}_y").tolist()
        assert coarse == [of_language[label] for label in fine]
        summed = torch.zeros(len(fine), classes)
        for language, column in enumerate(getattr(small, f"{part}_posterior").T):
            summed[:, of_language[language]] += column
        assert torch.allclose(getattr(texts, f"{part}_posterior"), summed, atol=1e-6)


def test_the_grouping_is_what_the_names_say():
    assert len(LANGUAGES) == 20
    for classes in (2, 5, 20):
        names, of_language = grouping(classes)
        assert len(names) == classes
        for language, group in zip(LANGUAGES, of_language, strict=True):
            family = next(name for name, members in FAMILIES.items() if language in members)
            assert {20: language, 5: family}.get(classes, family) in names[group]


def test_languages_are_balanced(small):
    assert small.train_y.bincount(minlength=20).min() > 70
    assert small.train_y.bincount(minlength=20).max() < 130
    assert (small.test_y.bincount(minlength=20) > 0).all()


def test_a_smaller_set_is_the_start_of_a_larger_one(quick, small):
    larger = WordLanguage(n_train=3000, n_test=1500).read()[0]
    assert torch.equal(larger.train_x[:2000], small.train_x)
    assert torch.equal(larger.train_y[:2000], small.train_y)
    assert torch.equal(larger.test_x[:1000], small.test_x)
    assert torch.equal(larger.test_posterior[:1000], small.test_posterior)


def test_the_same_settings_give_the_same_data_and_others_do_not(quick, small):
    def fingerprint(**changes):
        return WordLanguage(**{"n_train": 2000, "n_test": 1000, **changes}).read()[0].fingerprint

    values = [fingerprint(**change) for change in ({}, {"seed": 1}, {"classes": 5}, {"n_train": 1999}, {"n_test": 999})]
    assert values[0] == small.fingerprint
    assert len(set(values)) == 5


def test_another_seed_gives_other_test_forms_and_labels(quick, small):
    other = WordLanguage(n_train=30_000, n_test=1000, seed=1).read()[0]
    moved = set(_words(other, "train")) & set(_words(small, "test"))
    assert len(moved) > 50


def test_frequencies_of_lists_made_up_here():
    lists = [[[] for _ in range(601)] for _ in range(2)]
    lists[0][300] = ["ab", "Ab", "x", "abcdefghijklm", "a1"]
    lists[0][501] = ["rare", "here"]
    lists[1][500] = ["here"]
    lists[1][600] = ["ab"]
    names, frequency = word_language.common_forms(lists)
    assert names == ["ab", "here"]
    assert frequency == pytest.approx(np.array([[1e-3, 1e-6], [10**-5.01, 1e-5]]))


def test_dealing_by_hand():
    """Form 1 is at home in both languages, and goes to the first that comes to it."""
    home = np.array([[1, 0], [1, 1], [0, 1], [1, 0], [0, 1]], bool)
    order = np.array([5, 1, 2, 3, 4], np.uint64)
    assert word_language._deal(home, order, 5).tolist() == [1, 2, 3, 4, 0]
    assert word_language._deal(home, order, 2).tolist() == [1, 2]


def test_more_words_than_there_are(quick):
    with pytest.raises(ValueError, match=r"word_language has \d+ words for this part, and 200000 are asked for"):
        WordLanguage(n_train=200_000).read()


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"settings of word_language: classes=3.*2, 5 or 20"):
        data.load("word_language", classes=3)
    with pytest.raises(ValueError, match="n_test=0"):
        data.load("word_language", n_test=0)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path))
    data._load.cache_clear()
    yield
    data._load.cache_clear()


def test_without_wordfreq_the_extra_is_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(data.DataNotFound, match=r"word lists of wordfreq.*extra 'text'"):
        data.load("word_language", n_train=100, n_test=50)


def test_once_made_wordfreq_is_not_needed(quick, monkeypatch, store):
    made = data.load("word_language", n_train=200, n_test=100)
    data._load.cache_clear()
    monkeypatch.setattr(WordLanguage, "read", lambda self: pytest.fail("made twice"))
    kept = data.load("word_language", n_train=200, n_test=100)
    assert kept is not made
    assert torch.equal(kept.test_posterior, made.test_posterior)


def test_it_loads_by_name_with_its_validation_part(quick, store):
    whole = data.load("word_language", n_train=2000, n_test=100)
    chosen = data.load("word_language", n_train=2000, n_test=100, split="validation")
    assert data.fingerprint("word_language", n_train=2000, n_test=100) == whole.fingerprint
    assert data.fingerprint("word_language", n_train=2000, n_test=100, split="validation") == chosen.fingerprint
    assert Counter(_words(chosen, "train") + _words(chosen, "test")) == Counter(_words(whole, "train"))
    assert chosen.test_posterior.shape == (len(chosen.test_y), 20)
    lines = dict(line.split(": ", 1) for line in data.found())
    assert lines["word_language"] == f"made from the word lists of wordfreq {version('wordfreq')}"
