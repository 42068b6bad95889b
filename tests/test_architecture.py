"""The house: what the import contracts cannot say, read from the source of every module.

`lint-imports` holds the order of the rooms (pyproject.toml). Here: the purity of `decide`, one home for each heavy
library, sizes, docstrings, cycles, what an import loads, and what may stand in a committed file.
"""

from __future__ import annotations

import ast
import fnmatch
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "workbench"

# The pure room: everything it needs arrives as an argument.
PURE_THIRD_PARTY = {"numpy", "scipy", "rapidfuzz", "sacrebleu", "bm25s", "jinja2"}
IMPURE = {
    "asyncio", "concurrent", "ctypes", "datetime", "glob", "http", "importlib", "io", "locale", "logging", "mmap",
    "multiprocessing", "os", "pathlib", "platform", "queue", "random", "sched", "secrets", "select", "selectors",
    "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib",
    "uuid",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}
FORBIDDEN_ANYWHERE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "requests"}
# Library -> the modules that may import it.
HOMES = {
    "plotly": "workbench.show*",
    "ipywidgets": "workbench.show*",
    "anywidget": "workbench.show*",
    "duckdb": "workbench.record*",
    "opentelemetry": "workbench.record.otlp",
    "papermill": "workbench.study.report",
    "httpx": "workbench.act.http workbench.act.transport",
    "aiohttp": "workbench.act.transport",
    "yarl": "workbench.act.transport",
    "tiktoken": "workbench.act.vocab",
    "tiktoken_ext": "workbench.act.vocab",
    "jinja2": "workbench.decide.template_language",
}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 420, 60

HEAVY = {
    "jinja2",
    "tiktoken",
    "numpy",
    "pandas",
    "plotly",
    "scipy",
    "papermill",
    "duckdb",
    "ipywidgets",
    "opentelemetry",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A module of the package and its source."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    def __str__(self) -> str:
        return self.name


def read_module(path: Path) -> Module:
    """A module parsed from its file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    text = path.read_text("utf-8")
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name=name, path=path, text=text, tree=ast.parse(text))


MODULES = [read_module(path) for path in sorted(PACKAGE.rglob("*.py"))]
NAMES = {module.name for module in MODULES}
every_module = pytest.mark.parametrize("module", MODULES, ids=str)
every_pure_module = pytest.mark.parametrize(
    "module", [module for module in MODULES if f"{module.name}.".startswith("workbench.decide.")], ids=str
)


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported, also inside functions; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def libraries(module: Module) -> Iterator[tuple[int, str]]:
    """Line and top-level name of everything imported from outside the package."""
    tops = ((line, name.partition(".")[0]) for line, name in imported(module.tree))
    return ((line, top) for line, top in tops if top not in ("workbench", "__future__"))


def called_names(module: Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every call whose target is a plain name or attribute path."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield node.lineno, ast.unparse(node.func)


def type_checking_only(tree: ast.Module) -> Iterator[ast.If]:
    """The blocks that only a type checker reads."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Public functions and classes, and the public methods of public classes; overloads and setters excepted."""
    for node in body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        if any(re.search(r"overload$|\.setter$", ast.unparse(decorator)) for decorator in node.decorator_list):
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node.body, f"{prefix}{node.name}.")


# -- the pure room


@every_pure_module
def test_decide_imports_nothing_that_touches_the_world(module: Module) -> None:
    """No clock, chance, file, process or network, and only the agreed libraries."""
    found = set(libraries(module))
    assert not [entry for entry in found if entry[1] in IMPURE]
    assert not [entry for entry in found if entry[1] not in sys.stdlib_module_names | PURE_THIRD_PARTY]


@every_pure_module
def test_decide_calls_nothing_that_touches_the_world(module: Module) -> None:
    """No file is opened, nothing is printed, no draw is made: draws arrive as arguments."""
    calls = set(called_names(module))
    assert not [call for call in calls if call[1] in IMPURE_CALLS]
    assert not [call for call in calls if re.match(r"(np|numpy)\.(random|load|save|fromfile|memmap|loadtxt)", call[1])]


# -- every room


@every_module
def test_heavy_libraries_stay_at_home(module: Module) -> None:
    """Each library that shapes a room is imported by that room alone, in types too."""
    found = [(line, top) for line, top in libraries(module) if top in HOMES]
    at_home = {top: any(fnmatch.fnmatchcase(module.name, home) for home in HOMES[top].split()) for _, top in found}
    assert not [entry for entry in found if not at_home[entry[1]]]


@every_module
def test_nothing_unpickles_or_brings_its_own_http(module: Module) -> None:
    """Data are never code, and there is one HTTP client."""
    assert not [entry for entry in libraries(module) if entry[1] in FORBIDDEN_ANYWHERE]
    assert not [call for call in called_names(module) if call[1].endswith((".read_pickle", ".to_pickle"))]


@every_module
def test_files_and_functions_stay_small(module: Module) -> None:
    """A file fits in the head, a function on a screen."""
    functions = [node for node in ast.walk(module.tree) if isinstance(node, Function)]
    long = [(node.lineno, node.name) for node in functions if node.end_lineno - node.lineno >= MAX_FUNCTION_LINES]
    assert not long
    assert module.text.count("\n") <= MAX_FILE_LINES


@every_module
def test_everything_public_is_documented(module: Module) -> None:
    """Modules, public classes, functions and methods say what they give back."""
    assert ast.get_docstring(module.tree)
    assert not [name for name, node in public_definitions(module.tree.body) if not ast.get_docstring(node)]


def test_there_is_no_import_cycle() -> None:
    """The modules can be put in an order in which each needs only earlier ones, lazy imports included."""
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        types = {entry for block in type_checking_only(module.tree) for entry in imported(block)}
        names = {name for _, name in set(imported(module.tree)) - types}
        graph[module.name] = {name if name in NAMES else name.rpartition(".")[0] for name in names} & NAMES
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


# -- what an import loads


def loaded_by(program: str) -> set[str]:
    """The top-level modules in memory after a program has run in a fresh interpreter."""
    report = "print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    program = f"import atexit, sys; atexit.register(lambda: {report}); {program}"
    # Coverage in the child would load modules of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_no_heavy_library() -> None:
    """`import workbench` is quick: names load on first use."""
    loaded = loaded_by("import workbench")
    assert "workbench" in loaded
    assert not loaded & HEAVY


def test_asking_for_help_loads_no_heavy_library() -> None:
    """`workbench --help` answers at once."""
    loaded = loaded_by("sys.argv = ['workbench', '--help']; from workbench.cli import main; main()")
    assert "typer" in loaded
    assert not loaded & HEAVY


# -- the tests themselves


def test_a_test_cannot_leave_this_machine() -> None:
    """The guard refuses an address, a name and an attempt without an exception, and lets loopback through."""
    with socket.socket() as outside:
        for attempt in (outside.connect, outside.connect_ex):
            with pytest.raises(RuntimeError, match=re.escape("192.0.2.1")):
                attempt(("192.0.2.1", 80))
    with pytest.raises(RuntimeError, match=re.escape("example.invalid")):
        socket.create_connection(("example.invalid", 80))
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_a_test_sees_nothing_of_the_shell() -> None:
    """No setting of a developer's shell changes what the tests find."""
    assert not [name for name in os.environ if name.startswith("WORKBENCH_") or name.lower().endswith("_proxy")]


# -- what may stand in a committed file

# Written in pieces, so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:wor[k]|roo[t]|hom[e]|User[s])/\w")
REGISTRY = re.compile(r"(?:p[y]pi|pythonh[o]sted|n[p]mjs|deb[i]an|anac[o]nda)\.(?:org|com)")


def committed_files() -> list[Path]:
    """The files git knows or would take; without git, everything outside hidden and generated folders."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return [path for path in (ROOT / name for name in done.stdout.split("\0") if name) if path.is_file()]
    generated = {".venv", ".git", "dist", "build", "__pycache__", "log", "recordings", "reports"}
    caches = re.compile(r"\.\w+_cache|\.hypothesis|\.ipynb_checkpoints")
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not any(p in generated or caches.fullmatch(p) for p in path.relative_to(ROOT).parts)
    ]


def test_committed_files_name_no_machine_and_no_registry() -> None:
    """A clone works anywhere: no path of one machine, no address of a package registry."""
    found = []
    for path in committed_files():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (MACHINE_PATH, REGISTRY):
            found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in pattern.finditer(text)]
    assert not found


def test_the_lock_names_no_address_and_hashes_everything() -> None:
    """The lock serves any registry: pins and hashes only."""
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = [at for at, line in enumerate(lines) if line[:1].isalnum()]
    assert pins
    assert not [lines[at] for at in pins if "--hash=sha256:" not in lines[at + 1]]
    assert not [line for line in lines if "://" in line or line.startswith("-")]
