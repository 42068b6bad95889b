"""Statistics against independent implementations, simulations and hand calculations."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from workbench.errors import LLMValidationError
from workbench.study.stats import (
    bootstrap_interval,
    check_splits,
    half_splits,
    holm,
    mcnemar,
    minimum_detectable_effect,
    split_differences,
    verdict,
    wilson_interval,
)


def resampled_interval(d, *, samples, seed):
    """The textbook bootstrap: draw n items with replacement, one resample after the other."""
    chance = np.random.default_rng(seed)
    n = len(d)
    means = [d[chance.integers(0, n, n)].mean() for _ in range(samples)]
    return np.percentile(means, [2.5, 97.5])


def monte_carlo_error(d, *samples):
    """Standard error of the difference between two estimated 2.5 % points of the mean, for normal means."""
    of_mean = d.std() / math.sqrt(len(d))
    density = NormalDist().pdf(NormalDist().inv_cdf(0.025))
    return of_mean * math.sqrt(0.025 * 0.975) / density * math.sqrt(sum(1 / s for s in samples))


# --- the bootstrap --------------------------------------------------------------------------------------

FEW = np.repeat([-1.0, 0.0, 1.0], [15, 95, 40])  # 3 patterns in 150 items: multinomial draws
MANY = np.random.default_rng(5).gamma(2.0, size=150) - 1.7  # 150 patterns: drawn row by row


@pytest.mark.parametrize("differences", [FEW, MANY], ids=["few patterns", "all distinct"])
def test_the_interval_is_that_of_plain_resampling(differences):
    """Both ways of drawing agree with a loop that draws items one by one, within four Monte-Carlo errors."""
    low, high = bootstrap_interval(differences, samples=20_000, seed=1)
    plain = resampled_interval(differences, samples=8_000, seed=2)
    # The mean of FEW moves in steps of 1/150, and so do its percentiles.
    allowed = 4 * monte_carlo_error(differences, 20_000, 8_000) + (1 / 150 if differences is FEW else 0)
    assert abs(low[0] - plain[0]) < allowed
    assert abs(high[0] - plain[1]) < allowed


def test_both_ways_of_drawing_agree():
    """A jitter too small to matter makes all rows distinct; the interval moves by Monte-Carlo error only."""
    values = np.random.default_rng(0).normal(0.1, 1.0, 40)
    repeated = np.repeat(values, 8)  # 40 patterns in 320 items: 40 * 4 < 320
    distinct = repeated + np.linspace(0, 1e-9, 320)
    one, two = bootstrap_interval(repeated, samples=20_000), bootstrap_interval(distinct, samples=20_000)
    for first, second in zip(one, two, strict=True):
        assert abs(first[0] - second[0]) < 4 * monte_carlo_error(repeated, 20_000, 20_000)


def test_the_interval_covers_the_true_mean():
    """Of 600 simulated comparisons on 100 items about 95 % have the true difference inside their interval."""
    chance = np.random.default_rng(11)
    truth, covered = 0.25 - 0.15, 0
    for seed in range(600):
        differences = chance.choice([1.0, -1.0, 0.0], 100, p=[0.25, 0.15, 0.60])
        low, high = bootstrap_interval(differences, samples=1000, seed=seed)
        covered += low[0] <= truth <= high[0]
    # Percentile intervals of 100 items run a little narrow; 3 binomial errors of 600 draws are 0.027.
    assert 0.945 - 0.027 <= covered / 600 <= 0.95 + 0.027


@pytest.mark.slow
@pytest.mark.parametrize(("items", "better", "worse"), [(100, 0.2, 0.12), (300, 0.15, 0.10)])
def test_intervals_cover_as_often_as_they_say(items: int, better: float, worse: float):
    """Of 2,000 simulated comparisons between 93 and 97 % have the true difference inside their 95 % interval."""
    chance, covered = np.random.default_rng(items), 0
    for seed in range(2000):
        differences = chance.choice([1.0, -1.0, 0.0], items, p=[better, worse, 1 - better - worse])
        low, high = bootstrap_interval(differences, samples=1000, seed=seed)
        covered += low[0] <= better - worse <= high[0]
    assert 0.93 <= covered / 2000 <= 0.97


def test_an_interval_of_another_level_is_nested():
    """A 50 % interval lies strictly inside the 95 % one, at about 0.674 standard errors from the mean."""
    low, high = bootstrap_interval(MANY, level=0.5)
    wide_low, wide_high = bootstrap_interval(MANY)
    assert wide_low < low < MANY.mean() < high < wide_high
    assert (high - low)[0] == pytest.approx(2 * 0.6745 * MANY.std() / math.sqrt(150), rel=0.05)


@pytest.mark.parametrize("differences", [FEW, MANY], ids=["few patterns", "all distinct"])
def test_a_seed_decides_the_interval(differences):
    """The same seed gives the same interval, another seed a slightly different one."""
    columns = np.column_stack([differences, np.random.default_rng(1).normal(size=150)])
    one, again, other = (bootstrap_interval(columns, seed=s) for s in (7, 7, 8))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("differences", [FEW, MANY], ids=["few patterns", "all distinct"])
def test_an_interval_does_not_depend_on_its_companions(differences):
    """A column compared alone and beside others has the same interval for the same seed."""
    alone = bootstrap_interval(differences, samples=2000)
    beside = bootstrap_interval(np.column_stack([differences[::-1] ** 2, differences]), samples=2000)
    assert (alone[0][0], alone[1][0]) == pytest.approx((beside[0][1], beside[1][1]), rel=1e-12)


def test_all_strategies_share_the_resamples():
    """Equal columns have equal intervals, a negated one the mirrored interval, a shifted one the shifted."""
    low, high = bootstrap_interval(np.column_stack([MANY, MANY, -MANY, MANY + 3]), samples=2000)
    assert (low[0], high[0]) == (low[1], high[1])
    assert (low[2], high[2]) == pytest.approx((-high[0], -low[0]))
    assert (low[3], high[3]) == pytest.approx((low[0] + 3, high[0] + 3))


def test_a_constant_difference_has_no_width():
    """Where every item differs by the same amount, so does every resample."""
    low, high = bootstrap_interval(np.full(25, 0.25))
    assert (low.tolist(), high.tolist()) == ([0.25], [0.25])


@pytest.mark.parametrize("differences", [np.array([]), np.array([0.5]), np.zeros((1, 3)), np.zeros((0, 3))])
def test_fewer_than_two_items_have_no_interval(differences):
    """One item, or none, is refused as `stats.items`."""
    with pytest.raises(LLMValidationError) as caught:
        bootstrap_interval(differences)
    assert caught.value.code == "stats.items"


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (-0.1, 0.2, "cannot tell"), (0.0, 0.2, "cannot tell"),
     (-0.2, 0.0, "cannot tell"), (math.nan, math.nan, "cannot tell")],
)  # fmt: skip
def test_a_verdict_needs_the_whole_interval_on_one_side(low, high, word):
    """An interval that touches 0, or is unknown, decides nothing."""
    assert verdict(low, high) == word


# --- tests and effects ----------------------------------------------------------------------------------


def paired(both, won, lost, neither):
    """0/1 scores of two sides with these counts."""
    ours = np.repeat([1.0, 1.0, 0.0, 0.0], [both, won, lost, neither])
    theirs = np.repeat([1.0, 0.0, 1.0, 0.0], [both, won, lost, neither])
    return ours, theirs


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(0, 300), st.integers(0, 300), st.integers(0, 5))
def test_mcnemar_is_the_exact_binomial_test_of_discordant_pairs(both, won, lost, neither):
    """The p-value is scipy's two-sided binomial test of won against lost, whatever the concordant pairs."""
    ours, theirs = paired(both, won, lost, neither)
    expected = binomtest(won, won + lost, 0.5).pvalue if won + lost else 1.0
    assert mcnemar(ours, theirs) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(theirs, ours) == mcnemar(ours, theirs)


def test_mcnemar_by_hand():
    """One win and seven losses: p = 2 * (C(8,0) + C(8,1)) / 2**8."""
    assert mcnemar(*paired(10, 1, 7, 10)) == pytest.approx(18 / 256)


@pytest.mark.parametrize("score", [0.5, 1 / 3, 2.0, math.nan])
def test_mcnemar_is_not_defined_for_other_scores(score):
    """A tie scored by expectation, a rating or an unknown score leaves no p-value."""
    ours, theirs = paired(3, 2, 1, 3)
    ours[0] = score
    assert mcnemar(ours, theirs) is None
    assert mcnemar(theirs, ours) is None


def test_the_detectable_effect_follows_its_formula():
    """2.80 standard errors: quantiles 0.975 and 0.80 of the normal distribution together."""
    differences = np.array([1.0, 0.0, 0.0, 0.0])  # variance (9 + 3) / 16 / 3 = 0.25, standard error 0.5 / 2
    z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.80)
    assert minimum_detectable_effect(differences) == pytest.approx(z * 0.25, rel=1e-4)
    assert math.isnan(minimum_detectable_effect(np.array([0.5])))


def test_the_detectable_effect_is_found_in_four_of_five_simulations():
    """Where the true difference is the detectable one, 80 % of the simulated comparisons notice it."""
    chance = np.random.default_rng(2)
    effect = minimum_detectable_effect(chance.normal(0, 1, 200_000)) * math.sqrt(200_000 / 200)
    samples = chance.normal(effect, 1, (4000, 200))
    noticed = np.abs(samples.mean(axis=1)) > 1.96 * samples.std(axis=1, ddof=1) / math.sqrt(200)
    assert noticed.mean() == pytest.approx(0.80, abs=0.025)  # 4 binomial errors of 4000 draws


# --- half splits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 10, 101])
def test_half_splits_are_balanced(n):
    """Each split chooses on n // 2 items, and each item is on either side about half of the time."""
    chosen = half_splits(n, splits=400, seed=3)
    assert chosen.shape == (400, n)
    assert (chosen.sum(axis=1) == n // 2).all()
    share = (n // 2) / n
    error = math.sqrt(share * (1 - share) / 400)
    assert (np.abs(chosen.mean(axis=0) - share) < 5 * error).all()


def test_half_splits_follow_from_their_seed():
    """The same seed gives the same splits, also when more of them are asked for."""
    assert np.array_equal(half_splits(20, seed=1), half_splits(20, splits=200, seed=1)[:100])
    assert not np.array_equal(half_splits(20, seed=1), half_splits(20, seed=2))


@pytest.mark.parametrize("n", [0, 1])
def test_half_splits_need_two_items(n):
    """Fewer than two items cannot be split: `stats.items`."""
    for call in (lambda: half_splits(n), lambda: split_differences(np.ones((n, 2)), lambda half: np.ones(n))):
        with pytest.raises(LLMValidationError) as caught:
            call()
        assert caught.value.code == "stats.items"


def test_a_planted_difference_is_found_on_every_split():
    """A strategy that beats a dominant model by 0.1 on each item has the difference 0.1 and no spread."""
    weak = np.random.default_rng(0).uniform(0, 0.5, 60)
    strong = weak + 0.2
    result = split_differences(np.column_stack([weak, strong]), lambda half: strong + 0.1)
    assert (result.delta, result.low, result.high) == pytest.approx((0.1, 0.1, 0.1))


def test_the_single_model_is_chosen_on_the_half_that_does_not_judge():
    """A strategy is shown the choosing half, and only its scores on the other half count."""
    singles = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    seen = []

    def strategy(choose):
        seen.append(choose.copy())
        return np.where(choose, np.nan, 0.5)

    result = split_differences(singles, strategy, splits=50, seed=9)
    assert np.array_equal(seen, half_splits(4, splits=50, seed=9))
    # By hand: choosing on items {0, 1} takes model 0, which scores 0 on {2, 3}: +0.5; the same for {2, 3}. One item
    # of each kind is a draw: model 0, the first, scores 1/2 on the other half: 0.
    expected = [0.5 if half[0] == half[1] else 0.0 for half in seen]
    assert result.delta == pytest.approx(np.mean(expected))
    assert (result.low, result.high) == pytest.approx(tuple(np.percentile(expected, [2.5, 97.5])))


def test_splits_remove_the_winners_curse():
    """Of 30 models that toss coins the best looks good where it was chosen; on the other half it is average."""
    singles = np.random.default_rng(4).integers(0, 2, (200, 30)).astype(float)
    average = singles.mean(axis=1)
    in_sample = average.mean() - singles.mean(axis=0).max()
    result = split_differences(singles, lambda half: average)
    assert in_sample < -0.05
    # 100 splits of one table are not independent: the error is that of one half, sqrt(0.25 / 100) = 0.05.
    assert abs(result.delta) < 0.05
    assert result.low < 0 < result.high


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(1.0, 48, 0.92590, 1.0), (0.0, 10, 0.0, 0.27753), (0.5, 4, 0.15004, 0.84996), (0.81, 263, 0.75826, 0.85282)],
)
def test_the_interval_of_a_share_is_wilsons(share, n, low, high):
    """By hand, with z2 = 3.84146: (p + z2/2n ± sqrt(z2 (p(1-p)/n + z2/4n2))) / (1 + z2/n)."""
    assert wilson_interval(share, n) == pytest.approx((low, high), abs=2e-5)


def test_the_interval_of_a_share_covers_it_as_often_as_it_says():
    """Of 20 trials at 0.9, where the simple interval covers 88 %; reckoned exactly over all outcomes."""
    held = [k for k in range(21) if (ends := wilson_interval(k / 20, 20))[0] <= 0.9 <= ends[1]]
    assert sum(math.comb(20, k) * 0.9**k * 0.1 ** (20 - k) for k in held) == pytest.approx(0.957, abs=0.01)


@pytest.mark.parametrize(("share", "n"), [(0.5, 0), (-0.1, 5), (1.1, 5), (float("nan"), 5)])
def test_what_is_no_share_is_refused(share, n):
    """With the number that was found."""
    with pytest.raises(LLMValidationError) as caught:
        wilson_interval(share, n)
    assert caught.value.code == "stats.items"


@pytest.mark.parametrize("seed", [-1, 1.5, None, "1", True, 2**64 + 1], ids=repr)
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    """None would draw anew each time, and nothing could be repeated."""
    for draw in (lambda: bootstrap_interval(np.ones(3), seed=seed), lambda: half_splits(4, seed=seed)):
        with pytest.raises(LLMValidationError) as caught:
            draw()
        assert caught.value.code == "stats.seed"


@pytest.mark.parametrize("samples", [0, -1, 2.5, None, 10**30], ids=repr)
def test_a_number_of_samples_that_is_none_is_refused(samples):
    """From 1 to a million."""
    with pytest.raises(LLMValidationError) as caught:
        bootstrap_interval(np.ones(3), samples=samples)
    assert caught.value.code == "stats.samples"


@pytest.mark.parametrize("splits", [0, 1, 2.0, None, 10**30], ids=repr)
def test_a_number_of_splits_that_is_none_is_refused(splits):
    """From 2 to a million."""
    with pytest.raises(LLMValidationError) as caught:
        check_splits(splits)
    assert caught.value.code == "stats.splits"


def test_holm_corrects_step_by_step():
    """By hand: the smallest times 5, the next times 4 and so on, none less than the one before, none above 1."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.6, 0.01, 0.01]) == pytest.approx([0.6, 0.03, 0.03])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]).tolist() == []


@pytest.mark.parametrize("p_values", [None, "x", {}, [None], [2.0], [-0.1], 0.5, [10**400]], ids=repr)
def test_what_are_no_p_values_is_refused(p_values):
    """Numbers in [0, 1], in a list."""
    with pytest.raises(LLMValidationError) as caught:
        holm(p_values)
    assert caught.value.code == "validation.p_values"
