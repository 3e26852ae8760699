"""What one draw consists of: a source of numbers, and rows that are awkward in some ways.

Everything follows from the name and the number of a draw. What makes it awkward can be left out
again, one by one, without changing the rest: that is how a finding is made small.
"""

import math
import random

import torch

FLOATS = (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
#: What may be wrong with rows, and how often.
AWKWARD = {
    "scale": 0.15,
    "subnormal": 0.03,
    "long row": 0.08,
    "wide feature": 0.08,
    "offset": 0.08,
    "copies": 0.12,
    "ties": 0.08,
    "constant feature": 0.06,
    "zero row": 0.08,
    "equal rows": 0.04,
    "low rank": 0.05,
    "nan": 0.07,
    "inf": 0.02,
}
LAYOUTS = ("transposed", "sliced", "flipped", "padded")
CONTEXTS = ("autocast", "inference", "default dtype", "default device")


class Draw:
    """One draw of one public name.

    Args:
        name: Of the public name, as in ``values.cases.find``.
        number: Of the draw.
        without: What is left out of it.
    """

    def __init__(self, name, number, without=()):
        self.name, self.number, self.without = name, number, frozenset(without)
        self.random = random.Random(f"{name}:{number}")
        self.torch = torch.Generator("cpu").manual_seed(self.random.getrandbits(60))
        self.awkward = []  # what is wrong with the rows
        self.bad_rows = set()  # of the first input: those with NaN or infinity

    def happens(self, what, chance):
        """Whether this is part of the draw; the numbers after it stay what they are."""
        drawn = self.random.random() < chance
        if drawn and what not in self.without:
            self.awkward.append(what)
            return True
        return False

    def pick(self, *choices):
        return self.random.choice(choices)

    def size(self, low=1, high=9):
        return self.random.randint(low, high)

    def number_of_rows(self, typical=20):
        """A few, or none, or one; ``small`` is left out first."""
        many = self.random.randint(3, 2 * typical)
        few = self.random.choice((0, 1, 2, 3))
        return few if self.happens("few rows", 0.2) else many

    def dtype(self):
        drawn = self.random.choice(FLOATS)
        return torch.float32 if "type" in self.without else drawn

    def normal(self, *shape):
        return torch.randn(shape, generator=self.torch, dtype=torch.float64, device="cpu")

    def integers(self, high, *shape):
        drawn = torch.randint(0, max(high, 1), shape, generator=self.torch, device="cpu")
        return drawn

    def generator(self):
        """The same source at every call, so that a call can be repeated."""
        return torch.Generator("cpu").manual_seed(self.number)

    def plain(self, n, features, dtype):
        """Rows with nothing wrong, off the origin."""
        return (self.normal(n, features) + self.normal(features)).to(dtype)

    def rows(self, n, features, dtype, first=True):
        """Rows that may be awkward; what is wrong with those of the first input is noted."""
        x = self.normal(n, features) + self.normal(features)
        scale = 10 ** self.random.uniform(-30, 30)
        row, feature = self.random.randrange(max(n, 1)), self.random.randrange(max(features, 1))
        other = self.integers(n, n)
        offset = self.random.choice((1e2, 1e4, 1e6))
        basis = self.normal(1, features), self.normal(n, 1)
        if self.happens("ties", AWKWARD["ties"]) and n:
            x = x.round()
        if self.happens("low rank", AWKWARD["low rank"]) and n:
            x = basis[1] @ basis[0]
        if self.happens("copies", AWKWARD["copies"]) and n:
            x = x[other]
        if self.happens("equal rows", AWKWARD["equal rows"]) and n:
            x = x[:1].expand(n, features).clone()
        if self.happens("long row", AWKWARD["long row"]) and n:
            x[row] *= 1e4
        if self.happens("wide feature", AWKWARD["wide feature"]) and n:
            x[:, feature] *= 1e3
        if self.happens("constant feature", AWKWARD["constant feature"]) and n:
            x[:, feature] = 2.5
        if self.happens("offset", AWKWARD["offset"]):
            x += offset
        if self.happens("zero row", AWKWARD["zero row"]) and n:
            x[row] = 0
        if self.happens("scale", AWKWARD["scale"]):
            x *= max(min(scale, _largest(dtype)), _smallest(dtype))
        if self.happens("subnormal", AWKWARD["subnormal"]) and n:
            x *= torch.finfo(dtype).tiny / 8 / x.abs().amax().clamp_min(1)
        x = x.to(dtype)
        for what, value in (("nan", math.nan), ("inf", math.inf)):
            if self.happens(what, AWKWARD[what]) and n:
                x[row, feature] = value
                if first:
                    self.bad_rows.add(row)
        return x

    def context(self):
        """Under what the call is made; most often under nothing."""
        drawn = self.random.choice(CONTEXTS)
        return drawn if self.happens("context", 0.25) else None

    def laid_out(self, x):
        """The same numbers at other places in memory."""
        layout = self.random.choice(LAYOUTS)
        if x.dim() < 2:
            return x
        if layout == "transposed":
            return x.mT.contiguous().mT
        if layout == "flipped":
            return x.flip(-1).contiguous().flip(-1)
        wide = x.new_full((*x.shape[:-2], 2 * x.shape[-2], x.shape[-1] + 3), math.nan)
        place = slice(None, None, 2) if layout == "sliced" else slice(x.shape[-2])
        wide[..., place, 1:-2] = x
        return wide[..., place, 1:-2]


def _largest(dtype):
    return {torch.float16: 1e2, torch.float64: 1e30}.get(dtype, 1e30)


def _smallest(dtype):
    return {torch.float16: 1e-3}.get(dtype, 1e-30)
