"""Scores of sacrebleu and rouge-score; run in their environment, with [hypothesis, references] pairs as JSON."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Print, for every pair, the scores by the names of our metrics, in [0, 1]."""
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    names = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scorer = RougeScorer(list(names.values()), use_stemmer=False)
    scores = []
    for hypothesis, references in json.load(sys.stdin):
        rouge = scorer.score_multi(references, hypothesis)
        found = {name: rouge[theirs].fmeasure for name, theirs in names.items()}
        found["chrf"] = sacrebleu.sentence_chrf(hypothesis, references).score / 100
        found["bleu"] = sacrebleu.sentence_bleu(hypothesis, references).score / 100
        scores.append(found)
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
