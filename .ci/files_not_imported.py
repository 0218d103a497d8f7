"""Print the test files in which a test was skipped because a library could not be imported.

    python3 .ci/files_not_imported.py report.xml FOLDER

The report is a JUnit report of pytest that ran in FOLDER. Prints one path a line, relative to it.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

#: What pytest.importorskip says.
REASON = re.compile(r"could not import '")


def find_files(report: str, folder: Path) -> "list[str]":
    """Return the files, sorted."""
    files = set()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        skip = case.find("skipped")
        if skip is None or not REASON.search(f"{skip.get('message', '')} {skip.text or ''}"):
            continue
        # A module that is skipped as a whole is a name in no class. In a class of tests the
        # names of the classes follow that of the module.
        parts = (case.get("classname") or case.get("name", "")).split(".")
        while parts and not folder.joinpath(*parts).with_suffix(".py").is_file():
            parts.pop()
        if not parts:
            sys.exit(f"no file found for {case.get('classname')}::{case.get('name')}")
        files.add(Path(*parts).with_suffix(".py").as_posix())
    return sorted(files)


if __name__ == "__main__":
    print(*find_files(sys.argv[1], Path(sys.argv[2])), sep="\n")
