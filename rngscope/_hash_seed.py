"""The seed of the hashes of ``str``, and so of the order of sets: a process cannot change it."""

from __future__ import annotations

import os
import subprocess
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

VARIABLE = "PYTHONHASHSEED"

#: Windows starts another process instead, and does not wait for it.
can_become_another = os.name == "posix"


def hash_seed() -> int | None:
    """Return the seed of this process's hashes; None for a random one, which nobody knows."""
    if not sys.flags.hash_randomization:
        return 0
    text = "" if flag_against_it() else os.environ.get(VARIABLE, "")
    return int(text) if text.isdecimal() else None


def flag_against_it() -> str:
    """Return the flags of this interpreter under which the variable has no effect, or nothing."""
    if sys.flags.ignore_environment:
        return "-E or -I"
    words = iter(sys.orig_argv[1:])
    for word in words:
        if not word.startswith("-"):
            break
        for place, letter in enumerate(word[1:], start=2):
            if letter == "R":
                return "-R"
            if letter in "cm":
                # From here on the words are those of the program.
                return ""
            if letter in "WX-":
                # The rest of the word is a value, or the next one is.
                if not word[place:] or word == "--check-hash-based-pycs":
                    next(words, None)
                break
    return ""


def start_again(seed: int) -> NoReturn:
    """Run this process's command with another hash seed; where that can be, in its place.

    Raises:
        SystemExit: with the exit status of the command.
    """
    words = [sys.executable, *sys.orig_argv[1:]]
    environment = {**os.environ, VARIABLE: str(seed)}
    if can_become_another:
        os.execve(sys.executable, words, environment)
    with subprocess.Popen(words, env=environment) as process:
        while True:
            try:
                sys.exit(process.wait())
            except KeyboardInterrupt:
                # The command has been interrupted too, and knows what to do.
                pass
