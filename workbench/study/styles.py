"""What asking otherwise gains: the prompt styles of one model on the same items, paired, against its base style.

A style is how a recording asked (`direct`, `cot`, `concise` ...), or the strategy that a run's prompts were rewritten
with. Every difference is per item, style minus base, and every table says how often it looked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workbench.decide.evidence import UNCHANGED
from workbench.decide.weights import closest
from workbench.errors import LLMValidationError
from workbench.study.found import Found, Rows, check_given, estimates, found_in, sign_flip
from workbench.study.stats import SAMPLES, SPLITS, Verdict, check_splits, half_splits, holm, mcnemar
from workbench.study.table import Floats, RunTable
from workbench.study.timings import Estimate

RULES = ("best style", "best style of each group", "base unless sure")
BASES = (UNCHANGED, "default", "direct")  # what a style is compared with, where nothing else is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Styled:
    """One model in its base style and in others, on the items that were scored in all of them.

    name: of the model. base: its base style. scores: style -> n scores, the base first. rows: n places in the table.
    """

    name: str
    base: str
    scores: Mapping[str, Floats]
    rows: Rows

    @property
    def styles(self) -> tuple[str, ...]:
        """The styles but the base."""
        return tuple(style for style in self.scores if style != self.base)


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleGain:
    """A style of a model on some items.

    group: the category, or "all". base_score, score: means. gain: their difference. p_value: of McNemar's exact test
    for 0/1 scores, else of the sign-flip test. p_holm: over the groups of the same model and style, or all rows of
    "all". verdict: by p_holm at 5 %.
    """

    model: str
    task: str
    style: str
    base: str
    group: str
    items: int
    base_score: float
    score: float
    gain: Estimate
    test: Literal["mcnemar", "sign_flip"]
    p_value: float
    p_holm: float
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenGain:
    """A rule that chooses a style on one half of the items, judged on the other half.

    rule: of RULES: `best style`, one for all items; `best style of each group`; `base unless sure`: the base, unless
    the 95 % interval of the gain on the choosing half lies above 0. gain: chosen minus base on the judging half, mean
    and 2.5 / 97.5 percentiles over random half splits. chosen: share of the items that each style was chosen for.
    """

    model: str
    rule: str
    gain: Estimate
    chosen: tuple[tuple[str, float], ...]


def has_styles(table: RunTable) -> bool:
    """Whether a model of the run was asked in several styles."""
    return any(len(styles) > 1 for styles in _places(table).values())


def _places(table: RunTable) -> dict[str, dict[str, int]]:
    """Model -> style -> its column in the table."""
    places: dict[str, dict[str, int]] = {}
    for member in table.spec.get("members", ()):
        if member["name"] in table.models:
            model = str(member.get("recorded_as") or member["model"])
            places.setdefault(model, {})[str(member.get("style") or "default")] = table.models.index(member["name"])
    return places


def styled(table: RunTable, base: str | None = None) -> tuple[Styled, ...]:
    """The models of a run that were asked in several styles.

    base: the style to compare with; None: `unchanged`, `default` or `direct`, whichever a model has, else its first.
    Raises LLMValidationError validation.styles where no model has two styles, or none has that base; data.no_scores,
    data.no_answers.
    """
    check_given(table)
    several = {model: styles for model, styles in _places(table).items() if len(styles) > 1}
    known = sorted({style for styles in several.values() for style in styles})
    if not several or (base is not None and base not in known):
        hint = closest(str(base), known) if base is not None else None
        raise LLMValidationError(
            f"run {table.run_id} has no model in several prompt styles"
            if not several
            else f"no model of run {table.run_id} has the style {base!r:.60}, only {', '.join(known)}",
            code="validation.styles",
            next_step=f"did you mean {hint!r}?"
            if hint
            else "run a recording with styles, or wb.run(..., rewrites=[...])",
        )
    found = []
    for model, styles in several.items():
        first = base if base is not None else next((b for b in BASES if b in styles), next(iter(styles)))
        if first not in styles:
            continue
        scores = table.scores[:, list(styles.values())]
        rows = np.flatnonzero(~np.isnan(scores).any(axis=1))
        if len(rows) < 2:
            raise LLMValidationError(
                f"{model} has {len(rows)} of {len(scores)} items with a score in each of {', '.join(styles)}",
                code="data.no_scores",
                next_step="compare styles that were scored on the same items: run with models=[MODEL/STYLE, ...]",
            )
        _check_answered(table, model, styles)
        order = [first, *(style for style in styles if style != first)]
        held = {style: scores[rows, list(styles).index(style)] for style in order}
        found.append(Styled(name=model, base=first, scores=held, rows=rows))
    return tuple(found)


def _check_answered(table: RunTable, model: str, styles: Mapping[str, int]) -> None:
    """Refuse a model that never answered in one of its styles: a dead server is no result."""
    for style, column in styles.items():
        codes = [code for (_, j), code in table.failures.items() if j == column]
        if codes and len(codes) == len(table.item_ids):
            raise LLMValidationError(
                f"{model} in style {style} answered none of {len(codes)} items: {', '.join(sorted(set(codes)))[:80]}",
                code="data.no_answers",
                next_step="see `select * from errors`, then run it again, or without that model",
            )


def style_gains(table: RunTable, base: str | None = None, *, samples: int = SAMPLES, seed: int = 0) -> Found[StyleGain]:
    """Every style of every model against its base: on all items, and group by group where there are several groups.

    Raises LLMValidationError validation.styles, data.no_scores, data.no_answers.
    """
    models = styled(table, base)
    pairs = [(model, style) for model in models for style in model.styles]
    made = _corrected([_gain(table, m, style, "all", np.arange(len(m.rows)), samples, seed) for m, style in pairs])
    for model, style in pairs:
        groups = _groups(table, model)
        if len(groups) > 1:
            made += _corrected([_gain(table, model, style, g, at, samples, seed) for g, at in groups.items()])
    return found_in(table, _counted(models), made, samples=samples, seed=seed, **_left_out(table, models))


def _left_out(table: RunTable, models: Sequence[Styled]) -> dict[str, str]:
    """The models in several styles, but not in the base that was asked for."""
    several = {model for model, styles in _places(table).items() if len(styles) > 1}
    missing = sorted(several - {model.name for model in models})
    return {"without_base": ", ".join(missing)} if missing else {}


def _counted(models: Sequence[Styled]) -> Rows:
    """The items that were counted for any model."""
    return np.unique(np.concatenate([model.rows for model in models]))


def _groups(table: RunTable, model: Styled) -> dict[str, Rows]:
    names = np.array([table.groups[i] if table.groups else "" for i in model.rows], dtype=object)
    return {str(name): np.flatnonzero(names == name) for name in sorted(set(names))}


def _gain(
    table: RunTable, model: Styled, style: str, group: str, at: Rows,
    samples: int, seed: int,
) -> StyleGain:  # fmt: skip
    ours, theirs = model.scores[style][at], model.scores[model.base][at]
    exact = mcnemar(ours, theirs)
    p = exact if exact is not None else float(sign_flip((ours - theirs)[:, None], samples=samples, seed=seed)[0])
    tasks = sorted({table.tasks[i] for i in model.rows[at]})
    return StyleGain(
        model=model.name,
        task="+".join(tasks),
        style=style,
        base=model.base,
        group=group,
        items=len(at),
        base_score=float(theirs.mean()),
        score=float(ours.mean()),
        gain=estimates((ours - theirs)[:, None], samples=samples, seed=seed)[0],
        test="sign_flip" if exact is None else "mcnemar",
        p_value=p,
        p_holm=p,
        verdict="cannot tell",
    )


def _corrected(rows: Sequence[StyleGain]) -> list[StyleGain]:
    """The rows as one family of tests."""
    adjusted = holm([row.p_value for row in rows]).tolist()
    return [replace(row, p_holm=p, verdict=_verdict(row.gain.value, p)) for row, p in zip(rows, adjusted, strict=True)]


def _verdict(gain: float, p: float) -> Verdict:
    if p > 0.05 or gain == 0:
        return "cannot tell"
    return "better" if gain > 0 else "worse"


def chosen_gains(table: RunTable, base: str | None = None, *, splits: int = SPLITS, seed: int = 0) -> Found[ChosenGain]:
    """What is left of the gain where the style is chosen on one half of the items and judged on the other.

    Raises LLMValidationError validation.styles, data.no_scores, stats.splits.
    """
    check_splits(splits)
    made = []
    models = styled(table, base)
    for model in models:
        scores = np.column_stack(list(model.scores.values()))
        names = np.array([table.groups[i] if table.groups else "" for i in model.rows], dtype=object)
        groups = np.unique(names.astype(str), return_inverse=True)[1]
        rules = [rule for rule in RULES if rule != "best style of each group" or groups.max() > 0]
        made += [_over_splits(model, scores, groups, rule, splits, seed) for rule in rules]
    return found_in(table, _counted(models), made, samples=splits, seed=seed)


def _over_splits(model: Styled, scores: Floats, groups: Rows, rule: str, splits: int, seed: int) -> ChosenGain:
    styles = list(model.scores)
    gains, used = np.empty(splits), np.zeros(len(styles))
    for k, choose in enumerate(half_splits(len(scores), splits=splits, seed=seed)):
        picked = _picked(scores, groups, choose, rule)[~choose]
        judged = scores[~choose]
        gains[k] = (judged[np.arange(len(judged)), picked] - judged[:, 0]).mean()
        used += np.bincount(picked, minlength=len(styles)) / len(judged) / splits
    low, high = np.percentile(gains, [2.5, 97.5])
    return ChosenGain(
        model=model.name,
        rule=rule,
        gain=Estimate(value=float(gains.mean()), low=float(low), high=float(high)),
        chosen=tuple((style, float(share)) for style, share in zip(styles, used, strict=True)),
    )


def _picked(
    scores: Floats, groups: Rows, choose: NDArray[np.bool_],
    rule: str,
) -> Rows:  # fmt: skip
    """The style of every item by what the choosing half says; the base where it says nothing."""
    if rule == "best style of each group":
        picked = np.zeros(len(scores), dtype=np.intp)
        for g in np.unique(groups):
            at = choose & (groups == g)
            picked[groups == g] = int(scores[at].mean(axis=0).argmax()) if at.any() else 0
        return picked
    half = scores[choose]
    if rule == "base unless sure":
        if len(half) < 2:
            return np.zeros(len(scores), dtype=np.intp)
        differences = half - half[:, :1]
        sure = differences.mean(axis=0) - 1.96 * differences.std(axis=0, ddof=1) / np.sqrt(len(half))
        return np.full(len(scores), int(sure.argmax()) if sure.max() > 0 else 0, dtype=np.intp)
    return np.full(len(scores), int(half.mean(axis=0).argmax()), dtype=np.intp)
