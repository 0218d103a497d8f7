"""Names of files and tests that do not depend on the folder that pytest starts in.

A node id begins with the path from pytest's root folder, which depends on the folder that
pytest starts in, on its arguments, on ``-c`` and on ``--rootdir``. The names here begin with
the path from the project that the file belongs to. In most projects that is the same.
"""

from __future__ import annotations

from functools import lru_cache
from inspect import unwrap
from os.path import isabs
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import pytest

#: A folder with one of these is a project: what pytest and the tools for packages read.
_PROJECT_FILES = (
    "pytest.toml",
    ".pytest.toml",
    "pytest.ini",
    ".pytest.ini",
    "pyproject.toml",
    "tox.ini",
    "setup.cfg",
    "setup.py",
)
#: So is one of these, whatever the virtual environment stands in.
_INSTALLED = ("site-packages", "dist-packages")


@lru_cache(maxsize=None)
def _project_of(folder: Path) -> Path:
    """Return the nearest project above a folder, or what holds its package and conftests."""
    upwards = (folder, *folder.parents)
    for parent in upwards:
        if parent.name in _INSTALLED or any((parent / name).is_file() for name in _PROJECT_FILES):
            return parent
    top = next(parent for parent in upwards if not (parent / "__init__.py").is_file())
    with_conftest = [parent for parent in upwards if (parent / "conftest.py").is_file()]
    return min([top, *with_conftest], key=lambda parent: len(parent.parts))


@lru_cache(maxsize=None)
def path_name(path: Path) -> str:
    """Return the path of a file or a folder from its project, with slashes."""
    folder = path if path.is_dir() else path.parent
    name = path.relative_to(_project_of(folder)).as_posix()
    return "" if name == "." else name


def node_id(node: pytest.Item | pytest.Collector) -> str:
    """Return the node id as it is without xdist, which appends the name of a group."""
    name: str = node.nodeid
    if "@" not in name or not node.get_closest_marker("xdist_group"):
        return name
    return name.rpartition("@")[0]


def node_name(node: Any) -> str:
    """Return the node id with the path from the project; the session has none."""
    name = node_id(node)
    if not name:
        return ""
    _, colons, rest = name.partition("::")
    return path_name(node.path) + colons + rest


def definition_name(fixturedef: pytest.FixtureDef[Any]) -> str:
    """Return the name of the file, and of the class, that a fixture is defined in.

    Its ``baseid`` does not tell a plugin from a conftest file in the root folder, and for a
    conftest file above that folder it is wrong.
    """
    path, colons, rest = str(getattr(fixturedef, "baseid", "")).partition("::")
    function = unwrap(fixturedef.func)
    function = getattr(function, "func", function)
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    return (path_name(Path(file)) if isabs(file) else path) + colons + rest
