"""The kernels' library is compiled once, anew for a changed source, and into a folder that its user can trust."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import kernel_model as model
import numpy as np
import pytest

from testbed.decoder import compiled, kernels
from testbed.errors import EnvironmentLacks

ROOT = Path(__file__).parents[3]
SOURCE = '__attribute__((visibility("default"))) int answer(void) { return 42; }'
PREPARE = "from pathlib import Path; from testbed.decoder import compiled; compiled.SOURCE = Path({!r}); "
LOAD = "compiled.INCLUDED = (); print(compiled.load().answer())"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small source instead of the kernels', in a folder of its own, and a cache folder beside it."""
    file = tmp_path / "tree" / "kernels.c"
    file.parent.mkdir()
    file.write_text(SOURCE)
    monkeypatch.setattr(compiled, "SOURCE", file)
    monkeypatch.setattr(compiled, "INCLUDED", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return file


def libraries(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*") if file.is_file() and file.name != "kernels.c")


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "find_program", lambda name: None)


def unwritable(source: Path) -> None:
    """Let the folder beside the source take no file, from root either."""
    (source.parent / "__pycache__").write_text("")


def test_the_first_use_compiles_and_the_next_finds_it(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled.load().answer() == 42
    no_compiler(monkeypatch)
    assert compiled.load().answer() == 42
    assert len(libraries(source.parent / "__pycache__")) == 1
    assert not (source.parents[1] / "cache").exists()


def test_other_users_can_read_what_root_compiled(source: Path) -> None:
    compiled.load()
    (library,) = (source.parent / "__pycache__").iterdir()
    assert library.stat().st_mode & 0o777 == 0o755


def test_a_changed_source_is_compiled_anew(source: Path) -> None:
    compiled.load()
    source.write_text(SOURCE.replace("42", "43"))
    assert compiled.load().answer() == 43
    source.write_text(SOURCE)
    assert compiled.load().answer() == 42


def test_processes_that_compile_at_the_same_time_leave_one_whole_library(source: Path) -> None:
    command = [sys.executable, "-c", PREPARE.format(str(source)) + LOAD]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0] for process in processes] == ["42\n"] * 4
    assert len(libraries(source.parent)) == 1


def test_a_damaged_library_is_compiled_anew(source: Path) -> None:
    folder = source.parent / "__pycache__"
    folder.mkdir()
    (folder / compiled._library_name()).write_bytes(b"\x7fELF")
    assert compiled.load().answer() == 42


def test_beside_a_source_that_cannot_be_written_to_it_lies_in_the_users_cache(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unwritable(source)
    assert compiled.load().answer() == 42
    cache = source.parents[1] / "cache" / "headroom"
    assert len(libraries(cache)) == 1
    assert cache.stat().st_mode & 0o777 == 0o700
    no_compiler(monkeypatch)
    assert compiled.load().answer() == 42


def test_a_cache_that_others_can_write_to_is_not_trusted(source: Path) -> None:
    unwritable(source)
    cache = source.parents[1] / "cache" / "headroom"
    cache.mkdir(parents=True)
    os.chmod(cache, 0o777)
    (cache / compiled._library_name()).write_bytes(b"not ours")
    with pytest.raises(EnvironmentLacks, match=r"no folder for the compiled kernels.c \(.*\): make one"):
        compiled.load()


def test_without_a_compiler_the_remedy_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_compiler(monkeypatch)
    with pytest.raises(EnvironmentLacks, match=r"no C compiler \(gcc or cc\).*: apt-get install gcc libc6-dev$"):
        compiled.load()


def test_a_source_that_does_not_compile_is_told_with_the_compilers_first_error(source: Path) -> None:
    source.write_text("#include <no_such_header.h>\n")
    with pytest.raises(EnvironmentLacks, match=r"could not compile .*kernels.c \(.*no_such_header.h.*\); where a part"):
        compiled.load()
    assert libraries(source.parent) == []


def test_the_code_for_other_kinds_of_processors_compiles_and_has_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "plain.so"
    subprocess.run(["gcc", *compiled.FLAGS, "-DPLAIN_ONLY", "-o", library, compiled.SOURCE], check=True)
    plain = ctypes.CDLL(str(library))
    x = np.random.default_rng(0).normal(size=(7, 96)).astype(np.float32)
    for format in kernels.FORMATS:
        data = kernels.quantise(format, x)
        w = kernels.Packed(format, 7, 96, data)
        y = np.empty((7, 7), np.float32)
        plain.matmul(*map(ctypes.c_void_p, (w.handle, x.ctypes.data, 7, None, y.ctypes.data)))
        assert y.tobytes() == model.product(model.widened(format, data, 7, 96), x).tobytes()
