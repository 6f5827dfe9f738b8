"""Imports point to lower layers only, and the core knows no I/O."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hctef

PACKAGE = Path(hctef.__file__).parent
LAYERS = [
    ["_locks", "exceptions", "_ranges", "_memory", "_huge", "_raw", "_shared_memory", "_stats"],
    [
        "_urls",
        "_http",
        "_heads",
        "_pages",
        "_intervals",
        "_arena",
        "_disk",
        "_width",
        "_link",
        "_patterns",
        "_regions",
        "_pace",
        "_foresight",
        "_policy",
        "_traps",
        "_repr",
        "_advice",
        "_cursor",
        "_progress",
        "_options",
        "_retries",
        "_uffd",
        "_faulting",
        "_paging",
    ],
    [
        "_gaps",
        "_wishes",
        "_steps",
        "_slots",
        "_lanes",
        "_transfer",
        "_residency",
        "_wishing",
        "_storing",
        "_delivery",
        "_streaming",
        "_planner",
        "_opening",
    ],
    [
        "_interrupts",
        "_workers",
        "_drivers",
        "_async_driver",
        "_proxies",
        "_replay",
        "_http1",
        "_pools",
        "_urllib3_errors",
        "_urllib3",
        "_aiohttp",
    ],
    ["pager"],
    ["_remote", "_reader", "_sync_reader", "_views"],
    ["http_file", "remote_buffer", "aio"],
    ["_serve", "_demo", "cli", "__main__", "__init__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
PURE = {name for names in LAYERS[:3] for name in names} - {"_locks"}
IO = {"asyncio", "threading", "socket", "ssl", "urllib3", "aiohttp", "requests", "http", "subprocess", "select"}


def imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it, except for type checkers only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


MODULES = sorted(str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_each_module_has_a_layer_and_imports_downwards(name: str) -> None:
    """Within a layer imports are free of cycles, since Python itself refuses those at the top of a module."""
    own = name.partition("/")[0]
    assert own in LEVEL, f"say in which layer {name}.py belongs"
    for module in imports(PACKAGE / f"{name}.py"):
        if module.startswith("hctef."):
            assert LEVEL[module.split(".")[1]] <= LEVEL[own], f"{name} imports {module}, which lies above it"


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_core_does_no_io(name: str) -> None:
    """No transport, thread or event loop below the drivers; urllib3's Retry, the policy, is none."""
    found = {module.split(".")[0] for module in imports(PACKAGE / f"{name}.py")}
    assert not found & (IO - ({"urllib3"} if name == "_retries" else set()))


def test_importing_hctef_loads_neither_numpy_nor_aiohttp() -> None:
    """They are loaded when they are used."""
    code = "import sys, hctef; print(sorted({'numpy', 'aiohttp', 'asyncio', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
