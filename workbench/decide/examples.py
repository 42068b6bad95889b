r"""Few-shot examples from history: relevant, unlike each other, and never the item that is asked.

Maximal marginal relevance (Carbonell & Goldstein 1998) takes shots one by one, each time the one with the largest
`relevance * cosine with the query - (1 - relevance) * largest cosine with a shot taken before`. The cosine is that of
sets of words weighted by idf = ln(1 + shots / shots with the word). Words are runs of letters after NFKC and case
folding, pairs of characters in scripts written without spaces (and Korean), and one word for any number.

The leakage guard stands apart from relevance: see decide/duplicates.py.

Invariants: the same shots and the same query give the same selection in every process, however the index came about.
Time grows with the length of texts up to LONGEST characters: of a longer text its two halves of LONGEST / 2 at either
end are read, and a longer shot is never chosen.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.decide.duplicates import LONGEST, Text, alike, read
from workbench.decide.weights import is_finite
from workbench.errors import LLMValidationError

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
Ids = NDArray[np.int32]

POOL = 16  # times k: the most relevant shots, among which diversity is looked for
READ = 10_000  # entries of the index that are read to find them, those of the rarest words first
EXCLUDED = 100  # shots that a selection names as excluded
MOST = 100  # shots that can be asked for

SAME_ITEM, BARRED, LOW_QUALITY = "same item", "excluded item", "low quality"
TOO_LONG, COPY, COPY_OF_CHOSEN = "too long", "near duplicate of the query", "near duplicate of a chosen shot"


@dataclass(frozen=True, slots=True)
class Shot:
    """A question of the past with an answer that can be shown.

    item_id: the item it asks, None where it is of no suite. quality: of the answer, in [0, 1].
    Raises LLMValidationError validation.example for a blank prompt or answer and for any other value.
    """

    item_id: str | None
    prompt: str
    answer: str
    quality: float

    def __post_init__(self) -> None:
        for name in ("prompt", "answer"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text.strip():
                raise _bad_example(f"the {name} of an example is {text!r:.60}, not a text with something in it")
        if self.item_id is not None and not isinstance(self.item_id, str):
            raise _bad_example(f"the item of an example is {self.item_id!r:.60}, neither a text nor None")
        if not is_finite(self.quality) or not 0 <= self.quality <= 1:
            raise _bad_example(f"the quality of an example is {self.quality!r:.60}, not a number in [0, 1]")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A chosen shot, its cosine with the query, and its largest cosine with those chosen before it (the first: 0)."""

    shot: Shot
    relevance: float
    similarity_to_taken: float


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen, in the order of choice, and what was as relevant but excluded, with the reason.

    excluded: at most EXCLUDED shots; first those that the guard refused when their turn came, then the newest of low
    quality and of the item or the excluded items.
    """

    chosen: tuple[Chosen, ...]
    excluded: tuple[tuple[Shot, str], ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExampleIndex:
    """The last `limit` shots of history, indexed by their words; a value that never changes.

    Made by `of`, and by `added` of another one. Equal to an index of equal shots and limit.
    """

    limit: int
    _store: _Store
    _start: int
    _end: int
    _counts: Ids  # shots with each word

    @classmethod
    def of(cls, shots: Iterable[Shot] = (), limit: int = 10_000) -> ExampleIndex:
        """The index of shots, oldest first; of more than `limit` the last stay. Takes some 0.1 ms a shot.

        Raises LLMValidationError validation.example for what is no Shot, validation.config for a limit < 1.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise _bad_config(f"limit is {limit!r:.40}, not a whole number >= 1", "set limit to 10000")
        store = _Store()
        for shot in [_checked(shot) for shot in shots][-limit:]:
            store.append(shot, *read(shot.prompt))
        return cls(limit, store, 0, len(store.shots), store.counts())

    def added(self, shot: Shot) -> ExampleIndex:
        """The index with one shot more, and without the oldest if it was full; this one stays as it is.

        Takes some 0.1 ms. What was indexed is shared with the first index made of this one; making more of the same one
        copies it each time. Raises LLMValidationError validation.example for what is no Shot.
        """
        text, words = read(_checked(shot).prompt)
        store, start, end, counts = self._store, self._start, self._end, self._counts
        # Another value may have been made of this one already; and what nobody reads any more is dropped at times.
        if start > self.limit or store.claims.setdefault(end, text) is not text:
            store = store.part(start, end)
            start, end, counts = 0, end - start, store.counts()
            store.claims[end] = text
        ids = store.append(shot, text, words)
        grown = np.zeros(len(store.names), dtype=np.int32)
        grown[: len(counts)] = counts
        grown[ids] += 1
        if full := end - start == self.limit:
            grown[store.ids[start]] -= 1
        return ExampleIndex(self.limit, store, start + full, end + 1, grown)

    @property
    def shots(self) -> tuple[Shot, ...]:
        """The shots, oldest first."""
        return tuple(self._store.shots[self._start : self._end])

    def __len__(self) -> int:
        return self._end - self._start

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExampleIndex):
            return NotImplemented
        return self.limit == other.limit and self.shots == other.shots

    def __hash__(self) -> int:
        return hash((self.limit, self.shots))

    def __repr__(self) -> str:
        return f"ExampleIndex({len(self)} shots, limit={self.limit})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ExampleIndex.of, (self.shots, self.limit)


def select(
    index: ExampleIndex,
    query: str,
    *,
    k: int = 4,
    item_id: str | None = None,
    min_quality: float = 0.5,
    relevance: float = 0.7,
    exclude: Collection[str] = (),
) -> Selection:
    """The shots to show with a query by maximal marginal relevance, and what was excluded.

    k: 1 to MOST; fewer are chosen where fewer fit: a shot that shares no word with the query is of no use.
    item_id: of the query. exclude: more items whose shots are never chosen, as those of a test split.
    min_quality: in [0, 1]; of a shot, at least. relevance: in [0, 1]; 1 ignores diversity.
    Never chosen: shots of the item, near duplicates of the query or of a chosen one, shots longer than LONGEST.
    Diversity is looked for among the POOL * k shots closest to the query (more where the guard refuses too many). Ties:
    the newest first. Raises LLMValidationError: validation.query for a blank query, validation.config for the rest.

    >>> shots = [Shot(None, "Boil an egg", "7 minutes", 1), Shot(None, "Boil rice", "12 minutes", 1)]
    >>> [taken.shot.answer for taken in select(ExampleIndex.of(shots), "How do I boil brown rice?", k=1).chosen]
    ['12 minutes']
    """
    _check(query, k, item_id, min_quality, relevance, exclude)
    asked, words = read(query)
    known, guard = _known(index, words), _Guard(index._store, asked)
    if not len(known):
        return Selection((), ())
    # The sum of the query's weights, with those of words that the index does not have.
    norm = _weights(np.append(index._counts[known], [0] * (len(words) - len(known))), len(index)).sum()
    scores, allowed = _scores(index, known), _allowed(index, min_quality, {item_id, *exclude})
    size, able = POOL * k, np.where(allowed, scores, 0.0)
    while True:
        best = _top(able, size)
        pool = _Pool.of(index, best)
        chosen, refused = _marginal(pool, pool.cosines(known, norm), k, relevance, guard)
        if len(chosen) == k or len(best) < size:
            break
        size *= 4
    if not allowed.all():
        least = able[best].min() if len(best) == size else 0.0
        for place in _top(np.where(allowed | (scores < least), 0.0, scores), EXCLUDED):
            shot = index._store.shots[index._start + place]
            barred = BARRED if shot.item_id in exclude else LOW_QUALITY
            refused.append((shot, SAME_ITEM if item_id is not None and shot.item_id == item_id else barred))
    return Selection(tuple(chosen), tuple(refused[:EXCLUDED]))


class _Store:
    """Shots in the order of history and where each word occurs. It only grows; each index value reads a part of it."""

    def __init__(self) -> None:
        self.shots: list[Shot] = []
        self.texts: list[Text] = []
        self.ids: list[Ids] = []  # of the words of each shot, in alphabetical order
        self.scale = array("d")  # 1 / sqrt(words)
        self.quality = array("d")
        self.codes = array("q")  # of the item, -1 for none
        self.items: dict[str, int] = {}
        self.words: dict[str, int] = {}
        self.names: list[str] = []
        self.occurs: list[array[int]] = []  # shots with each word, ascending
        self.claims: dict[int, Text] = {}  # number of shots -> what was added there first

    def append(self, shot: Shot, text: Text, words: Iterable[str]) -> Ids:
        ids = array("i")
        for word in words:
            number = self.words.get(word)
            if number is None:
                number = self.words[word] = len(self.names)
                self.names.append(word)
                self.occurs.append(array("q"))
            self.occurs[number].append(len(self.shots))
            ids.append(number)
        item = shot.item_id
        self.codes.append(-1 if item is None else self.items.setdefault(item, len(self.items)))
        self.scale.append(1 / math.sqrt(max(1, len(ids))))
        self.quality.append(shot.quality)
        self.ids.append(np.array(ids, dtype=np.int32))
        self.texts.append(text)
        self.shots.append(shot)
        return self.ids[-1]

    def part(self, start: int, end: int) -> _Store:
        """A store of some of the shots."""
        made = _Store()
        for place in range(start, end):
            made.append(self.shots[place], self.texts[place], [self.names[i] for i in self.ids[place].tolist()])
        return made

    def counts(self) -> Ids:
        """Number of shots with each word."""
        return np.array([len(places) for places in self.occurs], dtype=np.int32)


def _weights(counts: Ids, shots: int) -> Floats:
    """Squares of idf as whole numbers: sums of them are exact in any order. A word of no shot counts as of one."""
    return np.rint(1e6 * np.log1p(shots / np.maximum(counts, 1)) ** 2)


def _known(index: ExampleIndex, words: Iterable[str]) -> Places:
    """Numbers of the words that the index has, those of the fewest shots first."""
    counts, numbers = index._counts, index._store.words
    found = [(int(counts[i]), word, i) for word in words if (i := numbers.get(word, len(counts))) < len(counts)]
    return np.array([i for count, _, i in sorted(found) if count], dtype=np.intp)


def _scores(index: ExampleIndex, known: Places) -> Floats:
    """How close every shot is to some words, those of the fewest shots first, in nearly the order of the cosine."""
    read = index._counts[known].cumsum()
    known = known[: max(1, int(np.searchsorted(read, READ, side="right")))]
    parts = [_between(index._store.occurs[i], index._start, index._end) for i in known.tolist()]
    weights = np.repeat(_weights(index._counts[known], len(index)), [len(part) for part in parts])
    places = np.frombuffer(b"".join(parts), dtype=np.int64)
    shared = np.bincount(places, weights, minlength=index._end)[index._start :]
    return shared * np.frombuffer(index._store.scale[index._start : index._end])


def _between(places: array[int], start: int, end: int) -> array[int]:
    return places[bisect_left(places, start) : bisect_left(places, end)]


def _allowed(index: ExampleIndex, min_quality: float, items: Iterable[str | None]) -> NDArray[np.bool_]:
    store, part = index._store, slice(index._start, index._end)
    allowed = np.frombuffer(store.quality[part]) >= min_quality
    if banned := [store.items[item] for item in items if item in store.items]:
        allowed &= ~np.isin(np.frombuffer(store.codes[part], dtype=np.int64), banned)
    return allowed


def _top(scores: Floats, size: int) -> Places:
    """Places of the `size` largest scores above 0, the newest of equal ones; newest first."""
    found = np.flatnonzero(scores)
    if len(found) <= size:
        return found[::-1]
    values = scores[found]
    least = np.partition(values, -size)[-size]
    above, level = found[values > least], found[values == least]
    return np.sort(np.concatenate([above, level[len(level) - size + len(above) :]]))[::-1]


# -- maximal marginal relevance


@dataclass(frozen=True, slots=True)
class _Pool:
    """Shots that can be chosen, newest first, and their words one shot after the other, with weights.

    starts: where the words of each shot start. norms: sum of the weights of each shot.
    """

    index: ExampleIndex
    places: list[int]
    starts: Places
    ids: Ids
    weights: Floats
    norms: Floats

    @classmethod
    def of(cls, index: ExampleIndex, places: Places) -> _Pool:
        """The pool of shots, each with a word at least, at places of the index."""
        mine = (places + index._start).tolist()
        parts = [index._store.ids[place] for place in mine]
        ids = np.concatenate([np.empty(0, dtype=np.int32), *parts])
        starts = np.cumsum([0, *map(len, parts)])[:-1]
        weights = _weights(index._counts[ids], len(index))
        return cls(index, mine, starts, ids, weights, np.add.reduceat(weights, starts))

    def cosines(self, ids: Ids | Places, norm: float) -> Floats:
        """Cosine of every shot with a set of words, given the sum of its weights."""
        mark = np.zeros(len(self.index._counts), dtype=np.bool_)
        mark[ids] = True
        shared = np.add.reduceat(self.weights * mark[self.ids], self.starts)
        return np.asarray(shared / np.sqrt(self.norms * norm))


class _Guard:
    """Refuses what must not be shown with a query."""

    def __init__(self, store: _Store, asked: Text) -> None:
        self.store, self.asked = store, asked
        self.known: dict[tuple[int, int | None], bool] = {}  # whether the shot at a place is like another, or the query

    def refusal(self, place: int, taken: Iterable[int]) -> str | None:
        """Why the shot at a place cannot join those taken; None if it can."""
        if len(self.store.shots[place].prompt) > LONGEST:
            return TOO_LONG
        if self._alike(place, None):
            return COPY
        return COPY_OF_CHOSEN if any(self._alike(place, other) for other in taken) else None

    def _alike(self, place: int, other: int | None) -> bool:
        if (place, other) not in self.known:
            text = self.asked if other is None else self.store.texts[other]
            self.known[place, other] = alike(self.store.texts[place], text)
        return self.known[place, other]


def _marginal(
    pool: _Pool, cosines: Floats, k: int, relevance: float, guard: _Guard
) -> tuple[list[Chosen], list[tuple[Shot, str]]]:
    """Up to k shots of the pool by maximal marginal relevance, and those that the guard refused."""
    nearest, waiting = np.zeros(len(pool.places)), np.ones(len(pool.places), dtype=np.bool_)
    taken: list[int] = []
    chosen: list[Chosen] = []
    refused: list[tuple[Shot, str]] = []
    while len(taken) < k and waiting.any():
        best = int(np.where(waiting, relevance * cosines - (1 - relevance) * nearest, -np.inf).argmax())
        waiting[best] = False
        place = pool.places[best]
        shot = guard.store.shots[place]
        if reason := guard.refusal(place, taken):
            refused.append((shot, reason))
            continue
        chosen.append(Chosen(shot, float(cosines[best]), float(nearest[best])))
        taken.append(place)
        if len(taken) < k:
            nearest = np.maximum(nearest, pool.cosines(guard.store.ids[place], float(pool.norms[best])))
    return chosen, refused


# -- what is refused


def _checked(shot: object) -> Shot:
    if not isinstance(shot, Shot):
        raise _bad_example(f"an example is {shot!r:.60}, not a Shot")
    return shot


def _bad_example(problem: str) -> LLMValidationError:
    return LLMValidationError(
        problem, code="validation.example", next_step="give Shot(item_id, prompt, answer, quality) for every example"
    )


def _bad_config(problem: str, next_step: str) -> LLMValidationError:
    return LLMValidationError(problem, code="validation.config", next_step=next_step)


def _check(query: object, k: object, item_id: object, min_quality: object, relevance: object, exclude: object) -> None:
    if not isinstance(query, str) or not query.strip():
        raise LLMValidationError(
            f"examples for {query!r:.60}, which is no text with something in it",
            code="validation.query",
            next_step="pass the text of the question",
        )
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MOST:
        raise _bad_config(f"k is {k!r:.40}, not a whole number from 1 to {MOST}", "set k to 4")
    if item_id is not None and not isinstance(item_id, str):
        raise _bad_config(f"item_id is {item_id!r:.40}, neither a text nor None", "pass the item_id of the query")
    for name, value in (("min_quality", min_quality), ("relevance", relevance)):
        if not is_finite(value) or not 0 <= value <= 1:
            raise _bad_config(f"{name} is {value!r:.40}, not a number in [0, 1]", f"set {name} to a share")
    if not isinstance(exclude, Collection) or isinstance(exclude, str) or set(map(type, exclude)) - {str}:
        raise _bad_config(f"exclude is {exclude!r:.60}, not a collection of item ids", "pass a set of item ids")
