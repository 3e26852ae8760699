"""What the studies share: options, tables, and results that are whole or not there."""

import importlib
import json
import sys
from pathlib import Path

import pytest

STUDIES = Path(__file__).parents[1] / "studies"
# The studies are in the repository alone, not in what is released.
_run, _paired = pytest.importorskip("_run"), pytest.importorskip("_paired")
NAMES = sorted(path.stem for path in STUDIES.glob("[!_]*.py"))


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study with the options given, parsed."""

    def make(*arguments):
        monkeypatch.setattr(sys, "argv", ["sums.py", *arguments, "--out", str(tmp_path)])
        made = _run.Study("sums.py", "Add numbers.\n\nSlowly.", packages=("torch",))
        made.option("--steps", _run.whole_number(1, 100), 50, "of each sum", quick=2)
        made.option("--sizes", int, [3, 5], "of the sums", nargs="+")
        made.parse()
        return made

    return make


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ((), "--steps 50 --sizes 3 5 --seed 0"),
        (("--seed", "4", "--sizes", "1"), "--steps 50 --sizes 1 --seed 4"),
        (("--quick",), "--steps 2 --sizes 3 5 --seed 0 --quick"),
        (("--quick", "--steps", "7"), "--steps 7 --sizes 3 5 --seed 0 --quick"),
    ],
)
def test_the_command_repeats_a_run(study, arguments, command):
    assert study(*arguments).command == f"python studies/sums.py {command}"


@pytest.mark.parametrize("text", ["0", "101", "-3", "2.5", "many"])
def test_what_is_no_number_in_range_is_refused(study, text, capsys):
    with pytest.raises(SystemExit) as end:
        study("--steps", text)
    assert end.value.code == 2
    assert "1 to 100" in capsys.readouterr().err or text.startswith("-")


def test_results_name_what_they_depend_on(study, tmp_path, capsys):
    score = _run.Score([1.0, 2.0, 3.0])
    study("--seed", "3").write("Sums", "Some.", {"sums": {7: score}}, versions={"data": "1.0"})
    assert "Some." in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sums.json", "sums.md"]
    kept = json.loads((tmp_path / "sums.json").read_text())
    assert kept["seed"] == 3
    assert kept["sums"] == {"7": {"mean": 2.0, "std": 1.0, "values": [1.0, 2.0, 3.0]}}
    assert {"relreps", "python", "torch", "data"} <= set(kept["versions"])
    assert "threads: 1" in kept["machine"]
    text = (tmp_path / "sums.md").read_text()
    assert text.startswith(f"# Sums\n\nWritten by `{kept['command']}`.")
    assert "- data: 1.0" in text


def test_a_score_is_its_mean_and_deviation():
    score = _run.Score([1.0, 2.0, 3.0])
    assert (f"{score:.1f}", f"{score}") == ("2.0 ± 1.0", "2.000 ± 1.000")
    assert f"{_run.Score([0.5]):.2f}" == "0.50"


def test_of_few_pairs_nothing_is_said():
    """Not even where they differ all in one way."""
    few = _paired.compare([93.0, 95.0, 94.0, 96.0], [91.0, 92.0, 92.5, 93.0])
    assert few.low > 0
    assert few.verdict() == "nothing that 4 runs could tell from chance"
    assert [str(few), *few.cells] == [""] * 4
    five = _paired.compare([93.0, 95.0, 94.0, 96.0, 95.0], [91.0, 92.0, 92.5, 93.0, 93.0])
    assert five.verdict().startswith("a gain of 2.30 points")
    assert str(five) == five.cells[0] == f"{five.mean:+.2f} [{five.low:+.2f}, {five.high:+.2f}]"


def test_a_table_is_markdown():
    table = _run.table(["name", "x"], [["a", 1], ["bc", 22]])
    assert table.splitlines() == [
        "| name |  x |",
        "| ---- | -: |",
        "| a    |  1 |",
        "| bc   | 22 |",
    ]


def test_what_is_missing_ends_with_a_word_about_it(capsys):
    def main():
        raise _run.MissingResourceError("Words are missing.", "apt install words")

    with pytest.raises(SystemExit) as end:
        _run.run(main)
    assert end.value.code == 2
    assert "apt install words" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_every_study_says_what_it_takes(name, monkeypatch, capsys):
    pytest.importorskip("mlxtend")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main()
    assert end.value.code == 0
    assert {"--seed", "--out"} <= set(capsys.readouterr().out.split())
