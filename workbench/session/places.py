"""Where things lie: bundled suites, the default log folder, the recordings.

In a checkout everything is relative to the repository root, never to the working directory; installed as a
package, the user's folders are relative to the working directory and the bundled data are inside the package.
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def root() -> Path:
    """The repository root in a checkout, else the working directory."""
    above = PACKAGE.parent
    return above if (above / "pyproject.toml").is_file() and (above / "data" / "suites").is_dir() else Path.cwd()


def bundled(*parts: str) -> Path:
    """A bundled file or folder: `data/...` in a checkout, `workbench/_data/...` in an installed package."""
    inside = PACKAGE / "_data"
    return (inside if inside.is_dir() else PACKAGE.parent / "data").joinpath(*parts)


def notebooks() -> Path:
    """The folder of the notebooks that reports are made from."""
    inside = PACKAGE / "_notebooks"
    return inside if inside.is_dir() else PACKAGE.parent / "notebooks"


def default_log() -> Path:
    """WORKBENCH_LOG, or data/log."""
    return Path(os.environ.get("WORKBENCH_LOG") or root() / "data" / "log").expanduser()


def recordings() -> Path:
    """WORKBENCH_RECORDINGS, or data/recordings."""
    return Path(os.environ.get("WORKBENCH_RECORDINGS") or root() / "data" / "recordings")


def suites() -> dict[str, Path]:
    """The bundled suites by name."""
    return {path.stem: path for path in sorted(bundled("suites").glob("*.jsonl"))}
