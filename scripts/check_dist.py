"""Build the wheel and the source distribution, open them, and check what is inside.

Builds in the current environment (the ``dev`` extra), so nothing is fetched, and in a temporary
folder, so nothing is left behind. The wheel is built from the source distribution, which proves
that the latter is complete.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import relreps

ROOT = Path(__file__).resolve().parents[1]
VERSION = relreps.__version__
SDIST_CONTENTS = {
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "PKG-INFO",
    "README.md",
    "pyproject.toml",
    "relreps",
    "tests",
}


class Report:
    """Prints one line a check and remembers whether one failed."""

    def __init__(self) -> None:
        self.failed = False

    def equal(self, what: str, found: object, wanted: object) -> None:
        if found == wanted:
            print(f"ok      {what}")
        else:
            self.failed = True
            print(f"FAILED  {what}\n          found   {found}\n          wanted  {wanted}")


def build(folder: Path) -> tuple[Path, Path]:
    """Build both distributions and return their paths, wheel first."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"The build failed:\n{result.stdout}{result.stderr}")
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return wheel, sdist


def source_files(package: str) -> set[str]:
    """Every file of a package in the working tree, as it should appear in a distribution."""
    paths = (ROOT / package).rglob("*")
    return {
        path.relative_to(ROOT).as_posix()
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts
    }


def check_metadata(report: Report, where: str, metadata: Message) -> None:
    report.equal(f"{where}: version is relreps.__version__", metadata["Version"], VERSION)
    report.equal(f"{where}: licence is MIT", metadata["License-Expression"], "MIT")


def check_wheel(report: Report, wheel: Path) -> None:
    report.equal("wheel: is pure Python", wheel.name, f"relreps-{VERSION}-py3-none-any.whl")
    info = f"relreps-{VERSION}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"{info}/METADATA").decode()
    check_metadata(report, "wheel", Parser().parsestr(metadata))
    code = {name for name in names if not name.startswith(f"{info}/")}
    report.equal("wheel: has py.typed", "relreps/py.typed" in code, True)
    report.equal("wheel: has the licence", f"{info}/licenses/LICENSE" in names, True)
    # Tests, examples and benchmarks would show up as surplus here.
    surplus, missing = code - source_files("relreps"), source_files("relreps") - code
    report.equal("wheel: has the package and nothing else", (surplus, missing), (set(), set()))


def check_sdist(report: Report, sdist: Path) -> None:
    root = f"relreps-{VERSION}"
    report.equal("sdist: is named by the version", sdist.name, f"{root}.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.removeprefix(f"{root}/") for name in archive.getnames()}
        metadata = archive.extractfile(f"{root}/PKG-INFO")
        assert metadata is not None
        check_metadata(report, "sdist", Parser().parsestr(metadata.read().decode()))
    top = {name.partition("/")[0] for name in names} - {".gitignore"}  # the builder adds this one
    report.equal("sdist: has the package, its tests and its papers", top, SDIST_CONTENTS)
    strays = {name for name in names if re.search(r"(^|/)(test_|conftest)", name)}
    strays = {name for name in strays if not name.startswith("tests/")}
    report.equal("sdist: has tests in tests/ only", strays, set())


def check_tree(report: Report) -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    versions = re.findall(r"^version: *(.+)$", citation, re.MULTILINE)
    report.equal("CITATION.cff: version is relreps.__version__", versions, [VERSION])
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased = re.findall(r"^## \[Unreleased\]$", changelog, re.MULTILINE)
    report.equal("CHANGELOG.md: has an Unreleased section", len(unreleased), 1)


def main() -> None:
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        wheel, sdist = build(Path(folder))
        check_wheel(report, wheel)
        check_sdist(report, sdist)
    check_tree(report)
    sys.exit("The distributions are not fit for release." if report.failed else 0)


if __name__ == "__main__":
    main()
