"""Try random inputs on every public name, or replay one draw.

python -m tests.fuzz --minutes 60 --seed 0      # writes results/robustness.json
python -m tests.fuzz --draws 20 --only linear_cka
python -m tests.fuzz --replay linear_cka:17 --without nan,scale
"""

import argparse
import json
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

import relreps
from tests.fuzz import fits, maps, sets  # noqa: F401
from tests.fuzz.checks import shrunk, tried
from tests.fuzz.draws import AWKWARD
from tests.fuzz.subject import NO_SUBJECT, SUBJECTS

ROOT = Path(__file__).resolve().parents[2]
#: Draws of one run have numbers from the seed times this.
APART = 10_000_000


def report(outcome):
    """A finding, made small, and the command that repeats it."""
    small, without = shrunk(outcome)
    left = f" --without {','.join(f'{w!r}' if ' ' in w else w for w in without)}" if without else ""
    wrong = ", ".join(dict.fromkeys(small.awkward)) or "nothing unusual"
    return (
        f"{small.name}: {small.broken}\n  with {wrong}\n"
        f"  python -m tests.fuzz --replay {small.name}:{small.number}{left}"
    )


def run(names, numbers, until=float("inf"), say=print):
    """Try draws of names in turn; counts by name, and the findings."""
    counts = {name: Counter() for name in names}
    seen, findings = Counter(), []
    for number in numbers:
        for name in names:
            if time.monotonic() > until:
                return counts, findings
            outcome = tried(name, number)
            tally = counts[name]
            tally["tried"] += 1
            for what in ("refused", "warned", "nan_in"):
                tally[what] += getattr(outcome, what)
            if outcome.broken:
                tally["broken"] += 1
                kind = name, outcome.broken.check
                seen[kind] += 1
                if seen[kind] <= 3:  # the first few of a kind say it
                    findings.append(report(outcome))
                    say(findings[-1], flush=True)
    return counts, findings


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, help="how long to go on; writes what was tried")
    parser.add_argument("--draws", type=int, default=20, help="of each name, without --minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the public name")
    parser.add_argument("--replay", metavar="NAME:NUMBER", help="one draw")
    parser.add_argument("--without", default="", help="what is left out of it, by commas")
    options = parser.parse_args()
    torch.set_num_threads(1)

    if options.replay:
        name, _, number = options.replay.rpartition(":")
        without = [part.strip(" '") for part in options.without.split(",") if part]
        outcome = tried(name, int(number), without)
        if outcome.broken:
            traceback.print_exception(outcome.broken)
        print(outcome)
        return int(outcome.broken is not None)

    names = [name for name in SUBJECTS if options.only in name]
    first, start = options.seed * APART, time.monotonic()
    if options.minutes:
        until = start + 60 * options.minutes
        counts, findings = run(names, range(first, first + APART), until)
    else:
        counts, findings = run(names, range(first, first + options.draws))
    minutes = (time.monotonic() - start) / 60
    total = sum(counts.values(), Counter())
    print(
        f"{total['tried']} inputs to {len(names)} public names in {minutes:.1f} minutes: "
        f"{total['refused']} refused, {total['warned']} with a warning, "
        f"{total['nan_in']} with NaN; {total['broken']} broke a promise"
    )
    if options.minutes and not options.only:
        kept = {
            "command": f"python -m tests.fuzz --minutes {options.minutes:g} --seed {options.seed}",
            "versions": {"relreps": relreps.__version__, "torch": torch.__version__},
            "rows": [*AWKWARD],
            "left_out": NO_SUBJECT,
            "names": {
                n: {k: c[k] for k in ("tried", "refused", "warned", "nan_in", "broken")}
                for n, c in sorted(counts.items())
            },
        }
        path = ROOT / "results" / "robustness.json"
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(f"Wrote {path.relative_to(ROOT)}")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
