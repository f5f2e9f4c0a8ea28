"""What no single file can keep: doors, lengths, errors, configurations, laziness. Layers are import-linter's."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipecrypt import errors
from pipecrypt.config.load import build_spec, load_config
from pipecrypt.config.run import check_config
from pipecrypt.errors import PipecryptError
from tools.size import kinds_of, measure

_ROOT = Path(__file__).parents[1]
_PACKAGE = _ROOT / "pipecrypt"
_FILES = sorted(_PACKAGE.rglob("*.py"))
_CONFIGS = sorted((_ROOT / "configs").glob("*.yaml"))
# Most files have 150 to 400 lines. A longer one is a room of its own, or holds two ideas.
_MAX_FILE_LINES = 600
_MAX_FUNCTION_LINES = 40
_HEAVY = ("azure", "cryptography", "fsspec", "google", "numpy", "pandas", "pyarrow", "pydantic", "rich", "ruamel")

# Third party -> the rooms or files that may import it.
_DOORS = {
    "azure": ["store/azure.py", "keys/schemes/azure_kv.py"],
    "blake3": ["crypto/"],
    "boto3": ["keys/schemes/aws_kms.py"],
    "cryptography": ["crypto/"],
    "dask": ["runs/workers/dask.py"],
    "distributed": ["runs/workers/dask.py"],
    "fsspec": ["store/", "reading/filesystem.py"],
    "google": ["keys/schemes/gcp_kms.py"],
    "pkcs11": ["keys/schemes/pkcs11.py"],
    "pyarrow": ["formats/", "reading/"],
    "pydantic": ["config/"],
    "pydantic_core": ["config/"],
    "rich": ["cli/"],
    "ruamel": ["config/"],
    "typer": ["cli/"],
}

# Room -> the files of it that other rooms may import; all others are its own.
_ROOM_DOORS = {
    "formats": ["formats.batches", "formats.compression", "formats.options", "formats.row_groups"],
}

# Rooms that only their own house imports.
_INNER_ROOMS = ["keys/schemes", "parquet/blob", "parquet/carry", "parquet/pages", "parquet/table", "parquet/wire"]

# What changes local files, or looks at them past `store/beneath.py`. Who else may, and why: the place is named by the
# user, not found in a sink, or it has a way of its own that follows no link.
# fmt: off
_CHANGING_CALLS = {
    "os": {
        "open", "unlink", "remove", "rename", "renames", "replace", "rmdir", "removedirs", "mkdir", "makedirs",
        "mkfifo", "mknod",
        "link", "symlink", "truncate", "chmod", "chown", "lchown", "utime", "setxattr", "removexattr",
        "access", "walk", "fwalk", "scandir", "listdir", "stat", "lstat", "readlink",
    },
    "shutil": {"rmtree", "move", "copy", "copy2", "copyfile", "copytree", "copymode", "copystat", "chown"},
}
_CHANGING_METHODS = {
    "write_text", "write_bytes", "unlink", "rmdir", "mkdir", "touch", "rename", "symlink_to", "hardlink_to", "chmod",
    "lchmod", "stat", "lstat",
}
# fmt: on
_REACHES_FILES = {
    "store/beneath.py": "the one way to local files",
    "store/local_sources.py": "lists sources, where links are the user's own; changes nothing",
    "store/process_identity.py": "reads /proc",
    "runs/workers/fork_server.py": "counts its own threads in /proc",
    "config/run.py": "asks whether the user may write where the configuration says",
    "runs/plan/output_checks.py": "compares two spellings of a directory that exists",
    "cli/render.py": "opens /dev/null",
    "cli/report.py": "writes a page where the user says",
    "cli/run.py": "writes a first configuration where the user says",
    "keys/schemes/keystore_file.py": "a keystore that the user names, held by its directory",
    "vocabulary/state.py": "the state directory of this user",
    "keys/credentials.py": "reads what the user's environment names, and key files that the user names",
    "keys/schemes/pkcs11.py": "reads a library that the user names",
}


def _name(path: Path) -> str:
    return path.relative_to(_PACKAGE).as_posix()


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _error_classes() -> list[type[PipecryptError]]:
    return [kind for name in errors.__all__ if issubclass(kind := getattr(errors, name), PipecryptError)]


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_each_third_party_has_one_door(path: Path) -> None:
    ours = {"__future__", "pipecrypt", *sys.stdlib_module_names}
    foreign = {name.partition(".")[0] for name in _imported(_tree(path))} - ours

    for third_party in foreign:
        assert third_party in _DOORS, f"{third_party} has no door"
        doors = _DOORS[third_party]
        assert any(_name(path).startswith(door) for door in doors), f"{third_party} is imported only in {doors}"


@pytest.mark.parametrize("room", _ROOM_DOORS)
def test_a_room_is_entered_by_its_doors(room: str) -> None:
    doors = {f"pipecrypt.{door}" for door in _ROOM_DOORS[room]}
    assert all((_PACKAGE / f"{door.removeprefix('pipecrypt.').replace('.', '/')}.py").is_file() for door in doors)
    for path in _FILES:
        if not _name(path).startswith(f"{room}/"):
            inner = {name for name in _imported(_tree(path)) if name.startswith(f"pipecrypt.{room}.")} - doors
            assert not inner, f"{_name(path)} imports {sorted(inner)}"


@pytest.mark.parametrize("room", _INNER_ROOMS)
def test_an_inner_room_is_imported_from_its_own_house_alone(room: str) -> None:
    assert (_PACKAGE / room).is_dir()
    house, inner = room.partition("/")[0], f"pipecrypt.{room.replace('/', '.')}"
    for path in _FILES:
        names = [name for name in _imported(_tree(path)) if f"{name}.".startswith(f"{inner}.")]
        assert not names or _name(path).startswith(f"{house}/"), f"{_name(path)} imports {names}"


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_only_the_store_knows_which_places_are_local(path: Path) -> None:
    names = {node.attr for node in ast.walk(_tree(path)) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(_tree(path)) if isinstance(node, ast.Name)}
    assert "is_local" not in names or _name(path).startswith("store/")


def test_a_kind_is_asked_and_never_told_apart() -> None:
    kinds = kinds_of(_PACKAGE)
    assert len(kinds) > 3
    assert [_name(path) for path in _FILES if measure(path, kinds).kind_checks] == []


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_files_list_what_others_may_use(path: Path) -> None:
    tree = _tree(path)
    lists = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    if path.name in {"__init__.py", "__main__.py"} and not lists:
        return
    listed = ast.literal_eval(lists[0].value)
    assert len(listed) == len(set(listed))
    if _name(path) != "__init__.py":  # whose names are loaded on first use
        assert set(listed) <= set(_defined(tree.body))


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.If | ast.Try):
            yield from _defined([each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)])


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_local_files_are_reached_in_one_way(path: Path) -> None:
    """Whoever goes past `store/beneath.py` may follow a link that somebody put into a sink."""
    calls = {ast.unparse(node) for node in ast.walk(_tree(path)) if _changes_files(node)}
    assert not calls or _name(path) in _REACHES_FILES, f"{sorted(calls)}: use pipecrypt.store.beneath"


def test_who_may_reach_files_does() -> None:
    unused = [name for name in _REACHES_FILES if not any(map(_changes_files, ast.walk(_tree(_PACKAGE / name))))]
    assert unused == []


def _changes_files(node: ast.AST) -> bool:
    """Say whether a node reaches files, or imports what does under a name that would not be noticed."""
    if isinstance(node, ast.ImportFrom):
        return any(alias.name in {"*", *_CHANGING_CALLS.get(node.module or "", ())} for alias in node.names)
    if isinstance(node, ast.Import):
        return any(alias.name in _CHANGING_CALLS and alias.asname is not None for alias in node.names)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id == "open" and _is_for_writing(node, 1)
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _calls_changing(node, node.func)


def _calls_changing(call: ast.Call, method: ast.Attribute) -> bool:
    owner = method.value.id if isinstance(method.value, ast.Name) else ""
    if owner in _CHANGING_CALLS:
        return method.attr in _CHANGING_CALLS[owner]
    if method.attr == "stat" and _is_store(method.value):
        return False
    if method.attr == "replace":  # of a path, which takes a single argument; that of texts takes two
        return len(call.args) == 1 and not call.keywords
    return method.attr in _CHANGING_METHODS or (method.attr == "open" and _is_for_writing(call, 0))


def _is_store(owner: ast.expr) -> bool:
    """Say whether a method is that of a `Store`, which has a `stat` too, by what stores are called."""
    opened = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "open_store"
    return opened or ast.unparse(owner) in {"self", "store", "self.store", "self._store"}


def _is_for_writing(call: ast.Call, place: int) -> bool:
    given = [each.value for each in call.keywords if each.arg == "mode"] or call.args[place : place + 1]
    mode = given[0].value if given and isinstance(given[0], ast.Constant) else ""
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("os.unlink(path)", True),
        ("shutil.rmtree(path)", True),
        ("open(path, 'w')", True),
        ("open(path, mode='ab')", True),
        ("Path(path).write_text('x')", True),
        ("Path(path).open('x', encoding='utf-8')", True),
        ("path.open(mode='r+b')", True),
        ("path.replace(other)", True),
        ("path.rename(other)", True),
        ("path.unlink(missing_ok=True)", True),
        ("path.lstat()", True),
        ("path.stat()", True),
        ("Path(store).stat()", True),
        ("store.stat()", False),
        ("open_store(location).stat()", False),
        ("store.unlink()", True),
        ("os.lstat(path)", True),
        ("os.stat(path, follow_symlinks=False)", True),
        ("os.mkfifo(path)", True),
        ("from os import unlink", True),
        ("from os import stat_result", False),
        ("from shutil import *", True),
        ("import os as system", True),
        ("import os", False),
        ("path.open('rb')", False),
        ("cipher.open(nonce, sealed)", False),
        ("moment.replace(tzinfo=None)", False),
        ("open(path)", False),
        ("open(path, 'rb')", False),
        ("text.replace('a', 'b')", False),
    ],
)
def test_ways_past_it_are_noticed(code: str, is_found: bool) -> None:
    assert any(map(_changes_files, ast.walk(ast.parse(code)))) is is_found


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= _MAX_FILE_LINES

    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # Signature and docstring do not count: they are what a reader wants to be long.
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= _MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_files_say_what_they_are(path: Path) -> None:
    docstring = ast.get_docstring(_tree(path))

    assert docstring is not None
    assert docstring.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_only_the_renderer_prints(path: Path) -> None:
    calls = [node.func for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]

    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    if _name(path) != "cli/render.py":
        assert "sys.stdout.write" not in path.read_text(encoding="utf-8")


def test_every_error_has_a_hint_and_an_exit_code() -> None:
    defined = {node.name for node in _tree(_PACKAGE / "errors.py").body if isinstance(node, ast.ClassDef)}

    assert defined == set(errors.__all__)
    for kind in _error_classes():
        assert kind.__name__.endswith("Error")
        assert kind.exit_code in {1, 2, 3, 4, 5}
        assert kind.default_hint
        assert kind.default_hint[0].islower()
        assert not kind.default_hint.endswith(".")
        assert kind("x").hint == kind.default_hint


def test_no_error_of_the_tree_is_defined_elsewhere() -> None:
    for path in _FILES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ClassDef) and _name(path) != "errors.py":
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert not bases & set(errors.__all__), f"{node.name} in {_name(path)}"


@pytest.mark.parametrize("path", _CONFIGS, ids=lambda path: path.name)
def test_every_configuration_loads_and_plans(path: Path) -> None:
    loaded = load_config(path, {})

    plan = check_config(path, offline=True, environ={})
    assert plan.sink.endswith(loaded.model.sink.url.removeprefix("./").removeprefix("../"))
    assert build_spec(loaded).policy.engine_policy().key_references()


def test_the_help_in_the_readme_is_real() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipecrypt", "--help"],
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() in (_ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import pipecrypt; pipecrypt.errors.PipecryptError; pipecrypt.__version__", set()),
        ("from pipecrypt.cli.main import main; main(['--help'])", set()),
        # typer looks for pydantic types when it builds a command's options.
        ("from pipecrypt.cli.main import main; main(['encrypt', '--help'])", {"pydantic"}),
    ],
)
def test_what_is_not_needed_is_not_imported(code: str, allowed: set[str]) -> None:
    unwanted = [name for name in _HEAVY if name not in allowed]
    check = f"import sys; print([name for name in {unwanted!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", f"{code}; {check}"], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"
