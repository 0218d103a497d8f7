"""The house: small files, functions and classes; arrows that point down; nobody's private names."""

import ast
from pathlib import Path

import pytest

import rngscope

PACKAGE = Path(rngscope.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
#: Lines of a file and of a function, methods of a class.
FILE, FUNCTION, CLASS = 350, 40, 10

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(path):
    return ".".join(("rngscope", *path.relative_to(PACKAGE).with_suffix("").parts))


def nodes(path, kinds):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_read_in_one_go(path):
    assert len(path.read_text().splitlines()) <= FILE
    for node in nodes(path, _FUNCTIONS):
        assert node.end_lineno - node.lineno < FUNCTION, node.name
    for node in nodes(path, ast.ClassDef):
        assert sum(isinstance(item, _FUNCTIONS) for item in node.body) <= CLASS, node.name


def imported_names(node):
    """Yield the modules and names that a statement imports from the package."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rngscope"):
        for alias in node.names:
            yield node.module, alias.name


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_uses_no_private_name_of_another(path):
    """Modules begin with an underscore, as the package has few public ones; names do not."""
    modules = set()
    for node in nodes(path, ast.ImportFrom):
        for module, name in imported_names(node):
            is_module = (PACKAGE.joinpath(*module.split(".")[1:], f"{name}.py")).exists()
            modules.update({name} if is_module else ())
            assert is_module or name.startswith("__") or not name.startswith("_"), (module, name)
    for node in nodes(path, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id in modules:
            assert not node.attr.startswith("_"), f"{node.value.id}.{node.attr}"


def test_imports_go_round_in_no_circle():
    """Apart from those inside functions, and for type checkers only."""
    below = {name_of(path).removesuffix(".__init__"): set() for path in FILES}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            for module, name in imported_names(node):
                full, mine = f"{module}.{name}", name_of(path).removesuffix(".__init__")
                below[mine].add(full if full in below else module)
    done = set()
    while len(done) < len(below):
        ready = {name for name in below.keys() - done if below[name] - {"rngscope"} <= done}
        assert ready, {name: below[name] - done for name in below.keys() - done}
        done |= ready


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_an_import_inside_a_function_has_a_reason(path):
    """A comment in front of it, or in the function's first such place, gives the cost it saves."""
    lines = path.read_text().splitlines()
    for function in nodes(path, _FUNCTIONS):
        for node in ast.walk(function):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                before = lines[function.lineno - 1 : node.lineno]
                assert any("#" in line or '"""' in line for line in before), lines[node.lineno - 1]
