"""Print the shell command of README.rst that contains a text.

    python3 .ci/readme_command.py README.rst "-e '.[test]'"

A command is the whole of a ``.. code-block:: sh``. Exactly one may contain the text.
"""

import re
import sys
import textwrap
from pathlib import Path

BLOCK = re.compile(r"^\.\. code-block:: (?:sh|shell|bash)\n\n((?:[ \t]+\S.*\n|[ \t]*\n)+)", re.M)


def find_command(readme: str, text: str) -> str:
    blocks = [textwrap.dedent(block).strip() for block in BLOCK.findall(readme + "\n")]
    found = [block for block in blocks if text in block]
    if len(found) != 1:
        sys.exit(f"expected 1 sh code block with {text!r} in the README, found {len(found)}")
    return found[0]


if __name__ == "__main__":
    path, text = sys.argv[1:]
    print(find_command(Path(path).read_text(encoding="utf-8"), text))
