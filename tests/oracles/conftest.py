"""Reference implementations run where the peers run: on request alone."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; without `-m peers` they install nothing and are skipped."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("peers")
            if "peers" not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason="run with `dev.py test --peers`"))
