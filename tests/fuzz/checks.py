"""What is promised of a call with any input, and whether one draw keeps it."""

import contextlib
import copy
import linecache
import math
import pickle
import re
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch

import relreps
from tests.fuzz.draws import Draw
from tests.fuzz.subject import SUBJECTS, Subject

PACKAGE = str(Path(relreps.__file__).parent)
EXPECTED = (relreps.NumericalWarning, relreps.PerformanceWarning)


class Broken(AssertionError):  # noqa: N818 -- a promise is broken
    """A promise that a draw breaks; ``check`` names it."""

    def __init__(self, check, text):
        super().__init__(f"{check}: {text}")
        self.check = check


@dataclass
class Answer:
    """What a call gave: tensors or an error, and the warnings before."""

    leaves: list | None = None
    error: Exception | None = None
    warned: list = field(default_factory=list)

    @property
    def numerical(self):
        return any(issubclass(w.category, relreps.NumericalWarning) for w in self.warned)

    def said(self):
        if self.error is None:
            return "an answer"
        return f"{type(self.error).__name__}: {str(self.error)[:160]!r}"


@dataclass
class Outcome:
    """What became of a draw, to be counted."""

    name: str
    number: int
    awkward: list
    refused: bool = False
    warned: bool = False
    nan_in: bool = False
    broken: Broken | None = None


def tried(name, number, without=()):
    """Make one draw and check it."""
    draw = Draw(name, number, without)
    subject = SUBJECTS[name](draw, name)
    outcome = Outcome(name, number, draw.awkward)
    state = torch.random.get_rng_state()
    try:
        _check(draw, subject, outcome)
    except Broken as broken:
        outcome.broken = broken
    except Exception as error:  # of a call whose result another check looks at
        outcome.broken = Broken("no other call fails", f"{type(error).__name__}: {error}")
        outcome.broken.__cause__ = error
    finally:
        torch.random.set_rng_state(state)
    return outcome


def shrunk(outcome):
    """The same finding with as little wrong as it takes, and what was left out."""
    without = []
    for what in ("context", "few rows", "type", *dict.fromkeys(outcome.awkward)):
        again = tried(outcome.name, outcome.number, [*without, what])
        if again.broken and again.broken.check == outcome.broken.check:
            without.append(what)
            outcome = again
    return outcome, without


# One draw.


def _check(draw, subject: Subject, outcome):
    chosen = draw.random.sample(
        ["layout", "order", "rows", "axes", "state", "atomic", "gradient", "again"], 3
    )
    context = draw.context()
    finite = all(bool(x.isfinite().all()) for x in subject.inputs)
    outcome.nan_in = any(bool(x.isnan().any()) for x in subject.inputs)
    before = [x.clone() for x in subject.inputs]
    base = answered(subject.call, subject.inputs)
    outcome.refused, outcome.warned = base.error is not None, bool(base.warned)
    for x, old in zip(subject.inputs, before, strict=True):
        if not torch.equal(x.nan_to_num(), old.nan_to_num()):
            raise Broken("inputs are left alone", "an input has changed")
    if base.error is None:
        _check_results(draw, subject, base, finite)
    if base.error and subject.make and not _makes(subject):
        return  # these options are refused, whatever the rows
    if "atomic" in chosen and subject.make and not subject.steps:
        _check_atomic(draw, subject, base)
    if context:
        _check_context(subject, base, context)
    if base.error is not None:
        return
    error = _Error(draw, subject, base) if finite else None
    holds_halves = subject.parameters and subject.inputs[0].dtype.itemsize < 4
    if error and subject.exact and not holds_halves:
        error.check("float64 is the right answer", base, error.reference)
    for check in chosen:
        if check in CHECKS and (finite or check == "layout"):
            CHECKS[check](draw, subject, base, error)


def _makes(subject):
    try:
        subject.make(subject.inputs[0].dtype)
    except (TypeError, ValueError):
        return False
    return True


def answered(call, inputs, context=contextlib.nullcontext):
    """What a call gives; an error or a warning that says nothing breaks a promise."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        warnings.filterwarnings("ignore", message="invalid escape", category=DeprecationWarning)
        torch.default_generator.manual_seed(0)
        try:
            with context():
                found = list(leaves(call(*inputs)))
        except Exception as error:  # any, to be judged
            _check_error(error)
            return Answer(error=error, warned=warned)
        for warning in warned:
            if not issubclass(warning.category, EXPECTED):
                raise Broken("warnings are ours", f"{warning.category.__name__}: {warning.message}")
        return Answer(found, None, warned)


def leaves(found):
    """The tensors of a result; numbers as tensors, texts left out."""
    if isinstance(found, torch.Tensor):
        yield (found.to_dense() if found.layout != torch.strided else found).detach()
    elif isinstance(found, bool | int | float):
        yield torch.tensor(found, dtype=torch.float64, device="cpu")
    elif isinstance(found, tuple | list):
        for part in found:
            yield from leaves(part)
    elif isinstance(found, dict):
        for part in found.values():
            yield from leaves(part)


def _check_error(error):
    """An error is raised by the package itself, and names what it is about."""
    if isinstance(error, Broken):
        raise error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(frame.filename, frame.lineno).strip()
    said = f"{type(error).__name__}: {str(error)[:200]!r} at {Path(frame.filename).name}: {line}"
    ours = frame.filename.startswith(PACKAGE) and line.startswith(("raise ", "check", "_"))
    text = str(error)
    named = re.match(r"`\w|[A-Z]\w* (has|can|needs|must|is|was)|[A-Z]\w+\.", text) or "`" in text
    if type(error) not in (ValueError, TypeError, RuntimeError, NotImplementedError):
        raise Broken("errors are documented", said) from error
    if not ours or not named:
        raise Broken("errors are documented", said) from error


# What is looked at in every answer.


def _check_results(draw, subject, base, finite):
    first = base.leaves[0] if base.leaves else None
    if subject.shape is not None and (first is None or tuple(first.shape) != subject.shape):
        got = None if first is None else tuple(first.shape)
        raise Broken("shape", f"{got}, not {subject.shape}")
    has_nan = bool(subject.inputs[0].isnan().any())
    if has_nan and subject.nan and subject.kind == "map":
        rows = subject.inputs[0].isnan().flatten(1).any(1).nonzero().flatten()
        for row in rows:
            if first[row].numel() and bool(first[row].isfinite().all()):
                raise Broken("NaN comes out where it goes in", f"row {int(row)} is {first[row]}")
    elif has_nan and subject.nan:
        floats = [leaf for leaf in base.leaves if leaf.is_floating_point() and leaf.numel()]
        if all(bool(leaf.isfinite().all()) for leaf in floats):
            raise Broken("NaN comes out where it goes in", f"got {floats[:1]}")
    if subject.kind in ("map", "fit") and not subject.parameters and first.is_floating_point():
        wanted = subject.inputs[0].dtype
        if first.dtype != wanted:
            raise Broken("type", f"{first.dtype} from {wanted}")
    for leaf in base.leaves:
        if not leaf.is_floating_point() or not finite:
            continue
        slack = 100 * torch.finfo(leaf.dtype).eps
        for bound, outside in ((subject.low, torch.lt), (subject.high, torch.gt)):
            if bound is None or not math.isfinite(bound):
                continue
            limit = bound - slack if outside is torch.lt else bound + slack
            if bool(outside(leaf, limit).any()):
                raise Broken("range", f"{leaf.flatten()[:3]} beyond {bound}")


class _Error:
    """How far the answer of a type may be from that of float64: what rounding the input does."""

    def __init__(self, draw, subject, base):
        self.subject = subject
        self.wide = tuple(x.double() for x in subject.inputs)
        self.reference = answered(subject.call, self.wide)
        self.allowed, self.excused = None, base.numerical or self.reference.numerical
        if self.reference.error is not None or self.excused:
            self.excused = True
            return
        eps = max(torch.finfo(x.dtype).eps for x in subject.inputs)
        moved = []
        for _ in range(2):
            noise = (
                eps * x.abs().amax(-1, keepdim=True) * draw.normal(*x.shape) if x.numel() else 0
                for x in self.wide
            )
            shifted = [x + n for x, n in zip(self.wide, noise, strict=True)]
            moved.append(answered(subject.call, shifted))
        if any(m.error is not None or m.numerical for m in moved):
            self.excused = True
            return
        self.allowed = [self._of(i, eps, moved) for i in range(len(self.reference.leaves))]

    def _of(self, i, eps, moved):
        exact = self.reference.leaves[i]
        changed = torch.zeros_like(exact, dtype=torch.float64)
        for answer in moved:
            if i < len(answer.leaves) and answer.leaves[i].shape == exact.shape:
                changed = changed.maximum((answer.leaves[i].double() - exact.double()).abs())
            else:
                changed = changed + math.inf
        size = exact.double().abs()
        if exact.dim() and exact.numel():
            changed = changed.amax(-1, keepdim=True).expand_as(exact)
            size = size.amax(-1, keepdim=True).expand_as(exact)
        if self.subject.high is not None:
            size = size.clamp_min(1)  # of a bounded answer, 0 is known no better than 1
        return self.subject.roundings * (changed + eps * size) + 1e-37

    def check(self, what, got, wanted):
        """Compare two answers, the second the right one."""
        if self.excused or wanted.error is not None:
            return
        if got.error is not None:
            raise Broken(what, f"{got.said()}, not an answer")
        if got.numerical != wanted.numerical:
            return  # the one that warned has said that the data decide poorly
        for got_leaf, leaf, allowed in zip(got.leaves, wanted.leaves, self.allowed, strict=False):
            if not leaf.is_floating_point() or got_leaf.shape != leaf.shape or not leaf.numel():
                continue
            largest = torch.finfo(got_leaf.dtype).max / 2
            a, b = got_leaf.double(), leaf.double()
            judged = (b.abs() < largest) & allowed.isfinite()
            bad = judged & ~((a - b).abs() <= allowed)
            bad &= ~(a.isnan() & b.isnan())
            if bool(bad.any()):
                at = tuple(int(i) for i in bad.nonzero()[0])
                raise Broken(
                    what,
                    f"{float(a[at]):.6g} where {float(b[at]):.6g} is right within "
                    f"{float(allowed[at]):.2g}, at {at} of {tuple(leaf.shape)}",
                )
            if bool((b.isnan() & judged).any()):
                raise Broken(what, "float64 gives NaN of finite numbers, without a warning")


# What is looked at in some.


def _check_layout(draw, subject, base, error):
    moved = answered(subject.call, [draw.laid_out(x) for x in subject.inputs])
    if error:
        if moved.error is not None:
            raise Broken("layout", f"{moved.said()}, not an answer")
        error.check("layout", moved, base)


def _check_again(draw, subject, base, error):
    again = answered(subject.call, subject.inputs)
    for a, b in zip(base.leaves, again.leaves or [], strict=False):
        if not torch.equal(a.nan_to_num(), b.nan_to_num()):
            raise Broken("the same twice", f"{a.flatten()[:3]} and {b.flatten()[:3]}")


def _check_order(draw, subject, base, error):
    """In float64, where rounding has no say but in what is decided by it."""
    if not subject.unordered or not len(subject.inputs[0]) or error.reference.error:
        return
    order = torch.randperm(len(subject.inputs[0]), generator=draw.torch, device="cpu")
    inputs = [x[order] if i in subject.unordered else x for i, x in enumerate(error.wide)]
    other = answered(subject.call, inputs)
    if other.error is not None:
        raise Broken("order of rows", f"{other.said()}, not an answer")
    if other.numerical or error.reference.numerical:
        return
    for a, b in zip(other.leaves, error.reference.leaves, strict=False):
        if a.is_floating_point() and a.shape == b.shape and a.numel():
            far = (a - b).abs().nan_to_num(0).max()
            least = 1e-30 if subject.high is None else 1e-7
            if far > 1e-5 * b.abs().nan_to_num(0).max() + least:
                raise Broken("order of rows", f"{a.flatten()[:3]}, not {b.flatten()[:3]}")


def _check_rows(draw, subject, base, error):
    place = {"map": 0, "fit": len(subject.inputs) - 1}.get(subject.kind)
    if place is None or not len(subject.inputs[place]):
        return
    row = draw.random.randrange(len(subject.inputs[place]))
    inputs = [x[row : row + 1] if i == place else x for i, x in enumerate(subject.inputs)]
    one = answered(subject.call, inputs)
    if one.error is not None:
        raise Broken("rows are independent", f"{one.said()}, not an answer")
    if error.allowed:
        error.allowed = [a[row : row + 1] for a in error.allowed]
    error.check("rows are independent", one, Answer([leaf[row : row + 1] for leaf in base.leaves]))


def _check_axes(draw, subject, base, error):
    """Leading axes, where they are taken, change nothing."""
    place = {"map": 0, "fit": len(subject.inputs) - 1}.get(subject.kind)
    if place is None:
        return
    inputs = [x[None] if i == place else x for i, x in enumerate(subject.inputs)]
    batched = answered(subject.call, inputs)
    if batched.error is None:
        if batched.leaves[0].shape != base.leaves[0][None].shape:
            raise Broken("leading axes", f"shape {tuple(batched.leaves[0].shape)}")
        error.check("leading axes", Answer([leaf[0] for leaf in batched.leaves]), base)


def _check_state(draw, subject, base, error):
    if not subject.make:
        return
    module = subject.make(subject.inputs[0].dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(0)
        subject.fit(module, *subject.inputs)
        held = [t for t in module.state_dict().values() if t.is_floating_point()]
        if not all(bool(t.isfinite().all()) for t in held):
            return  # of an encoder that overflows
        fresh = subject.make(subject.inputs[0].dtype)
        fresh.load_state_dict(module.state_dict())
        others = {"loaded": fresh, "copied": copy.deepcopy(module)}
        with contextlib.suppress(pickle.PicklingError, AttributeError):
            pickled = pickle.dumps(module)
            others["pickled"] = pickle.loads(pickled)
        wanted = list(leaves(subject.use(module, *subject.inputs)))
        for how, other in others.items():
            for a, b in zip(leaves(subject.use(other, *subject.inputs)), wanted, strict=True):
                # What follows from the state may be computed anew, in another order.
                if not torch.allclose(a, b, 1e-5, 1e-30, equal_nan=True):
                    raise Broken("state", f"{how}: {a.flatten()[:3]}, not {b.flatten()[:3]}")


def _check_atomic(draw, subject, base):
    """A fit that fails leaves what an earlier one has written."""
    if base.error is None:
        return
    module = subject.make(subject.inputs[0].dtype)
    plain = [draw.normal(*x.shape).to(x.dtype) for x in subject.inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            subject.fit(module, *plain)
        except (ValueError, RuntimeError, TypeError):
            return
        before = {name: value.clone() for name, value in module.state_dict().items()}
        try:
            subject.fit(module, *subject.inputs)
        except Exception:  # as before
            after = module.state_dict()
            for name, value in before.items():
                if not torch.equal(value.nan_to_num(), after[name].nan_to_num()):
                    raise Broken("a failed call changes nothing", f"`{name}` has changed") from None


def _check_gradient(draw, subject, base, error):
    if not subject.differentiable or subject.inputs[0].dtype.itemsize < 4:
        return
    floats = [leaf for leaf in base.leaves if leaf.is_floating_point()]
    if not all(bool(leaf.isfinite().all()) for leaf in floats):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, right = (_gradients(subject, inputs) for inputs in (subject.inputs, error.wide))
    for gradient, exact in zip(found, right, strict=False):
        fits = exact.isfinite() & (exact.abs() < torch.finfo(gradient.dtype).max / 100)
        bad = fits & ~gradient.isfinite()
        if bool(bad.any()):
            raise Broken("gradient", f"{int(bad.sum())} entries are not finite")
        moderate = all(not x.numel() or 1e-100 < float(x.abs().max()) < 1e100 for x in error.wide)
        if moderate and not bool(exact.isfinite().all()):
            raise Broken("gradient", "some entries are not finite in float64")


def _gradients(subject, inputs):
    """Those of the sum of a result, 0 where it does not depend on an input."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    found = subject.call(*inputs)
    if not isinstance(found, torch.Tensor) or not found.requires_grad:
        return []
    return torch.autograd.grad(found.sum(), inputs, allow_unused=True, materialize_grads=True)


CHECKS = {
    "layout": _check_layout,
    "order": _check_order,
    "rows": _check_rows,
    "axes": _check_axes,
    "state": _check_state,
    "gradient": _check_gradient,
    "again": _check_again,
}


# Under what a call is made.


@contextlib.contextmanager
def _default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


UNDER = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference": torch.inference_mode,
    "default dtype": _default_dtype,
    "default device": lambda: torch.device("meta"),
}


def _check_context(subject, base, context):
    """An answer does not depend on it, beyond the type that autocast computes a layer in."""
    if subject.builds and context != "autocast":
        return
    call = subject.call
    if subject.make:  # constructed before, as by a user
        module = subject.make(subject.inputs[0].dtype)

        def call(*inputs):
            subject.fit(module, *inputs)
            return subject.use(module, *inputs)

    got = answered(call, subject.inputs, UNDER[context])
    if (got.error is None) != (base.error is None):
        raise Broken(f"under {context}", f"{got.said()}, not {base.said()}")
    if got.error is not None or (context == "autocast" and subject.parameters):
        return
    near = 0.1 if context == "autocast" else 1e-3  # that may compute in bfloat16
    for a, b in zip(got.leaves, base.leaves, strict=False):
        typed = a.dtype == b.dtype or context == "autocast"
        if a.is_meta or not typed or a.shape != b.shape:
            raise Broken(f"under {context}", f"{a.dtype} on {a.device}, not {b.dtype}")
        if not a.is_floating_point() or not b.numel():
            continue
        far, size = (a.to(b.dtype) - b).abs().nan_to_num(0).max(), b.abs().nan_to_num(0).max()
        if far > near * size + 1e-30 or not torch.equal(a.isnan(), b.isnan()):
            raise Broken(f"under {context}", f"{a.flatten()[:3]}, not {b.flatten()[:3]}")
