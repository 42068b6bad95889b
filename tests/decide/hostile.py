"""Texts that no one writes, of any length, and a check that time grows as they do."""

from __future__ import annotations

import time
from collections.abc import Callable

HOSTILE: dict[str, Callable[[int], str]] = {
    "one letter": lambda n: "a" * n,
    "nested brackets": lambda n: "[" * (n // 2) + "]" * (n // 2),
    "open braces": lambda n: "{a" * (n // 2),
    "quotes": lambda n: '"' * n,
    "single quotes": lambda n: " 'a" * (n // 3),
    "open quotations": lambda n: "“a" * (n // 2),
    "backticks": lambda n: "`" * n,
    "ticks of every length": lambda n: " ".join("`" * (i % 1400 + 1) for i in range(n // 700)),
    "fences": lambda n: "```\n" * (n // 4),
    "emoji": lambda n: "😀" * n,
    "newlines": lambda n: "\n" * n,
    "spaces": lambda n: " " * n,
    "indented": lambda n: "\t\n" * (n // 2),
    "apostrophes": lambda n: "a'" * (n // 2),
    "points": lambda n: "a." * (n // 2),
    "numbers": lambda n: "1." * (n // 2),
    "latin-1": lambda n: bytes((i * 7919 + i // 255) % 256 for i in range(n)).decode("latin-1"),
    "surrogates": lambda n: "\ud800" * n,
}


def grows_linearly(function: Callable[[str], object], make: Callable[[int], str], n: int = 40_000) -> bool:
    """Whether twice the text takes less than four times the time: best of three, twice if need be."""

    def best(text: str) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            function(text)
            times.append(time.process_time() - start)
        return min(times)

    return any(best(make(2 * n)) < 4 * best(make(n)) + 2e-3 for _ in range(2))
