"""Dawid-Skene and one coin: published tables, hand calculations, planted truth, and what must not matter."""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.decide.annotators import dawid_skene, one_coin
from workbench.errors import LLMValidationError

# Dawid & Skene 1979, table 1: 45 patients, the fitness that five anaesthetists saw; the first looked three times.
ANAESTHETISTS = """
    1111111 3334334 1122122 2223121 2223222 2223322 1222111 3333433 2222223 2322223 4444444 2223343 1111111 2223212
    1211111 1112111 1111111 1111111 2222221 2221322 2222222 2222221 2223222 2212222 1111111 1111111 2322222 1111111
    1111111 1121121 1111111 3333233 1111111 2222222 2223232 4334343 2212232 2323233 3333432 1111111 1111111 1212111
    2322222 1211111 2222222
"""
PATIENTS = np.array([[int(grade) - 1 for grade in row] for row in ANAESTHETISTS.split()])


def planted(seed, *, n=600, k=4, accuracy=(0.9, 0.75, 0.6, 0.5, 0.45)):
    """True classes, and votes of models that err evenly over the other classes."""
    chance = np.random.default_rng(seed)
    truth = chance.integers(0, k, n)
    wrong = (truth[:, None] + chance.integers(1, k, (n, len(accuracy)))) % k
    return truth, np.where(chance.random(wrong.shape) < accuracy, truth[:, None], wrong)


def numbered(votes):
    """The same votes with the codes of every item numbered anew, as Ballots does."""
    made = np.full_like(votes, -1)
    for i, row in enumerate(votes):
        for c, code in enumerate(sorted(set(row[row >= 0]))):
            made[i, row == code] = c
    return made


def refused(call, code):
    """The error's code is the expected one, and it says what to do next in 160 characters."""
    with pytest.raises(LLMValidationError) as caught:
        call()
    assert caught.value.code == code
    assert 0 < len(caught.value.next_step) <= 160
    return str(caught.value)


# -- Dawid & Skene


def test_the_published_tables_come_out_again():
    """Marginals and the first observer's error rates are those of Dawid & Skene 1979, tables 2 and 3, to 2 decimals."""
    fit = dawid_skene(PATIENTS, annotators=[0, 0, 0, 1, 2, 3, 4], tolerance=-math.inf)
    assert fit.confusion.shape == (5, 4, 4)
    np.testing.assert_allclose(fit.prior, [0.40, 0.42, 0.11, 0.07], atol=0.005)
    first = [[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0], [0, 0.34, 0.66, 0], [0, 0, 0.56, 0.44]]
    np.testing.assert_allclose(fit.confusion[0], first, atol=0.005)
    # Table 4 gives the first six patients these classes with probability 1.00.
    assert (fit.labels[:6] + 1).tolist() == [1, 4, 2, 2, 2, 2]
    assert fit.posterior[:6].max(axis=1).round(2).tolist() == [1.0] * 6


def test_another_implementation_finds_the_same_fit():
    """With seven separate observers the numbers are those that crowd-kit 1.4.2 printed for the same table."""
    fit = dawid_skene(PATIENTS)
    assert fit.iterations == 3
    np.testing.assert_allclose(fit.prior, [0.407958, 0.416576, 0.108841, 0.066625], atol=5e-7)
    second = [0.965759, 0.802816, 0.893307, 0.621029, 0.801524, 0.834266, 0.725861]  # true grade 2 seen as grade 2
    np.testing.assert_allclose(fit.confusion[:, 1, 1], second, atol=5e-7)


def test_one_iteration_by_hand():
    """Shares, maximisation, expectation and maximisation again, on three items and three models."""
    # Shares: (1, 0), (0, 1), (2/3, 1/3), so prior 5/9, 4/9. Models 0 and 1: class 0 gets vote 0 always, class 1 gets
    # vote 0 in (1/3) / (4/3) = 1/4. Model 2: class 0 gets vote 1 in (2/3) / (5/3) = 2/5, class 1 always.
    # Item 2, votes 0 0 1: 5/9 x 1 x 1 x 2/5 = 8/36 against 4/9 x 1/4 x 1/4 x 1 = 1/36.
    fit = dawid_skene(np.array([[0, 0, 0], [1, 1, 1], [0, 0, 1]]), iterations=1)
    np.testing.assert_allclose(fit.posterior, [[1, 0], [0, 1], [8 / 9, 1 / 9]], atol=1e-9)
    np.testing.assert_allclose(fit.prior, [17 / 27, 10 / 27], atol=1e-9)
    # Model 0, class 1: vote 0 weighs 1/9, vote 1 weighs 1. Model 2, class 0: vote 0 weighs 1, vote 1 weighs 8/9.
    np.testing.assert_allclose(fit.confusion[0], [[1, 0], [0.1, 0.9]], atol=1e-9)
    np.testing.assert_allclose(fit.confusion[2], [[9 / 17, 8 / 17], [0, 1]], atol=1e-9)
    assert (fit.labels.tolist(), fit.iterations, fit.converged) == ([0, 1, 0], 1, False)


def test_the_log_likelihood_is_that_of_the_reported_parameters():
    """Summed over classes, item by item, from prior and confusion alone; votes that are missing say nothing."""
    _, votes = planted(1, n=60)
    votes[::7, 2] = -1
    fit = dawid_skene(votes)
    total = 0.0
    for row in votes:
        total += math.log(
            sum(fit.prior[c] * math.prod(fit.confusion[j, c, v] for j, v in enumerate(row) if v >= 0) for c in range(4))
        )
    assert fit.log_likelihood == pytest.approx(total, abs=1e-6)


def test_more_iterations_never_make_the_votes_less_likely():
    """EM climbs: the log-likelihood after every number of iterations is at least that of one fewer."""
    _, votes = planted(2, accuracy=(0.6, 0.5, 0.5, 0.4))
    reached = [dawid_skene(votes, iterations=i, tolerance=-math.inf).log_likelihood for i in range(1, 30)]
    assert all(later >= sooner - 1e-9 for sooner, later in pairwise(reached))
    assert reached[-1] > reached[0] + 1


def test_planted_confusions_are_recovered():
    """A model that is wrong in one way only is read through: its vote tells the class although it never names it."""
    chance = np.random.default_rng(3)
    n, k = 3000, 3
    truth = chance.choice(k, n, p=[0.5, 0.3, 0.2])
    sound = np.full((k, k), 0.15) + 0.55 * np.eye(k)
    shifted = np.roll(np.eye(k), 1, axis=1) * 0.88 + 0.04
    confusions = [sound, sound, sound, shifted]
    votes = np.column_stack([(chance.random((n, 1)) > c[truth].cumsum(axis=1)).sum(axis=1) for c in confusions])
    fit = dawid_skene(votes)
    # The standard error of a share of 600 items is 0.02.
    np.testing.assert_allclose(fit.prior, [0.5, 0.3, 0.2], atol=0.04)
    np.testing.assert_allclose(fit.confusion, confusions, atol=0.08)
    score = np.log([0.5, 0.3, 0.2]) + sum(np.log(c.T[votes[:, j]]) for j, c in enumerate(confusions))
    assert (fit.labels == score.argmax(axis=1)).mean() > 0.97  # as who knows the confusions would decide
    majority = np.array([np.bincount(row, minlength=k).argmax() for row in votes])
    assert (fit.labels == truth).mean() > (majority == truth).mean() + 0.1


@settings(max_examples=15)
@given(st.permutations(range(5)), st.permutations(range(4)), st.integers(0, 3))
def test_order_and_names_do_not_matter(models, classes, seed):
    """Models, items and classes in another order give the same fit in that order."""
    _, votes = planted(seed)
    order = np.random.default_rng(seed).permutation(len(votes))
    renamed = np.array(classes)[votes]
    fit, other = dawid_skene(votes), dawid_skene(renamed[order][:, models])
    assert (other.labels == np.array(classes)[fit.labels][order]).all()
    np.testing.assert_allclose(other.posterior[:, classes], fit.posterior[order], atol=1e-6)
    np.testing.assert_allclose(other.prior[list(classes)], fit.prior, atol=1e-6)
    np.testing.assert_allclose(
        other.confusion[np.ix_(range(5), classes, classes)], fit.confusion[list(models)], atol=1e-6
    )


def test_who_has_no_vote_changes_nothing():
    """Items, models and classes without a vote leave the rest as it was; their own values say that nothing is known."""
    _, votes = planted(4)
    wide = np.full((len(votes) + 1, 6), -1)
    wide[1:, [0, 1, 2, 4, 5]] = np.where(votes == 3, 4, votes)
    fit, other = dawid_skene(votes), dawid_skene(wide, classes=6)
    assert other.labels.tolist() == [-1, *np.where(fit.labels == 3, 4, fit.labels).tolist()]
    assert other.posterior[0].tolist() == other.prior.tolist()
    named = [0, 1, 2, 4]
    np.testing.assert_allclose(other.prior[named], fit.prior, atol=1e-12)
    assert other.prior[[3, 5]].tolist() == [0, 0]
    assert np.isnan(other.confusion[3]).all()
    assert np.isnan(other.confusion[:, [3, 5]]).all()
    np.testing.assert_allclose(other.confusion[np.ix_([0, 1, 2, 4, 5], named, named)], fit.confusion, atol=1e-12)
    assert (other.confusion[np.ix_([0, 1, 2, 4, 5], named, [3, 5])] == 0).all()
    assert other.log_likelihood == pytest.approx(fit.log_likelihood)


def test_a_tie_goes_to_the_lowest_class():
    """Two against two: swapping classes and pairs of models gives the same table, so that neither class is likelier."""
    fit = dawid_skene(np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]]))
    np.testing.assert_allclose(fit.posterior[[0, 2]], 0.5, atol=1e-12)
    assert fit.labels.tolist() == [0, 0, 0, 1]  # although rounding makes class 1 of item 0 the larger by a hair


@pytest.mark.parametrize(
    ("votes", "options", "code"),
    [
        (np.zeros(3, dtype=int), {}, "validation.shape"),
        (np.zeros((2, 2)), {}, "validation.shape"),
        (np.full((2, 2), -1), {}, "validation.votes"),
        (np.zeros((0, 2), dtype=int), {}, "validation.votes"),
        (np.array([[0, -2]]), {}, "validation.votes"),
        (np.array([[0, 3]]), {"classes": 3}, "validation.classes"),
        (np.array([[0, 1]]), {"annotators": [0]}, "validation.shape"),
        (np.array([[0, 1]]), {"annotators": [-1, 0]}, "validation.shape"),
        (np.array([[0, 1]]), {"iterations": 0}, "validation.votes"),
    ],
)
def test_votes_that_cannot_be_fitted_are_refused(votes, options, code):
    """By name, and with what to do next."""
    refused(lambda: dawid_skene(votes, **options), code)


# -- one coin


def likelihood(codes, width, accuracy):
    """Log-likelihood of item-wise codes by the definition: every possible answer, also those nobody gave, in turn."""
    total = 0.0
    for row in codes:
        given = sorted(set(row[row >= 0]))
        each = [
            math.prod(p if v == t else (1 - p) / (width - 1) for p, v in zip(accuracy, row, strict=True) if v >= 0)
            for t in [*given, -1]
        ]
        total += math.log((sum(each[:-1]) + (width - len(given)) * each[-1]) / width)
    return total


def test_one_iteration_of_one_coin_by_hand():
    """Three possible answers: the one that nobody gave keeps its share of the probability."""
    # Shares (2/3, 1/3), (1): accuracies 5/6, 5/6, 2/3; a given wrong answer has probability 1/12, 1/12, 1/6.
    # Item 0, votes 0 0 1: 25/36 x 1/6 = 100/864; 1/144 x 2/3 = 4/864; the third answer 1/144 x 1/6 = 1/864.
    # Item 1, votes 0 0 0: 25/36 x 2/3 = 200/432; two other answers 1/144 x 1/6 = 1/864 each, so 1/432.
    codes = np.array([[0, 0, 1], [0, 0, 0]])
    fit = one_coin(codes, width=3, iterations=1)
    np.testing.assert_allclose(fit.posterior, [[100 / 105, 4 / 105], [200 / 201, 0]], atol=1e-12)
    right, odd = (100 / 105 + 200 / 201) / 2, (4 / 105 + 200 / 201) / 2
    np.testing.assert_allclose(fit.accuracy, [right, right, odd], atol=1e-12)
    assert fit.log_likelihood == pytest.approx(likelihood(codes, 3, fit.accuracy), abs=1e-9)
    assert (fit.labels.tolist(), fit.iterations, fit.converged) == ([0, 0], 1, False)


def test_another_implementation_finds_the_same_coins():
    """Shared codes: accuracies, iterations and labels are those that crowd-kit 1.4.2 printed for the anaesthetists."""
    fit = one_coin(PATIENTS, width=4, shared=True)
    accuracy = [0.957899, 0.807555, 0.90258, 0.68759, 0.823998, 0.842278, 0.79699]
    np.testing.assert_allclose(fit.accuracy, accuracy, atol=5e-7)
    labels = "132222132242121111222222112111131223223111212"
    assert fit.iterations == 8
    assert "".join(map(str, fit.labels + 1)) == labels


def test_accuracies_are_recovered_where_every_item_has_answers_of_its_own():
    """Planted accuracies come back, and the true model outvotes two that are poor."""
    truth, votes = planted(5, n=2000, k=8, accuracy=(0.9, 0.6, 0.5, 0.4))
    fit = one_coin(numbered(votes), width=8)
    np.testing.assert_allclose(fit.accuracy, [0.9, 0.6, 0.5, 0.4], atol=0.04)  # standard error about 0.01
    chosen = np.array([sorted(set(row))[label] for row, label in zip(votes, fit.labels, strict=True)])
    majority = np.array([np.bincount(row).argmax() for row in votes])
    assert (chosen == truth).mean() > (majority == truth).mean() + 0.05


def test_the_fit_is_the_maximum():
    """Moving any accuracy either way makes the votes less likely, by the definition of the model."""
    _, votes = planted(6, n=150, accuracy=(0.8, 0.6, 0.5))
    votes[::5, 1] = -1
    codes = numbered(votes)
    fit = one_coin(codes, width=4, tolerance=1e-12, iterations=2000)
    best = likelihood(codes, 4, fit.accuracy)
    assert fit.log_likelihood == pytest.approx(best, abs=1e-6)
    for j, moved in product(range(3), (-0.01, 0.01)):
        changed = fit.accuracy.copy()
        changed[j] += moved
        assert likelihood(codes, 4, changed) < best


@settings(max_examples=15)
@given(st.permutations(range(5)), st.integers(0, 3))
def test_codes_and_order_do_not_matter_to_one_coin(models, seed):
    """Renumbering the answers of every item and reordering models and items leaves accuracies and winners."""
    _, votes = planted(seed)
    chance = np.random.default_rng(seed)
    order, names = chance.permutation(len(votes)), chance.permuted(np.tile(np.arange(4), (len(votes), 1)), axis=1)
    renamed = np.take_along_axis(names, votes, axis=1)
    fit, other = one_coin(votes, width=5), one_coin(renamed[order][:, models], width=5)
    np.testing.assert_allclose(other.accuracy, fit.accuracy[list(models)], atol=1e-9)
    mapped = np.take_along_axis(other.posterior, names[order], axis=1)
    np.testing.assert_allclose(mapped, fit.posterior[order], atol=1e-9)


def test_a_width_per_item_counts_for_that_item_alone():
    """Where more answers are possible, the same agreement is better evidence."""
    _, votes = planted(7)
    codes = np.vstack([numbered(votes), [[0, 0, -1, -1, -1], [0, 0, -1, -1, -1]]])
    widths = np.full(len(codes), 5.0)
    widths[-1] = 50.5
    fit = one_coin(codes, width=widths)
    two, fifty = fit.posterior[-2:, 0]
    p, q = fit.accuracy[:2]  # two votes for one answer: right, or wrong alike with probability 1 / (width - 1)
    for found, width in ((two, 5), (fifty, 50.5)):
        assert found == pytest.approx(p * q / (p * q + (1 - p) * (1 - q) / (width - 1)), abs=1e-3)
    assert fifty > two


def test_who_has_no_vote_changes_nothing_for_one_coin():
    """An item without votes has no answer, or with shared codes the prior; a model without votes has no accuracy."""
    _, votes = planted(8)
    wide = np.full((len(votes) + 1, 6), -1)
    wide[1:, [0, 1, 2, 4, 5]] = votes
    for shared in (False, True):
        fit, other = one_coin(votes, width=4, shared=shared), one_coin(wide, width=4, shared=shared)
        assert other.labels.tolist() == [-1, *fit.labels.tolist()]
        assert math.isnan(other.accuracy[3])
        np.testing.assert_allclose(other.accuracy[[0, 1, 2, 4, 5]], fit.accuracy, atol=1e-12)
        np.testing.assert_allclose(other.posterior[1:], fit.posterior, atol=1e-12)
        expected = fit.posterior.mean(axis=0) if shared else np.zeros(4)
        np.testing.assert_allclose(other.posterior[0], expected, atol=1e-12)


def test_shared_codes_learn_which_class_is_common():
    """Between one vote each of two equally good models, the class that occurs more often is chosen."""
    chance = np.random.default_rng(9)
    truth = (chance.random(800) < 0.9).astype(int)
    votes = np.where(chance.random((800, 4)) < 0.8, truth[:, None], 1 - truth[:, None])
    votes = np.vstack([votes, [[0, 1, -1, -1], [1, 0, -1, -1]]])
    assert one_coin(votes, width=2, shared=True).labels[-2:].tolist() == [1, 1]
    beside = one_coin(
        np.where(votes > 0, 2, votes), width=3, shared=True
    )  # class 1 exists, and nobody ever votes for it
    assert beside.labels[-2:].tolist() == [2, 2]
    assert (beside.posterior[:, 1] == 0).all()
    np.testing.assert_allclose(beside.posterior.sum(axis=1), 1, atol=1e-15)
    apart = one_coin(votes, width=2)
    assert set(apart.labels[-2:].tolist()) == {0, 1}  # without a prior the slightly better model decides


@pytest.mark.parametrize(
    ("width", "shared", "code"),
    [
        (2, False, "validation.width"),
        (1.5, False, "validation.width"),
        (math.nan, False, "validation.width"),
        (math.inf, False, "validation.width"),
        ([4, 2], False, "validation.width"),
        ([4, 4, 4], False, "validation.shape"),
        (2, True, "validation.width"),
        ([4, 4], True, "validation.shape"),
    ],
)
def test_a_width_that_cannot_be_is_refused(width, shared, code):
    """Fewer possible answers than were given, or no number for every item; the message names the item."""
    message = refused(lambda: one_coin(np.array([[0, 1, 0], [0, 1, 2]]), width=width, shared=shared), code)
    if code == "validation.width":
        assert "item " in message


@pytest.mark.parametrize(
    ("fit", "code"),
    [
        (lambda: dawid_skene(np.array([[0, 10**9], [1, -1]])), "validation.classes"),
        (lambda: one_coin(np.array([[0, 10**9], [1, -1]]), width=3), "validation.votes"),
        (lambda: dawid_skene(np.array([[0, 1]]), classes=2.5), "validation.classes"),
        (lambda: dawid_skene(np.array([[0, 1]]), classes=10**400), "validation.classes"),
        (lambda: dawid_skene(np.array([[0, 1]]), annotators=[0, 10**9]), "validation.shape"),
        (lambda: dawid_skene(np.array([[0, 1]]), annotators="ab"), "validation.shape"),
        (lambda: dawid_skene(np.array([[0, 1]]), iterations=None), "validation.votes"),
        (lambda: dawid_skene(np.array([[0, 1]]), tolerance=float("nan")), "validation.votes"),
        (lambda: one_coin(np.array([[0, 1]]), width="x"), "validation.shape"),
        (lambda: one_coin([[1, 2], [3]], width=3), "validation.shape"),
    ],
)
def test_what_no_fit_could_hold_or_read_is_refused(fit, code):
    """Tables of gigabytes, and settings that are no numbers."""
    with pytest.raises(LLMValidationError) as error:
        fit()
    assert error.value.code == code
