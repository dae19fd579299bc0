"""Calls functions that numba compiled, in a library of their own and without numba.

numba takes a tuple apart into its fields, and an array into seven or more numbers; a function gets them as so many
arguments of C, after the places for its result and for an exception. None of our functions raises one.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

import numpy as np

TABLE = "headroom_search"  # the library's table
Overloads = dict[str, tuple[str, str]]  # the kinds of arguments -> symbol, and the kind of the result
_RESULTS: dict[str, Any] = {"f": ctypes.c_double, "i": ctypes.c_int64, "b": ctypes.c_uint8}
_TUPLES = 4  # that stay taken apart: a search calls many times with the same ones

_Flat = tuple[str, list[Any]]  # the kind of an argument, and what C gets for it
_recent: dict[int, tuple[tuple[Any, ...], _Flat]] = {}


def table_of(library: ctypes.CDLL) -> dict[str, Overloads]:
    """The library's functions by name."""
    table: dict[str, Overloads] = json.loads(ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, TABLE))))
    return table


class NativeFunction:
    """A compiled function of a library; it is called as its source would be."""

    def __init__(self, library: ctypes.CDLL, name: str, overloads: Overloads) -> None:
        self._name = name
        self._overloads = {
            kinds: (library[symbol], _RESULTS.get(result)) for kinds, (symbol, result) in overloads.items()
        }

    def __call__(self, *arguments: Any) -> Any:
        """Call it; raises TypeError for arguments of other types than it was compiled for."""
        kinds, values = "", []
        for argument in arguments:
            kind, flat = _taken_apart(argument)
            kinds += kind
            values += flat
        if kinds not in self._overloads:
            raise TypeError(f"{self._name} was compiled for {', '.join(self._overloads)}, and is called with {kinds}")
        call, kind_of_result = self._overloads[kinds]
        result, raised = (kind_of_result or ctypes.c_void_p)(), ctypes.c_void_p()
        status = call(ctypes.byref(result), ctypes.byref(raised), *values)
        if status:
            raise RuntimeError(f"{self._name} ended with status {status}")
        return result.value if kind_of_result else None


def _taken_apart(argument: Any) -> _Flat:
    if isinstance(argument, tuple):
        known = _recent.get(id(argument))
        if known is None or known[0] is not argument:
            known = argument, _fields_of(argument)
            if len(_recent) >= _TUPLES:
                _recent.clear()
            _recent[id(argument)] = known
        return known[1]
    return _flat(argument)


def _fields_of(argument: tuple[Any, ...]) -> _Flat:
    kinds, values = "", []
    for field in argument:
        kind, flat = _fields_of(field) if isinstance(field, tuple) else _flat(field)
        kinds += kind
        values += flat
    return f"({kinds})", values


def _flat(argument: Any) -> _Flat:
    if isinstance(argument, np.ndarray):
        address = argument.__array_interface__["data"][0]
        numbers = (0, 0, argument.size, argument.itemsize, address, *argument.shape, *argument.strides)
        return array_kind(argument.dtype, argument.ndim, argument.flags.c_contiguous), list(
            map(ctypes.c_int64, numbers)
        )
    if isinstance(argument, bool | np.bool_):
        return "b", [ctypes.c_int64(bool(argument))]
    if isinstance(argument, int | np.integer):
        return "i", [ctypes.c_int64(int(argument))]
    return "f", [ctypes.c_double(argument)]


def array_kind(dtype: np.dtype[Any], dimensions: int, contiguous: bool) -> str:
    """The kind of an array, which decides what is compiled for it."""
    return f"[{dtype.str}{dimensions}{'C' if contiguous else 'A'}]"
