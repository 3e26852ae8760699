"""Values are what they were: every case gives what is recorded, up to rounding.

``tests/values/record.py`` says how they were recorded, ``tests/values/cases.py`` what they are of.
"""

import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import relreps
from tests.values import cases
from tests.values.cases import CASES, NO_CASE
from tests.values.record import differences, encoded, load

RECORDED = load()


def compared(name):
    """What a case gives differently from its recording."""
    case = CASES[name]
    return differences(RECORDED[name], encoded(case.run()), case.tight, case.slack)


def public_names():
    """Names of the package; with their home, where several modules mean different things by one."""
    found = {}
    for info in pkgutil.walk_packages(relreps.__path__, "relreps."):
        if any(part.startswith("_") for part in info.name.split(".")):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            found.setdefault(name, {}).setdefault(id(getattr(module, name)), info.name)
    for name in relreps.__all__:
        if not inspect.ismodule(getattr(relreps, name)):
            found.setdefault(name, {}).setdefault(id(getattr(relreps, name)), "relreps")
    for name, homes in found.items():
        yield from (
            [name]
            if len(homes) == 1
            else (f"{home.rpartition('.')[2]}.{name}" for home in homes.values())
        )


@pytest.mark.parametrize("name", CASES)
def test_value(name):
    assert not (lines := compared(name)), "\n".join(lines)


def test_cases_and_recording_agree():
    assert set(RECORDED) == set(CASES)


def test_every_public_name_has_a_case():
    covered = {name for case in CASES.values() for name in case.names}
    assert not covered & set(NO_CASE)
    assert set(public_names()) - covered == set(NO_CASE)


def test_a_changed_value_fails(monkeypatch):
    name = "relative_projection[similarity=cosine,dtype=float32]"
    assert not compared(name)
    find = cases.find
    monkeypatch.setattr(cases, "find", lambda name: lambda *inputs: 1.001 * find(name)(*inputs))
    assert compared(name)


def test_every_result_is_looked_at():
    for name, recorded in RECORDED.items():
        tight, slack = CASES[name].tight, CASES[name].slack
        for entry, (kind, shape, content) in recorded.items():
            others = [kind, [*shape, 1], content], [kind, shape, _changed(content)]
            for other in others if len(content) else others[:1]:
                assert differences({entry: recorded[entry]}, {entry: other}, tight, slack), name
        assert differences(recorded, {}, tight, slack)


def _changed(content):
    if isinstance(content, str):
        return content + "x"
    new = content.copy()
    if len(new):
        size = np.abs(new[np.isfinite(new)]).max(initial=0)
        new[-1] = not new[-1] if new.dtype == bool else np.nan_to_num(new[-1]) + size / 10 + 1
    return new
