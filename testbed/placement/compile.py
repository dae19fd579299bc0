"""Compiles the searches into a library: `python -m testbed.placement.compile LINKER PROCESSOR FILE`.

numba compiles each function for the arguments that the searches call it with, by running them once. Its machine code
goes into a shared library with a table of the functions, which later processes call without numba.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
from numba import types
from numba.np.numpy_support import as_dtype

from testbed.placement.cost import machine_code
from testbed.placement.cost.native import TABLE, array_kind
from testbed.temporary import temporary_folder


def kind_of(one: Any) -> str:
    """The kind of an argument or a result of this type of numba's, as `native` tells them apart; "" is none of its."""
    if isinstance(one, types.Array):
        return array_kind(as_dtype(one.dtype), one.ndim, one.layout == "C")
    if isinstance(one, types.BaseTuple):
        return "(" + "".join(map(kind_of, one.types)) + ")"  # type: ignore[attr-defined]
    return {"int64": "i", "float64": "f", "bool": "b", "none": "n"}.get(str(one), "")


def overloads() -> Iterator[tuple[str, str, Any]]:
    """The functions by name, and what was compiled for each of the kinds of arguments that Python can call it with."""
    machine_code.by_numba = {}
    from testbed.placement.annealing import search
    from testbed.placement.cost import kernel
    from testbed.placement.local import sweep

    search.warm_up()
    sweep.warm_up()
    kernel.warm_up()
    for name, function in machine_code.by_numba.items():
        found = {}
        for one in function.overloads.values():
            kinds = [kind_of(argument) for argument in one.signature.args]
            if all(kinds):  # in machine code, a constant is an argument of a kind of its own
                found["".join(kinds)] = one
        for joined, one in found.items():
            yield name, joined, one


def machine_code_of(overload: Any, symbol: str, machine: Any) -> bytes:
    """An object file with this function under this name, and nothing else to be seen; what it calls is inside."""
    module = overload.library._final_module.clone()
    for function in module.functions:
        if function.name == overload.fndesc.llvm_func_name:
            function.name = symbol
        elif not function.is_declaration:
            function.linkage = llvm.Linkage.internal
    for variable in module.global_variables:
        if not variable.is_declaration:
            variable.linkage = llvm.Linkage.internal
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    return machine.emit_object(module)  # type: ignore[no-any-return]


def main() -> None:
    """Compile and link."""
    linker, processor, made = sys.argv[1:]
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        processor, opt=3, reloc="pic", codemodel="default"
    )
    table: dict[str, dict[str, tuple[str, str]]] = {}
    with temporary_folder("headroom-search-") as folder:
        for number, (function, kinds, overload) in enumerate(overloads()):
            symbol = f"search_{number}"
            (folder / f"{number}.o").write_bytes(machine_code_of(overload, symbol, machine))
            table.setdefault(function, {})[kinds] = symbol, kind_of(overload.signature.return_type)
        (folder / "table.c").write_text(f"const char {TABLE}[] = {json.dumps(json.dumps(table))};\n")
        files = sorted(map(str, [*folder.glob("*.o"), folder / "table.c"]))
        subprocess.run([linker, "-shared", "-fPIC", "-w", "-o", made, *files, "-lm"], check=True)


if __name__ == "__main__":
    main()
