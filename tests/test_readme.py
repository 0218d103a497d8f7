"""Every example in README.rst runs, and shows what it really prints.

Each code block is a program of its own: it imports what it uses. Its language says how it is run,
see ``RUNNERS``; a block that nothing runs is an error.
"""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import rngscope

docutils_core = pytest.importorskip("docutils.core")
nodes = pytest.importorskip("docutils.nodes")

README = Path(__file__).parents[1] / "README.rst"

#: For docutils: everything that it remarks is an error; pygments need not be there.
STRICT = {"report_level": 1, "halt_level": 1, "syntax_highlight": "none"}


def read(text):
    """Parse rst; any warning is an error."""
    return docutils_core.publish_doctree(text, settings_overrides=STRICT)


def examples(text):
    """Return (name, language, text) for each code block, named after its section."""
    found = []
    for block in read(text).findall(nodes.literal_block):
        section = block
        while not isinstance(section, (nodes.section, nodes.document)):
            section = section.parent
        title = re.sub(r"\W+", "-", section.next_node(nodes.title).astext()).strip("-")
        classes = [name for name in block["classes"] if name != "code"]
        found.append((f"{title}-{len(found)}", " ".join(classes), block.astext()))
    return found


EXAMPLES = examples(README.read_text(encoding="utf-8"))


def require(text):
    """Skip unless everything that an example imports is installed."""
    for line in re.findall(r"^(?:>>> |\.\.\. )? *(?:import|from) +([\w., ]+)", text, re.M):
        for name in line.partition(" import ")[0].split(","):
            pytest.importorskip(name.strip().partition(".")[0])


def python(*arguments, cwd):
    """Run python with the rngscope under test; return status and all output."""
    path = [str(Path(rngscope.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, *arguments],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, path))),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    return result.returncode, result.stdout


def run_session(text, folder):
    """Run an interactive session and compare all that it shows."""
    require(text)
    session = doctest.DocTestParser().get_doctest(text, {}, "README.rst", None, 0)
    output = []
    result = doctest.DocTestRunner(verbose=False).run(session, out=output.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(output)


def run_python(text, folder):
    """Run tests under pytest, and what asserts as it is; compile a file that has a name."""
    require(text)
    if named := re.match(r"# (\w+\.py)\n", text):
        compile(text, named[1], "exec")
        return
    if "def test_" not in text:
        assert re.search("^assert ", text, re.M), "an example must check something, or be a file"
        (folder / "example.py").write_text(text)
        status, output = python("example.py", cwd=folder)
        assert status == 0, output
        return
    (folder / "test_example.py").write_text(text)
    plugins = ["-p", "no:randomly", "-p", "no:cacheprovider"]
    status, output = python("-m", "pytest", *plugins, cwd=folder)
    assert status == 0 and f"{text.count('def test_')} passed" in output, output


def run_console(text, folder):
    """Run commands on the files of the README and compare all that they write."""
    for _, language, file in EXAMPLES:
        if language == "python" and (named := re.match(r"# (\w+\.py)\n", file)):
            (folder / named[1]).write_text(file)
    sessions = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text + "\n", re.M)
    assert sessions
    for command, expected in sessions:
        program, *arguments = shlex.split(command)
        assert program == "python"
        assert python(*arguments, cwd=folder) == (0, expected)


INSTALL = ("'.[all]'", "-e '.[test]'")


def run_shell(text, folder):
    """Run calls of rngscope; of the set-up commands, which install, check the syntax."""
    check = subprocess.run(["sh", "-n", "-c", text], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
    if any(part in text for part in INSTALL):
        return
    for line in text.splitlines():
        program, *arguments = shlex.split(line)
        assert (program, arguments[:2]) == ("python", ["-m", "rngscope"])
        status, output = python(*arguments, cwd=folder)
        assert status == 0, output


RUNNERS = {"pycon": run_session, "python": run_python, "console": run_console, "sh": run_shell}


@pytest.mark.parametrize(
    "language, text", [pytest.param(*rest, id=name) for name, *rest in EXAMPLES]
)
def test_example(language, text, tmp_path):
    assert language in RUNNERS, f"nothing runs a block of {language!r}; use one of {set(RUNNERS)}"
    RUNNERS[language](text, tmp_path)


@pytest.mark.parametrize(
    "language, text",
    [
        ("pycon", ">>> 1 + 1\n3"),
        ("pycon", "no session"),
        ("python", "x = 1"),
        ("python", "def test_wrong():\n    assert False"),
        ("console", "$ python -c 'print(1)'\n2"),
        ("console", "$ python -c 'raise SystemExit(3)'"),
        ("console", "$ rm draw.py"),
        ("console", "no command"),
        ("sh", "python -m rngscope run"),
        ("sh", "if"),
        ("sh", "ls"),
        ("", "what is this"),
    ],
)
def test_a_wrong_example_fails(language, text, tmp_path):
    """These tests can fail."""
    with pytest.raises(AssertionError):
        test_example(language, text, tmp_path)


def test_no_example_hides_from_the_tests():
    text = README.read_text(encoding="utf-8")
    document = read(text)
    assert not list(document.findall(nodes.doctest_block)), "use .. code-block:: pycon"
    assert len(EXAMPLES) == text.count(".. code-block:: ") > 10
    assert not re.search(r"doctest: *\+", text)


def test_the_readme_renders_without_warnings():
    text = README.read_text(encoding="utf-8")
    html = docutils_core.publish_string(text, writer="html5", settings_overrides=STRICT)
    assert b'<h1 class="title">rngscope</h1>' in html


def test_a_warning_in_the_readme_would_fail():
    from docutils.utils import SystemMessage

    with pytest.raises(SystemMessage):
        read("Title\n===\n")


@pytest.mark.parametrize("part", INSTALL)
def test_each_set_up_command_is_there_once(part):
    assert [part in text for _, language, text in EXAMPLES if language == "sh"].count(True) == 1


def test_limits_come_before_everything_else():
    """The reader learns what it cannot do before how to install and use it."""
    titles = [node.astext() for node in read(README.read_text("utf-8")).findall(nodes.title)]
    assert titles[:3] == ["rngscope", "What it cannot do", "Install"]


def test_every_public_name_and_argument_is_told():
    import inspect

    text = README.read_text(encoding="utf-8")
    for name in [*rngscope.__all__, *inspect.signature(rngscope.rng_scope).parameters]:
        assert name in text


def test_the_first_example_is_short():
    _, language, text = EXAMPLES[0]
    assert language == "pycon" and len(text.splitlines()) <= 10
