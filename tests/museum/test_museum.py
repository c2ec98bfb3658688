"""The bug museum: every exhibit, put back in, makes the test that is named beside it fail."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
from exhibits import EXHIBITS, ORACLE, Exhibit

ROOT = Path(__file__).parents[2]
# The suite runs itself, in this process: a new one would spend seconds on importing torch for each exhibit.
OPTIONS = ["-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:xdist", "--capture=no", "-o", "addopts="]


class Visit:
    """A plugin that has a bug active in everything that a test does, its fixtures too, and keeps what came of it."""

    def __init__(self, exhibit: Exhibit) -> None:
        self.exhibit = exhibit
        self.ran: list[str] = []
        self.failures: list[tuple[str, type[BaseException], str]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.ran.append(item.nodeid)
        with self.exhibit.patch():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        if call.excinfo is not None:
            self.failures.append((call.when, call.excinfo.type, str(call.excinfo.value)))
        return (yield)


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda e: e.name.replace(" ", "-"))
def test_is_caught(exhibit: Exhibit, monkeypatch: pytest.MonkeyPatch) -> None:
    if exhibit.caught_by.startswith(ORACLE):
        pytest.importorskip("transformers", reason="transformers is the oracle here")
    monkeypatch.chdir(ROOT)
    visit = Visit(exhibit)
    status = pytest.main([*OPTIONS, exhibit.caught_by], plugins=[visit])
    assert visit.ran == [exhibit.caught_by], f"{exhibit.caught_by} is no test"
    assert status == pytest.ExitCode.TESTS_FAILED, f"{exhibit.caught_by} does not notice: {exhibit.what}"
    assert [when for when, _, _ in visit.failures] == ["call"], visit.failures
    # Anything else than an assertion would be the patch's own mistake, and prove nothing.
    assert visit.failures[0][1] is AssertionError, visit.failures


def test_is_a_museum() -> None:
    names = collections.Counter(e.name for e in EXHIBITS)
    assert len(names) == len(EXHIBITS) >= 24
    assert all(e.source and e.what.endswith(".") for e in EXHIBITS)
