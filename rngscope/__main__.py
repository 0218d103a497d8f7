"""``python -m rngscope``: check this machine, or run a program in a scope."""

from __future__ import annotations

import argparse
import shlex
import sys

from rngscope._hash_seed import flag_against_it, hash_seed, start_again
from rngscope._seeds import check_seed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

PROGRAM = "python -m rngscope"
RUN = f"{PROGRAM} run [--seed N] [--hash-seed N] [--independent] [--deterministic]"
RUN_OPTIONS = ("--seed", "--hash-seed", "--independent", "--deterministic")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    #: The command that was probably meant, if there is one.
    meant = ""

    def error(self, message: str) -> NoReturn:
        hint = f"to run a program, write: {self.meant}" if self.meant else "--help shows the usage"
        self.exit(2, f"{PROGRAM}: {message}; {hint}\n")


def main(arguments: list[str] | None = None) -> int:
    """Check this machine or run a program; return the exit status."""
    own, program = _cut(sys.argv[1:] if arguments is None else arguments)
    parser = _make_parser()
    parser.meant = _meant(own)
    options = parser.parse_args(own)
    if options.command is None:
        # Imported here because no run needs it, and it takes dataclasses and timeit.
        from rngscope._self_check import self_check

        return self_check(as_json=options.json, start_devices=options.start_devices)

    # Imported here because the check does not need it, and it loads what programs may need.
    from rngscope._run import CannotRun, run

    is_module = program[:1] == ["-m"]
    if is_module:
        del program[0]
    if not program:
        parser.error(f"run needs a script or -m and a module: {RUN} script.py [args...]")
    if options.hash_seed is not None:
        _have_hash_seed(options.hash_seed, parser)
    try:
        run(
            program[0],
            program[1:],
            is_module=is_module,
            seed=options.seed,
            independent=options.independent,
            deterministic=options.deterministic,
        )
    except CannotRun as error:
        print(f"{PROGRAM} run: {error}", file=sys.stderr)
        return error.status
    return 0


def _have_hash_seed(seed: int, parser: argparse.ArgumentParser) -> None:
    """Go on if hashes have this seed; start the interpreter again if they have not."""
    flag = flag_against_it()
    if flag:
        parser.error(f"--hash-seed has no effect under python {flag}: start python without it")
    if hash_seed() != seed:
        start_again(seed)


def _cut(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Cut the arguments where those of the program begin; they start with ``-m``, if given.

    argparse cannot do it: it takes a ``--`` of the program's for its own.
    """
    if arguments[:1] != ["run"]:
        return arguments, []
    here = 1
    while here < len(arguments) and arguments[here].startswith("-"):
        word = arguments[here]
        if word.startswith("-m"):
            # Both -m module and -mmodule.
            rest = [word[2:]] if word[2:] else []
            return arguments[:here], ["-m", *rest, *arguments[here + 1 :]]
        here += 2 if word in ("--seed", "--hash-seed") else 1
    return arguments[:here], arguments[here:]


def _meant(arguments: list[str]) -> str:
    """Return the command that runs a program, for arguments in which ``run`` is missing."""
    if arguments[:1] == ["run"]:
        return ""
    words = [word for word in arguments if word != "run"]
    for word in words:
        if not word.startswith("-") or word.startswith(("-m", *RUN_OPTIONS)):
            return f"{PROGRAM} run {shlex.join(words)}"
    return ""


def _make_parser() -> _Parser:
    parser = _Parser(
        prog=PROGRAM,
        description="Check that every random number generator on this machine is seeded and "
        "put back exactly. The exit status is 1 if one is not.",
        epilog=f"{RUN} script.py [args...] runs a program inside a scope.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the result for a bug report")
    text = "start the accelerators, to check them too"
    parser.add_argument("--start-devices", action="store_true", help=text)
    commands = parser.add_subparsers(dest="command", title="commands", metavar="run")
    _add_run(commands)
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        usage=f"{RUN} (script.py | -m module) [args...]",
        help="run a program inside a scope",
        description="Run a program, as python would, inside a scope. The last line on standard "
        "error is the seed and the fingerprint of every source at the end: two runs with the "
        "same line have drawn alike.",
        allow_abbrev=False,
    )
    text = "0 <= N < 2**64; without it the operating system picks one, which is printed first"
    run.add_argument("--seed", type=_seed, metavar="N", help=text)
    text = (
        "0 <= N < 2**32: also fix the hashes of str, and so the order of sets, as "
        "PYTHONHASHSEED=N does; starts the interpreter again"
    )
    run.add_argument("--hash-seed", type=_hash_seed, metavar="N", help=text)
    text = "give each source a seed of its own"
    run.add_argument("--independent", action="store_true", help=text)
    text = "switch torch to deterministic kernels"
    run.add_argument("--deterministic", action="store_true", help=text)


def _seed(text: str) -> int:
    try:
        return check_seed(int(text))
    except ValueError as error:
        is_number = text.strip().lstrip("+-").isdigit()
        message = str(error) if is_number else f"{text!r} is not an integer in [0, 2**64)"
        raise argparse.ArgumentTypeError(message) from None


def _hash_seed(text: str) -> int:
    # What Python takes for PYTHONHASHSEED.
    if text.isdecimal() and int(text) < 2**32:
        return int(text)
    raise argparse.ArgumentTypeError(f"hash seed {text!r} must be an integer in [0, 2**32)")


if __name__ == "__main__":
    sys.exit(main())
