r"""word_language: which of 20 languages is this word? Real words with known frequencies, and no download.

The word lists are those of the package `wordfreq` 3 (its smaller ones, which hold every word that makes up a millionth of
a language's text). A form such as "radio" belongs to many languages; with f_l(w), its share of the words of texts in
language l, and all languages equally likely beforehand, the true posterior is known:

.. math:: p(l \mid w) = f_l(w) / \sum_k f_k(w)

The label of a form is **drawn** from that posterior, once, in train as in test. So the posterior is the very
distribution of the labels: the best possible accuracy is the mean of its largest entry, cross-entropy is least where a
network's prediction equals it, and the distance of a teacher's soft labels from the truth can be measured. With the most
frequent language as the label it would be the truth about languages, but not about the labels. (It is the truth about
these lists: what is rarer than a millionth in a language is not a word of it.)

Letters only, in lower case and Latin script throughout, so that for most words it is the order of the letters and not
the alphabet that tells. Every random number is taken from SHA-256 of the seed and the form: part, label and place of a
form depend neither on the other forms nor on the sizes.

Licences: wordfreq's code is under Apache 2.0; its word lists may be redistributed under CC BY-SA 4.0. They are made from
Wikipedia, OpenSubtitles (opensubtitles.org), Google Books Ngrams (books.google.com/ngrams), the Leeds Internet Corpus,
ParaCrawl and the SUBTLEX lists of Brysbaert et al., among others. Cite Robyn Speer 2022, rspeer/wordfreq v3.0,
doi:10.5281/zenodo.7199437.
"""

import hashlib
from collections.abc import Sequence
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kd_lib.data.source import DataNotFound, Source
from kd_lib.data.text import TextData, text_data

VERSION = 1  # raise it with any change of the bytes; a test pins them

FAMILIES = {
    "Romance": ("es", "pt", "it", "ca", "fr", "ro"),
    "Germanic": ("de", "nl", "sv", "da", "nb"),
    "Slavic": ("pl", "cs", "sk", "sl", "sh"),
    "Baltic": ("lt", "lv"),
    "Uralic": ("fi", "hu"),
}
"""Spanish, Portuguese, Italian, Catalan, French, Romanian; German, Dutch, Swedish, Danish, Norwegian (Bokmål); Polish, Czech,
Slovak, Slovene, Serbo-Croatian (in Latin letters); Lithuanian, Latvian; Finnish, Hungarian."""
LANGUAGES = tuple(language for family in FAMILIES.values() for language in family)
HALVES = {"Romance or Germanic": ("Romance", "Germanic"), "Slavic, Baltic or Uralic": ("Slavic", "Baltic", "Uralic")}

LETTERS = "abcdefghijklmnopqrstuvwxyzàáâãäåæçèéêëìíîïñòóôõöøùúûüýāăąćčďđēėęěģīķĺļľłńņňőœŕřśšťūůűųźżžșțį"
PAD, START = 0, 1
TOKENS = ("[PAD]", "[CLS]", *LETTERS)

_LENGTHS = range(2, 13)
_COMMON = 500  # in centibels below certainty: a form is in if it makes up 1 of 100,000 words in some language
_TEST_SHARE = 5  # one form in so many is a test form

FormCount = Annotated[int, Field(gt=0)]


class WordLanguage(Source):
    """Settings of word_language.

    Attributes:
        n_train, n_test: words. A smaller set is the start of a larger one.
        classes: 20 languages; their 5 families; or 2, Romance or Germanic against the rest. The same words with the same
            languages drawn for them, and the posteriors summed within a class.
        seed: decides which forms are test forms, which are taken first, and the labels.
    """

    kind: ClassVar[str] = "word_language"
    version: ClassVar[int] = VERSION
    keeps: ClassVar[type] = TextData
    kept: ClassVar[str] = "made and kept"

    n_train: FormCount = 20_000
    n_test: FormCount = 4_000
    classes: Literal[2, 5, 20] = 20
    seed: Annotated[int, Field(ge=0)] = 0

    def read(self) -> tuple[TextData, str]:
        """Draws the words and their labels."""
        forms, frequency = common_forms(_word_lists())
        draws = _draws(self.seed, forms)
        is_test = draws[:, 0] % _TEST_SHARE == 0
        home = frequency >= _frequencies()[_COMMON]
        names, of_language = grouping(self.classes)
        parts, posteriors = [], []
        for part, n in ((~is_test, self.n_train), (is_test, self.n_test)):
            chosen = _deal(home & part[:, None], draws[:, 1], n)
            language = _draw_language(frequency[chosen], draws[chosen, 2])
            parts.append((_token_ids([forms[i] for i in chosen]), of_language[language]))
            posteriors.append(_posterior(frequency[chosen], of_language))
        train, test = parts
        data = text_data(self.name, train, test, names, TOKENS, pad=PAD, posteriors=tuple(posteriors))
        return data, f"the small word lists of wordfreq {version('wordfreq')}"

    @classmethod
    def where(cls) -> str:
        """The package it is made from."""
        try:
            return f"made from the word lists of wordfreq {version('wordfreq')}"
        except PackageNotFoundError:
            return "made from the word lists of wordfreq, which is not installed (extra 'text')"


def grouping(classes: int) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names of the classes, and the class of each language.

    Args:
        classes: 2, 5 or 20.
    Returns:
        The names, and [20] positions among them in the order of `LANGUAGES`.
    """
    groups = {
        20: {language: (language,) for language in LANGUAGES},
        5: FAMILIES,
        2: {half: sum((FAMILIES[family] for family in families), ()) for half, families in HALVES.items()},
    }[classes]
    of_language = {language: i for i, members in enumerate(groups.values()) for language in members}
    return tuple(groups), np.array([of_language[language] for language in LANGUAGES])


def common_forms(word_lists: Sequence[Sequence[Sequence[str]]]) -> tuple[list[str], NDArray[np.float64]]:
    """The forms that can be drawn, with their frequency in each language.

    Args:
        word_lists: for each language, the words of each frequency: at place k those with 10^(-k/100).
    Returns:
        Forms of 2 to 12 `LETTERS` that make up 1 of 100,000 words in some language, sorted, and their
        frequencies [n, 20] (0 below 1 of a million).
    """
    letters = set(LETTERS)
    common = {w for levels in word_lists for level in levels[: _COMMON + 1] for w in level}
    forms = sorted(w for w in common if len(w) in _LENGTHS and letters.issuperset(w))
    place = {form: i for i, form in enumerate(forms)}
    frequency, values = np.zeros((len(forms), len(word_lists))), _frequencies()
    for language, levels in enumerate(word_lists):
        for value, level in zip(values, levels, strict=False):
            frequency[[place[word] for word in level if word in place], language] = value
    return forms, frequency


def _word_lists() -> list[list[list[str]]]:
    try:
        from wordfreq import get_frequency_list  # the extra "text"
    except ModuleNotFoundError as error:
        raise DataNotFound(
            f"word_language is made from the word lists of wordfreq, which cannot be imported ({error}). "
            "Install the extra 'text': pip install -e '.[text]' in the checkout."
        ) from error
    return [get_frequency_list(language, "small") for language in LANGUAGES]


def _frequencies() -> NDArray[np.float64]:
    """10^(-k/100), rounded correctly: powers of floats differ from platform to platform."""
    return np.array([float(Decimal(10) ** (Decimal(-k) / 100)) for k in range(900)])


def _draws(seed: int, forms: Sequence[str]) -> NDArray[np.uint64]:
    """Three random numbers of 64 bits a form: for its part, its place and its label."""
    digests = b"".join(hashlib.sha256(f"{seed}/{form}".encode()).digest()[:24] for form in forms)
    return np.frombuffer(digests, "<u8").reshape(-1, 3)


def _deal(home: NDArray[np.bool_], order: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    """Deals forms out, one to each language in turn out of those that are common in it, so that languages stay balanced.

    Args:
        home: [forms, languages].
        order: [forms], the smallest go first.
        n: how many to deal.
    Returns:
        n positions of forms, none twice.
    Raises:
        ValueError: there are not so many.
    """
    available = int(home.any(1).sum())
    if n > available:
        raise ValueError(f"word_language has {available} words for this part, and {n} are asked for.")
    queues = []
    for language in range(home.shape[1]):
        mine = np.flatnonzero(home[:, language])
        queues.append(iter(mine[np.argsort(order[mine], kind="stable")].tolist()))
    dealt: dict[int, None] = {}
    while len(dealt) < n:
        for queue in queues:
            form = next((form for form in queue if form not in dealt), None)
            if form is not None:
                dealt[form] = None
    return np.array(list(dealt)[:n])


def _draw_language(frequency: NDArray[np.float64], draw: NDArray[np.uint64]) -> NDArray[np.int64]:
    """One language a form, with the probabilities of its posterior."""
    upper = np.cumsum(frequency, axis=1)
    point = (
        (draw >> np.uint64(11)) * 2.0**-53 * upper[:, -1]
    )  # below the total, hence below the last language that has it
    return (upper <= point[:, None]).sum(1)


def _posterior(frequency: NDArray[np.float64], of_language: NDArray[np.int64]) -> NDArray[np.float64]:
    """p(class | form), [n, classes]; added up one language after another, which gives the same bits everywhere."""
    total = np.zeros(len(frequency))
    summed = np.zeros((len(frequency), of_language.max() + 1))
    for language, column in enumerate(frequency.T):
        total += column
        summed[:, of_language[language]] += column
    return summed / total[:, None]


def _token_ids(forms: Sequence[str]) -> NDArray[np.int32]:
    """[n, 1 + longest possible]: the start token, then a token a letter."""
    place = {token: i for i, token in enumerate(TOKENS)}
    x = np.full((len(forms), _LENGTHS[-1] + 1), PAD, np.int32)
    x[:, 0] = START
    for row, form in zip(x, forms, strict=True):
        row[1 : len(form) + 1] = [place[letter] for letter in form]
    return x
