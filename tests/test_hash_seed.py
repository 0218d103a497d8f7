"""``rngscope run`` and the seed of str hashes: it is printed, and set if asked."""

import os
import re
import signal
import subprocess
import sys

import pytest
from test_main import LINE, python, run, script

from rngscope import _hash_seed
from rngscope.__main__ import main

__all__ = ["script"]

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
SHOW = "print(hash('a word'), list({str(i) for i in range(20)}))"


@pytest.fixture(autouse=True)
def no_hash_seed(monkeypatch):
    """What the shell has set must not decide."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)


def hash_seed_of(result):
    line = result.stderr.splitlines()[-1]
    assert LINE.fullmatch(line)
    return re.search("hash-seed (random|[0-9]+)", line)[1]


def test_the_line_tells_the_hash_seed(script, monkeypatch):
    """Whoever compares two runs must know that sets may have had another order."""
    program = script(SHOW)
    assert hash_seed_of(run("--seed", "1", program)) == "random"
    for value, shown in [("7", "7"), ("0", "0"), ("random", "random"), ("", "random")]:
        monkeypatch.setenv("PYTHONHASHSEED", value)
        assert hash_seed_of(run("--seed", "1", program)) == shown


@pytest.mark.parametrize("flag", ["-E", "-I", "-R", "-bR"])
def test_the_line_tells_what_python_does_not_what_the_variable_says(flag, script, monkeypatch):
    """With -E and -I it is not read; -R chooses a random one whatever it says."""
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    program = script(SHOW)
    folder = os.path.dirname(os.path.dirname(_hash_seed.__file__))
    # -E and -I do not read PYTHONPATH either.
    start = f"import sys; sys.path.insert(0, {folder!r}); import runpy; "
    start += "sys.argv[0] = 'rngscope'; runpy.run_module('rngscope', run_name='__main__')"
    result = python(flag, "-c", start, "run", "--seed", "1", program)
    assert hash_seed_of(result) == "random"


@pytest.mark.parametrize("hash_seed", ["0", "1", "4294967295"])
def test_a_hash_seed_fixes_hashes_and_the_order_of_sets(hash_seed, script, monkeypatch):
    """It is what PYTHONHASHSEED would have done."""
    program = script(SHOW)
    results = [run("--seed", "1", "--hash-seed", hash_seed, program) for _ in range(2)]
    assert results[0].stdout == results[1].stdout and results[0].returncode == 0
    assert results[0].stderr == results[1].stderr
    assert hash_seed_of(results[0]) == hash_seed
    monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
    assert python(program).stdout == results[0].stdout
    # As it is set already, nothing is started again.
    assert run("--seed", "1", f"--hash-seed={hash_seed}", program).stdout == results[0].stdout


def test_another_hash_seed_in_the_environment_is_replaced(script, monkeypatch):
    """What is asked for in the command wins."""
    program = script(SHOW)
    expected = run("--seed", "1", "--hash-seed", "5", program).stdout
    for value in ("6", "random", "0"):
        monkeypatch.setenv("PYTHONHASHSEED", value)
        result = run("--seed", "1", "--hash-seed", "5", program)
        assert result.stdout == expected and hash_seed_of(result) == "5"


def test_without_it_hashes_differ_from_run_to_run(script):
    """The control."""
    program = script(SHOW)
    assert len({run("--seed", "1", program).stdout for _ in range(3)}) > 1


def test_the_interpreter_that_starts_again_is_the_same(script, tmp_path, monkeypatch):
    """Its options, its arguments, its input and its process."""
    program = script("""
        import sys, os
        print(sys.argv[1:], sys.flags, sys._xoptions, sys.warnoptions, os.getcwd(), sys.path[1:])
        print(sys.executable, sys.prefix, sys.stdin.read())
        print(os.environ["PYTHONHASHSEED"])
    """)
    flags = ["-X", "dev", "-X", "utf8", "-W", "ignore", "-Werror::UserWarning", "-OB", "-P", "-s"]
    arguments = ["a b", "--seed", "3", "--hash-seed", "9", "-m", "--", "-x", "", "$HOME", "'"]
    results = []
    for options in ([], ["--hash-seed", "5"]):
        command = ["-m", "rngscope", "run", "--seed", "1", *options, program, *arguments]
        monkeypatch.setenv("PYTHONHASHSEED", "random" if options else "5")
        results.append(python(*flags, *command, cwd=tmp_path, input="some\ninput"))
    assert results[0].returncode == 0, results[0].stderr
    assert results[0].stdout == results[1].stdout
    assert results[0].stderr == results[1].stderr
    assert "some\ninput" in results[0].stdout


def test_modules_and_all_other_options_go_through(script, tmp_path):
    """Whatever their order."""
    script(SHOW, "module.py")
    first, second = (
        run(*options, cwd=tmp_path)
        for options in (
            ["--hash-seed", "3", "--independent", "--seed", "4", "-m", "module", "x"],
            ["--seed=4", "--independent", "--hash-seed=3", "-mmodule", "x"],
        )
    )
    assert first.returncode == 0 and first.stdout == second.stdout
    assert first.stderr == second.stderr
    assert first.stderr.startswith("rngscope: seed 4 independent hash-seed 3 python=")


def test_without_a_seed_only_one_is_picked(script):
    """By the interpreter that runs the program."""
    result = run("--hash-seed", "3", script("print(1)"))
    told, last = result.stderr.splitlines()
    assert told.endswith("repeats this run") and "run --seed" in told
    assert " hash-seed 3 " in last


@posix
def test_the_process_and_its_end_are_those_of_the_program(script):
    """Process id, exit status, and the signal that kills it."""
    program = script("import os, sys; print(os.getpid()); sys.stdout.flush(); sys.exit(3)")
    command = [sys.executable, "-m", "rngscope", "run", "--seed", "1", "--hash-seed", "5"]
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(_hash_seed.__file__)))
    for text, status in [
        ("sys.exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("1 / 0", 1),
    ]:
        program = script(f"import os, sys, signal; print(os.getpid(), flush=True); {text}")
        process = subprocess.Popen(
            [*command, program],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # The shell may have interrupts ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        output = process.communicate(timeout=100)[0]
        assert output == f"{process.pid}\n"
        assert process.returncode == status


@pytest.mark.parametrize("hash_seed", ["-1", "4294967296", "1.5", "random", "", "0x5"])
def test_a_wrong_hash_seed_is_one_line_and_status_2(hash_seed):
    """What Python takes: a number of 32 bits."""
    result = run(f"--hash-seed={hash_seed}", "x.py")
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert f"hash seed {hash_seed!r} must be an integer in [0, 2**32)" in result.stderr


@pytest.mark.parametrize("flags", [["-E"], ["-I"], ["-R"], ["-bR"]])
def test_where_python_would_not_heed_it_it_is_an_error(flags, script, monkeypatch):
    """It names the flag, and nothing is started again."""
    program = script(SHOW)
    folder = os.path.dirname(os.path.dirname(_hash_seed.__file__))
    start = f"import sys; sys.path.insert(0, {folder!r}); from rngscope.__main__ import main; "
    start += "sys.exit(main())"
    for value in ("5", "6"):
        monkeypatch.setenv("PYTHONHASHSEED", value)
        result = python(*flags, "-c", start, "run", "--hash-seed", "5", program)
        assert (result.returncode, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
        assert "--hash-seed has no effect" in result.stderr
        assert ("-R" if "R" in flags[0] else "-E or -I") in result.stderr


def test_where_a_process_cannot_become_another_it_waits_for_it(script, monkeypatch, capfd):
    """On Windows: same input and output, and the exit status of the program."""
    monkeypatch.setattr(_hash_seed, "can_become_another", False)
    program = script("import os, sys; print(os.environ['PYTHONHASHSEED']); sys.exit(3)")
    folder = os.path.dirname(os.path.dirname(_hash_seed.__file__))
    monkeypatch.setenv("PYTHONPATH", folder)
    own = ["python", "-m", "rngscope", "run", "--seed", "1", "--hash-seed", "5", program]
    monkeypatch.setattr(sys, "orig_argv", own)
    with pytest.raises(SystemExit) as ended:
        main(own[3:])
    assert ended.value.code == 3
    out, errors = capfd.readouterr()
    assert out == "5\n" and LINE.fullmatch(errors.strip())
    assert "PYTHONHASHSEED" not in os.environ


@posix
def test_where_it_can_it_becomes_the_same_command(monkeypatch):
    """With the variable set, and nothing else changed."""
    became = []

    def become(*arguments):
        became.append(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", become)
    own = ["python", "-X", "dev", "-m", "rngscope", "run", "--hash-seed", "5", "x.py"]
    monkeypatch.setattr(sys, "orig_argv", own)
    with pytest.raises(SystemExit):
        main(own[5:])
    ((path, words, environment),) = became
    assert path == sys.executable and words == [sys.executable, *own[1:]]
    assert environment == {**os.environ, "PYTHONHASHSEED": "5"}


def test_an_interrupt_is_for_the_command_to_handle(monkeypatch):
    """Both processes get it; the one that waits goes on waiting."""
    waited = []

    class Process:
        def __init__(self, words, env):
            assert env["PYTHONHASHSEED"] == "5"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def wait(self):
            waited.append(True)
            if len(waited) < 3:
                raise KeyboardInterrupt
            return 130

    monkeypatch.setattr(_hash_seed, "can_become_another", False)
    monkeypatch.setattr(subprocess, "Popen", Process)
    with pytest.raises(SystemExit) as ended:
        _hash_seed.start_again(5)
    assert ended.value.code == 130 and len(waited) == 3


@pytest.mark.parametrize(
    "words, is_random",
    [
        (["-R", "-m", "rngscope"], True),
        (["-OR", "-m", "rngscope"], True),
        (["-X", "dev", "-W", "error", "-R", "x.py"], True),
        (["--check-hash-based-pycs", "always", "-R", "x.py"], True),
        (["-Wdefault::Resource", "-XR", "x.py"], False),
        (["-X", "-R", "-W", "-R", "x.py"], False),
        (["x.py", "-R"], False),
        (["-Om", "rngscope", "-R"], False),
        (["-c", "pass", "-R"], False),
        (["-mR", "-R"], False),
        ([], False),
    ],
)
def test_the_flag_is_told_from_arguments_that_look_like_it(words, is_random, monkeypatch):
    """Only what stands before the program is for the interpreter."""
    monkeypatch.setattr(sys, "orig_argv", ["python", *words])
    assert _hash_seed.flag_against_it() == ("-R" if is_random else "")


def test_help_shows_it():
    assert "--hash-seed" in run("--help").stdout


def test_deterministic_without_torch_is_told_before_the_last_line(script):
    """A scope that is never left has no end to tell it at."""
    result = run("--seed", "1", "--deterministic", script("print(1)"))
    told, line = result.stderr.splitlines()
    assert told == (
        "rngscope: --deterministic changed nothing: the program did not import torch"
    )
    assert LINE.fullmatch(line)
