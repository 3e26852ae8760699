"""A fit that is interrupted, wherever it is, leaves no state that is half of one fit."""

import contextlib
import sys
import warnings

import pytest
import torch

from relreps import (
    AffineTranslator,
    GeneralizedProcrustes,
    InverseRelativeTranslator,
    ProcrustesTranslator,
    RefinedProcrustesTranslator,
)
from relreps.translate import WhitenedTranslator
from tests._data import normal, orthogonal

SEEDS = torch.arange(20), torch.arange(20)
WHERE = ("relreps/translate", "relreps/projection", "relreps/normalization")

FITS = {
    "procrustes": (lambda: ProcrustesTranslator(4, 4), lambda t, x, y: t.fit(x, y)),
    "affine": (lambda: AffineTranslator(4, 4, rescale=True), lambda t, x, y: t.fit(x, y)),
    "whitened": (lambda: WhitenedTranslator(4, 4), lambda t, x, y: t.fit(x, y)),
    "relative": (
        lambda: InverseRelativeTranslator(4, 4, 40, rescale="source"),
        lambda t, x, y: t.fit(x, y),
    ),
    "refined": (lambda: RefinedProcrustesTranslator(4, 4), lambda t, x, y: t.fit(x, y, SEEDS)),
    "generalized": (lambda: GeneralizedProcrustes([4, 4], 4), lambda t, x, y: t.fit([x, y])),
}


def moved(t, x):
    return t(x, 0, 1) if isinstance(t, GeneralizedProcrustes) else t(x)


def interrupted_at(step, call):
    """Run ``call``, interrupted at the ``step``-th line of the package; whether it was."""
    count = 0

    def local(frame, event, _):
        nonlocal count
        if event == "line":
            count += 1
            if count == step:
                raise KeyboardInterrupt
        return local

    def trace(frame, _event, _):
        return local if any(part in frame.f_code.co_filename for part in WHERE) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize(("make", "fit"), FITS.values(), ids=FITS)
def test_an_interrupted_fit_is_the_old_one_the_new_one_or_none(make, fit):
    old, new, test = (
        [(s := normal(40, 4)), s @ orthogonal(4) + normal(4)],
        [3 * (s := normal(40, 4)) + 1, s @ orthogonal(4)],
        normal(5, 4),
    )
    wanted = [moved(fit(make().double(), *pairs), test) for pairs in (old, new)]
    lines = []

    def note(frame, event, _):
        if any(part in frame.f_code.co_filename for part in WHERE):
            lines.append(1)
            return note
        return None

    t = fit(make().double(), *old)
    sys.settrace(note)
    fit(t, *new)
    sys.settrace(None)
    total = len(lines)
    # Writing is at the end; before it any line will do.
    for step in (*range(5, total - 80, max(1, total // 20)), *range(max(1, total - 80), total + 1)):
        t = fit(make().double(), *old)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not interrupted_at(step, lambda t=t: fit(t, *new)):
                break
        found = None
        with contextlib.suppress(RuntimeError):  # it says that it has no state yet
            found = moved(t, test)
        assert found is None or any(torch.allclose(found, w) for w in wanted), step
