r"""How alike two texts are: chrF, BLEU, ROUGE and token F1, also for many candidates at once.

One idea serves all but ROUGE-L. The t-th occurrence of an n-gram in a text is an element of a set; the clipped matches
of two texts are then the elements that their sets share. A table says which text has which element, and the table
times its transpose gives the matches of every pair in one product. Several references of BLEU, clipped at their
largest counts, are the union of their sets.

Invariants: values equal those of sacrebleu 2.6 and rouge-score 0.1.2 with their defaults. A text without symbols
(empty, only white space, for some metrics only punctuation) scores 0 against every text, itself included. Time grows
with the texts' length (times its logarithm) and memory with it, at most some 100 bytes a character; only ROUGE-L takes
time by the product of two lengths. Any string is a text, also with NUL, astral characters and lone surrogates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from string import punctuation
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from workbench.decide.weights import closest
from workbench.errors import LLMValidationError

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
References = str | Sequence[str]

CHRF_ORDER, CHRF_BETA = 6, 2
BLEU_ORDER = 4
ROUGE_ORDERS = range(1, 10)  # those that rouge-score knows
ENTRIES, CELLS = 1 << 18, 1 << 22  # n-grams counted at once, and cells of their table; both bound the memory
LCS_BITS = 1 << 13  # tokens in one integer of the LCS; its masks take at most LCS_BITS**2 / 8 bytes

_ALPHANUMERIC = re.compile(r"[a-z0-9]+")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = dict.fromkeys(map(ord, punctuation))
# The rules of mteval-v13a in their order. A match uses its characters up, as lookarounds would not: "a..5" becomes
# three tokens, the last of them ".5".
_REPLACED = (("<skipped>", ""), ("-\n", ""), ("\n", " "), ("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SPLITS = (
    (re.compile(r"([!-&(-+/:-@\[-`{-~])"), r" \1 "),  # ASCII punctuation but ' , - .
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # unless a digit stands before it
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),  # or after it: 1,234.5 is one token
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def chrf(hypothesis: str, reference: References) -> float:
    """Character n-gram F-score, in [0, 100].

    Orders 1 to 6 without white space, recall weighing beta = 2 times as much as precision; precision and recall are
    averaged over the orders that both texts are long enough for. Several references: the best of them.
    Raises LLMValidationError validation.text for what is no text.
    Source: Popović 2015, "chrF"; as sacrebleu.sentence_chrf.
    >>> round(chrf("the cat sat", "the cat sits"), 4)
    61.0345
    """
    return 100 * _best(_chrf_table, hypothesis, reference)


def bleu(hypothesis: str, reference: References) -> float:
    """Sentence BLEU, in [0, 100].

    Orders 1 to 4 of the tokens of mteval-v13a, as far as the hypothesis is long enough; the k-th order without a match
    counts 1 / 2**k matches; brevity penalty. Several references: counts are clipped at the largest of them, and the
    length that counts is the closest, of two the shorter. No match at all is 0.
    Raises LLMValidationError validation.text for what is no text.
    Source: Papineni et al. 2002; Chen & Cherry 2014, smoothing 3; as sacrebleu.sentence_bleu.
    >>> round(bleu("the cat sat on the mat", "the cat sat on a mat"), 4)
    53.7285
    """
    sequences = _numbered([_tokens_13a(text) for text in _checked(hypothesis, reference)])
    matches = np.zeros(BLEU_ORDER)
    for order, table in _tables(sequences, BLEU_ORDER):
        matches[order - 1] += table[0] @ table[1:].max(axis=0)
    length = len(sequences[0])
    nearest = min(map(len, sequences[1:]), key=lambda other: (abs(other - length), other))
    return 100 * float(_bleu(matches, np.array(length), np.array(nearest)))


def rouge_n(hypothesis: str, reference: References, n: int) -> float:
    """F1 of the n-grams of words, in [0, 1].

    Words are runs of a-z and 0-9 after lower-casing, without stemming. n: 1 to 9. Several references: the best.
    Raises LLMValidationError validation.text for what is no text, validation.order for another n.
    Source: Lin 2004, "ROUGE"; as rouge-score with use_stemmer=False.
    >>> rouge_n("the cat sat", "the cat sits", 1), rouge_n("the cat sat", "the cat sits", 2)
    (0.6666666666666666, 0.5)
    """
    if isinstance(n, bool) or not isinstance(n, int) or n not in ROUGE_ORDERS:
        raise LLMValidationError(
            f"ROUGE-N of order {n!r:.40}", code="validation.order", next_step="set n to a whole number from 1 to 9"
        )
    return _best(partial(_rouge_table, order=n), hypothesis, reference)


def rouge_l(hypothesis: str, reference: References) -> float:
    """F1 of the longest common subsequence of words, in [0, 1].

    Words as for rouge_n; several references: the best. Takes time by the product of the two lengths, 30 cells at once.
    Raises LLMValidationError validation.text for what is no text.
    Source: Lin 2004, "ROUGE"; as rouge-score's rougeL.
    >>> rouge_l("red green blue black", "blue black red green")
    0.5
    """
    given, *others = [_words(text) for text in _checked(hypothesis, reference)]
    common = np.array([_common_length(given, other) for other in others], dtype=np.float64)
    return float(_f1(common, np.array(len(given)), np.array([len(other) for other in others])).max())


def token_f1(hypothesis: str, reference: References) -> float:
    """F1 of the normalised tokens as bags, in [0, 1].

    Tokens are lower-cased, without ASCII punctuation and the articles a, an, the. Two texts without tokens score 0 (in
    version 2.0, which has questions without an answer, they score 1). Several references: the best.
    Raises LLMValidationError validation.text for what is no text.
    Source: Rajpurkar et al. 2016, "SQuAD", section 6.1, and version 1.1 of its evaluation.
    >>> token_f1("The Eiffel Tower, Paris", "the Eiffel tower")
    0.8
    """
    return _best(_token_table, hypothesis, reference)


def pairwise(texts: Sequence[str], metric: str = "chrf") -> Floats:
    """Every text scored against every other: [i, j] is the metric of hypothesis texts[i] and reference texts[j].

    metric: a name of METRICS. Returns k x k in [0, 1]. ROUGE and token F1 are symmetric, chrF and BLEU are not. Equal
    texts are computed once. k texts of n words take rouge_l k**2 n**2 / 60 steps (half the pairs, 30 cells at once).
    Raises LLMValidationError: validation.text naming the position, validation.metric.
    >>> pairwise(["a b", "a c", "a b"], "rouge_1").tolist()
    [[1.0, 0.5, 1.0], [0.5, 1.0, 0.5], [1.0, 0.5, 1.0]]
    """
    check_metric(metric)
    distinct = list(dict.fromkeys(_texts("texts", texts)))
    place = {text: row for row, text in enumerate(distinct)}
    rows = [place[text] for text in texts]
    return _TABLES[metric](distinct)[np.ix_(rows, rows)] if rows else np.zeros((0, 0))


def check_metric(metric: object) -> None:
    """Refuse what is no name of METRICS."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise LLMValidationError(
            f"metric {metric!r:.60} is not one of {', '.join(METRICS)}",
            code="validation.metric",
            next_step=f"use {closest(str(metric), METRICS) or 'chrf'}",
        )


# -- what is given


def _texts(name: str, texts: object) -> list[str]:
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise _no_text(f"{name} are {texts!r:.40}, not a sequence of texts")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise _no_text(f"{name}[{position}] is {text!r:.40}, of type {type(text).__name__}, not a text")
    return list(texts)


def _checked(hypothesis: object, reference: object) -> list[str]:
    """The hypothesis and its references, at least one."""
    if not isinstance(hypothesis, str):
        raise _no_text(f"the hypothesis is {hypothesis!r:.40}, of type {type(hypothesis).__name__}, not a text")
    references = [reference] if isinstance(reference, str) else _texts("references", reference)
    if not references:
        raise _no_text("there is no reference")
    return [hypothesis, *references]


def _no_text(problem: str) -> LLMValidationError:
    return LLMValidationError(
        problem,
        code="validation.text",
        next_step="pass str, or a list of str; leave out what has no text, such as None",
    )


# -- symbols


def _characters(text: str) -> Codes:
    """Code points without white space."""
    coded = "".join(text.split()).encode("utf-32-le", "surrogatepass")
    return np.frombuffer(coded, dtype="<u4").astype(np.int64)


def _tokens_13a(text: str) -> list[str]:
    text = text.rstrip()
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = f" {text} "
    for pattern, spaced in _SPLITS:
        text = pattern.sub(spaced, text)
    return text.split()


def _words(text: str) -> list[str]:
    return _ALPHANUMERIC.findall(text.lower())


def _normalised(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _numbered(sequences: Sequence[Sequence[str]]) -> list[Codes]:
    """The tokens as numbers, equal ones alike in all sequences."""
    numbers: dict[str, int] = {}
    return [np.array([numbers.setdefault(t, len(numbers)) for t in s], dtype=np.int64) for s in sequences]


# -- matches


def _tables(sequences: Sequence[Codes], orders: int) -> Iterator[tuple[int, Floats]]:
    """Pairs (n, table) for the orders n = 1 to `orders`, several or none for each.

    A table has a row per sequence and a column per element (the t-th occurrence of an n-gram) that two sequences or
    more have: 1 where the sequence has it, else 0. Every such element is in exactly one table.
    """
    ends = np.zeros(1, dtype=np.int64)  # 0 ends a sequence, and no n-gram reaches over it
    symbols = np.concatenate([part for s in sequences for part in (s + 1, ends)])
    owners = np.repeat(np.arange(len(sequences)), [len(s) + 1 for s in sequences])
    base, bits = int(symbols.max()) + 1, len(sequences).bit_length()
    codes, within, span = np.zeros(len(symbols), dtype=np.int64), np.ones(len(symbols), dtype=bool), 1
    for order in range(1, orders + 1):
        if (span * base) << bits > 1 << 63:  # no room in 64 bits: number the codes that occur
            distinct, codes = np.unique(codes, return_inverse=True)
            span = len(distinct)
        added = symbols[order - 1 :]
        codes = codes[: len(added)] * base + added
        within, span = within[: len(added)] & (added > 0), span * base
        entries = (codes[within] << bits) | owners[: len(added)][within]
        entries.sort()
        for part in _by_grams(entries, bits, min(ENTRIES, CELLS // len(sequences) + 1)):
            yield order, _table(part, bits, len(sequences))


def _by_grams(entries: Codes, bits: int, size: int) -> Iterator[Codes]:
    """The sorted entries in parts of some `size`, cut between n-grams."""
    cuts = np.searchsorted(entries, (entries[size::size] >> bits) << bits)
    return (part for part in np.split(entries, cuts) if len(part))


def _table(entries: Codes, bits: int, rows: int) -> Floats:
    """The table of sorted entries, each an n-gram's code and, in the lowest `bits`, the row that has it."""
    grams = entries >> bits
    starts = np.flatnonzero(np.concatenate([[True], entries[1:] != entries[:-1]]))  # of an n-gram in a row
    counts = np.diff(starts, append=len(entries))
    firsts = np.concatenate([[True], grams[starts[1:]] != grams[starts[:-1]]])  # of an n-gram in any row
    widths = np.maximum.reduceat(counts, np.flatnonzero(firsts))
    offsets = (np.cumsum(widths) - widths)[np.cumsum(firsts) - 1]
    columns = np.arange(len(entries)) + np.repeat(offsets - starts, counts)
    common = np.bincount(columns) > 1
    kept = common[columns]
    table = np.zeros((rows, int(common.sum())))
    table[(entries & ((1 << bits) - 1))[kept], (np.cumsum(common) - 1)[columns[kept]]] = 1
    return table


def _ngram_table(sequences: Sequence[Codes], orders: int, score: Callable[[Floats, Codes, Codes], Floats]) -> Floats:
    """Scores of all pairs, k x k, from their matches of the orders 1 to `orders`."""
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    matches = np.zeros((orders, len(sequences), len(sequences)))
    for order, table in _tables(sequences, orders):
        matches[order - 1] += table @ table.T
    at = np.arange(len(sequences))
    matches[:, at, at] = _totals(lengths, orders)
    return score(matches, lengths[:, None], lengths[None, :])


def _common_length(one: Sequence[str], two: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    A set bit says that the row of the dynamic programme does not rise there (Hyyrö 2004, "Bit-parallel LCS-length
    computation revisited"). Blocks of the first sequence pass the carries of their additions on to the next block.
    """
    length, carries = 0, bytearray(len(two))
    for start in range(0, len(one), LCS_BITS):
        block = one[start : start + LCS_BITS]
        masks: dict[str, int] = {}
        for bit, token in enumerate(block):
            masks[token] = masks.get(token, 0) | 1 << bit
        width = len(block)
        every = flat = (1 << width) - 1
        for step, token in enumerate(two):
            matched = flat & masks.get(token, 0)
            added = flat + matched + carries[step]
            carries[step] = added >> width
            flat = (added | (flat - matched)) & every
        length += width - flat.bit_count()
    return length


# -- scores of matches, in [0, 1]; matches: orders x the shape that both lengths have together


def _totals(lengths: Codes, orders: int) -> Codes:
    """Numbers of n-grams of each order in sequences of these lengths, orders x their shape."""
    return np.maximum(np.stack([lengths - n for n in range(orders)]), 0)


def _chrf(matches: Floats, hypothesis: Codes, reference: Codes) -> Floats:
    given, wanted = _totals(hypothesis, CHRF_ORDER), _totals(reference, CHRF_ORDER)
    orders = np.maximum(((given > 0) & (wanted > 0)).sum(axis=0), 1)
    precision = (matches / np.maximum(given, 1)).sum(axis=0) / orders
    recall = (matches / np.maximum(wanted, 1)).sum(axis=0) / orders
    weighed = CHRF_BETA**2 * precision + recall
    scores: Floats = (1 + CHRF_BETA**2) * precision * recall / np.where(weighed > 0, weighed, 1.0)
    return scores


def _bleu(matches: Floats, hypothesis: Codes, reference: Codes) -> Floats:
    smoothing, logs = np.ones(matches.shape[1:]), np.zeros(matches.shape[1:])
    for found, total in zip(matches, _totals(hypothesis, BLEU_ORDER), strict=True):
        smoothing = np.where((total > 0) & (found == 0), 2 * smoothing, smoothing)
        logs += np.where(total > 0, np.log(np.where(found > 0, found, 1 / smoothing) / np.maximum(total, 1)), 0.0)
    brevity = np.minimum(0.0, 1 - reference / np.maximum(hypothesis, 1))
    scores = np.exp(brevity + logs / np.clip(hypothesis, 1, BLEU_ORDER))
    return np.where(matches[0] > 0, scores, 0.0)


def _ngram_f1(matches: Floats, hypothesis: Codes, reference: Codes) -> Floats:
    """F1 of the highest order alone."""
    orders = len(matches)
    return _f1(matches[-1], _totals(hypothesis, orders)[-1], _totals(reference, orders)[-1])


def _f1(common: Floats, one: Codes, two: Codes) -> Floats:
    """Harmonic mean of common / one and common / two; 0 where both are 0."""
    scores: Floats = 2 * common / np.maximum(one + two, 1)
    return scores


# -- tables of all pairs


def _chrf_table(texts: Sequence[str]) -> Floats:
    return _ngram_table([_characters(text) for text in texts], CHRF_ORDER, _chrf)


def _bleu_table(texts: Sequence[str]) -> Floats:
    return _ngram_table(_numbered([_tokens_13a(text) for text in texts]), BLEU_ORDER, _bleu)


def _rouge_table(texts: Sequence[str], order: int) -> Floats:
    return _ngram_table(_numbered([_words(text) for text in texts]), order, _ngram_f1)


def _rouge_l_table(texts: Sequence[str]) -> Floats:
    words = [_words(text) for text in texts]
    lengths = np.array([len(w) for w in words], dtype=np.int64)
    common = np.diag(lengths).astype(np.float64)
    for i, one in enumerate(words):
        for j, two in enumerate(words[:i]):
            common[i, j] = common[j, i] = _common_length(one, two)
    return _f1(common, lengths[:, None], lengths[None, :])


def _token_table(texts: Sequence[str]) -> Floats:
    return _ngram_table(_numbered([_normalised(text) for text in texts]), 1, _ngram_f1)


def _best(table: Callable[[Sequence[str]], Floats], hypothesis: str, reference: References) -> float:
    return float(table(_checked(hypothesis, reference))[0, 1:].max())


# Every metric by its name, in [0, 1].
METRICS: Mapping[str, Callable[[str, References], float]] = MappingProxyType(
    {
        "chrf": partial(_best, _chrf_table),
        "bleu": lambda hypothesis, reference: bleu(hypothesis, reference) / 100,
        "rouge_1": partial(rouge_n, n=1),
        "rouge_2": partial(rouge_n, n=2),
        "rouge_l": rouge_l,
        "token_f1": token_f1,
    }
)
_TABLES: Mapping[str, Callable[[Sequence[str]], Floats]] = MappingProxyType(
    {
        "chrf": _chrf_table,
        "bleu": _bleu_table,
        "rouge_1": partial(_rouge_table, order=1),
        "rouge_2": partial(_rouge_table, order=2),
        "rouge_l": _rouge_l_table,
        "token_f1": _token_table,
    }
)
