"""Random inputs for every public name keep what is promised; and the search can find."""

import json
from pathlib import Path

import pytest
import torch

from relreps._core.checks import check_finite
from tests.fuzz import __main__ as command
from tests.fuzz import fits, maps, sets  # noqa: F401
from tests.fuzz.checks import Broken, shrunk, tried
from tests.fuzz.subject import NO_SUBJECT, SUBJECTS, Subject, of_module
from tests.values.cases import find
from tests.values.test_values import public_names

#: Draws of each name in the tests; `make fuzz` makes as many as its time allows.
DRAWS = 6


def test_every_public_name_is_drawn_or_says_why_not():
    assert not SUBJECTS.keys() & NO_SUBJECT.keys()
    assert set(public_names()) <= SUBJECTS.keys() | NO_SUBJECT.keys()
    assert all(find(name) is not None for name in SUBJECTS.keys() | NO_SUBJECT.keys())


@pytest.mark.parametrize("name", sorted(SUBJECTS))
def test_promises(name):
    broken = [outcome for n in range(DRAWS) if (outcome := tried(name, n)).broken]
    assert not broken, "\n".join(map(command.report, broken))


# What breaks a promise is found.


class Forgets(torch.nn.Module):
    """Writes before it looks, and keeps what it has learned out of its state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.seen = 0.0

    def fit(self, x):
        self.mean.copy_(x.nan_to_num().mean(0))
        self.seen = float(x.nan_to_num().sum())
        check_finite("x", x)
        return self


#: Check -> a subject that breaks it, from rows.
BROKEN = {
    "errors are documented": lambda x: Subject(lambda x: x.max(0).values + x[5], (x,)),
    "warnings are ours": lambda x: Subject(lambda x: torch.tensor(x.sum()), (x,)),
    "inputs are left alone": lambda x: Subject(lambda x: x.add_(1), (x,)),
    "shape": lambda x: Subject(lambda x: x + 1, (x,), shape=(1,)),
    "range": lambda x: Subject(lambda x: x.sum() * 0 - 1, (x,), low=0.0),
    "type": lambda x: Subject(lambda x: x.double(), (x,), kind="map"),
    "NaN comes out where it goes in": lambda x: Subject(lambda x: x.nan_to_num().sum(), (x,)),
    "float64 is the right answer": lambda x: Subject(
        lambda x: (x + 2048).to(torch.promote_types(x.dtype, torch.float32)) - 2048 + x, (x,)
    ),
    "order of rows": lambda x: Subject(lambda x: x[:1].sum(), (x,), unordered=(0,), exact=False),
    "rows are independent": lambda x: Subject(
        lambda x: x - x.sum(0, keepdim=True), (x,), kind="map", exact=False
    ),
    "leading axes": lambda x: Subject(lambda x: x.flatten(0, -2), (x,), kind="map", exact=False),
    "the same twice": lambda x, seen=[]: Subject(
        lambda x: (seen.append(0), x.sum() + len(seen))[1], (x,), exact=False
    ),
    "gradient": lambda x: Subject(
        lambda x: (x - x.detach()).abs().pow(0.5).sum(), (x,), differentiable=True
    ),
    "state": lambda x: of_module(
        lambda dtype: Forgets(),
        lambda module, x: module.fit(x),
        lambda module, x: x.sum() + module.seen,
        (x,),
        exact=False,
    ),
    "a failed call changes nothing": lambda x: of_module(
        lambda dtype: Forgets().to(dtype),
        lambda module, x: module.fit(x),
        lambda module, x: x.sum(),
        (x,),
        exact=False,
    ),
    "under default dtype": lambda x: Subject(lambda x: torch.ones(()) + x.sum() * 0, (x,)),
    "under default device": lambda x: Subject(lambda x: torch.ones(3) * 0, (x,), exact=False),
    "under inference": lambda x: Subject(
        lambda x: x.sum() if torch.is_grad_enabled() else x.sum() + 1, (x,), exact=False
    ),
}


@pytest.mark.parametrize("check", BROKEN)
def test_what_breaks_a_promise_is_found(check, monkeypatch):
    rows = lambda d, name: BROKEN[check](d.rows(d.number_of_rows(6), 3, d.dtype()))  # noqa: E731
    monkeypatch.setitem(SUBJECTS, "wrong", rows)
    found = [outcome for n in range(400) if (outcome := tried("wrong", n)).broken]
    of_kind = [outcome for outcome in found if outcome.broken.check == check]
    assert of_kind
    small, _ = shrunk(of_kind[0])
    assert small.broken.check == check
    assert len(small.awkward) <= len(of_kind[0].awkward)


def test_what_keeps_its_promises_is_not_accused(monkeypatch):
    def summed(d, name):
        x = d.rows(d.number_of_rows(6), 3, d.dtype())

        def call(x):
            check_finite("x", x)
            return x.double().sum().to(x.dtype) if x.dtype.itemsize > 2 else x.double().sum()

        return Subject(call, (x,), shape=(), unordered=(0,), differentiable=True)

    monkeypatch.setitem(SUBJECTS, "right", summed)
    assert not [n for n in range(200) if tried("right", n).broken]


def test_a_finding_is_repeated_by_the_command_it_prints(monkeypatch, capsys):
    monkeypatch.setitem(SUBJECTS, "wrong", lambda d, name: BROKEN["shape"](d.rows(3, 3, d.dtype())))
    outcome = next(o for n in range(50) if (o := tried("wrong", n)).broken)
    said = command.report(outcome)
    line = said.splitlines()[-1].split("python -m tests.fuzz ")[1]
    arguments = [part.strip("'") for part in line.replace(",", " ").split()]
    monkeypatch.setattr("sys.argv", ["fuzz", *arguments[:2]])
    assert command.main() == 1
    assert "shape" in capsys.readouterr().out


def test_the_count_of_a_run(monkeypatch):
    monkeypatch.setitem(SUBJECTS, "wrong", lambda d, name: BROKEN["shape"](d.rows(3, 3, d.dtype())))
    counts, findings = command.run(["wrong"], range(5), say=lambda *a, **k: None)
    assert counts["wrong"]["tried"] == 5
    assert len(findings) == min(counts["wrong"]["broken"], 3)
    assert isinstance(Broken("shape", ""), AssertionError)


def test_what_is_recorded_is_of_public_names():
    # The results are in the repository alone, not in what is released.
    paths = (Path(__file__).parents[2] / "results").glob("robustness.json")
    for kept in (json.loads(path.read_text(encoding="utf-8")) for path in paths):
        assert set(kept["names"]) <= set(SUBJECTS)
        assert all(count["tried"] >= 10 for count in kept["names"].values())
