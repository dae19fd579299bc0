"""The arithmetic of the decoder: products with packed matrices, norms, activations, attention, and conversions.

The code is C (`kernels.c`), called by ctypes, which lets other threads run meanwhile. Everything is computed in float32
in one fixed order that no format, chunk of rows, address or processor changes: a product with a packed matrix has the
bits of the product with the widened matrix, and a row's bits do not depend on the rows beside it.

Activations are C-contiguous float32 arrays (rows, columns), matrices are (out, in). A wrong pointer would kill the
process, so each function checks shapes and types first; mistakes are ValueErrors.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from testbed.decoder import compiled
from testbed.formats import FORMATS, PLAIN, packed_bytes

Floats = npt.NDArray[np.float32]
Buffer = bytes | bytearray | memoryview | npt.NDArray[np.uint8]

_CODES = {name: code for code, name in enumerate(FORMATS)}  # as the enum in kernels.c
_FLOAT32 = np.dtype(np.float32)
_pointer, _count, _float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Matrix(ctypes.Structure):
    _fields_ = [("data", _pointer), ("rows", _count), ("columns", _count), ("format", _count)]


class _Attention(ctypes.Structure):
    _fields_ = [
        *((name, _pointer) for name in ("keys", "values", "cosines", "sines", "q_norm", "k_norm")),
        *((name, _count) for name in ("format", "queries", "head_dim", "window")),
        ("scale", _float),
        ("epsilon", _float),
    ]


_ARGUMENTS: dict[str, tuple[object, ...]] = {
    "matmul": (_pointer, _pointer, _count, _pointer, _pointer),
    "rows_of": (_pointer, _pointer, _count, _pointer),
    "layer_norm": (_pointer, _count, _count, _pointer, _pointer, _float, _pointer),
    "rms_norm": (_pointer, _count, _count, _pointer, _float, _pointer),
    "gelu_new": (_pointer, _count, _pointer),
    "gelu": (_pointer, _count, _pointer),
    "exponentials": (_pointer, _count, _pointer),
    "silu_gate": (_pointer, _count, _count, _pointer),
    "attend": (_pointer, _pointer, _count, _count, _pointer),
    "pack": (_count, _pointer, _count, _pointer),
    "unpack": (_count, _pointer, _count, _pointer),
    "round_to": (_count, _pointer, _count, _pointer),
    "best_level": (),
    "use_level": (ctypes.c_int,),
}


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernels; compiles them at first use. Raises EnvironmentLacks if that cannot be."""
    loaded = compiled.load()
    for name, arguments in _ARGUMENTS.items():
        function = getattr(loaded, name)
        function.argtypes = arguments
        function.restype = _count if name in ("rows_of", "attend", "pack", "round_to") else ctypes.c_int
    return loaded


class Packed:
    """A matrix (rows, columns) in a format: rows one after another in a buffer, which stays alive with this."""

    __slots__ = ("_matrix", "columns", "data", "format", "handle", "rows")

    def __init__(self, format: str, rows: int, columns: int, data: Buffer) -> None:
        wanted = packed_bytes(format, rows, columns)
        self.data = np.frombuffer(data, np.uint8)
        if self.data.size != wanted:
            raise ValueError(f"{rows} x {columns} in {format} take {wanted} bytes, not {self.data.size}")
        self.format, self.rows, self.columns = format, rows, columns
        self._matrix = _Matrix(self.data.ctypes.data, rows, columns, _CODES[format])
        self.handle = ctypes.addressof(self._matrix)


class Attention:
    """What stays the same in all calls of `attend` for one KV group of one layer.

    `keys` and `values` are writable buffers for (positions, d) numbers in `format`, which stay alive with this. `rope`
    is a pair of float32 tables (at least positions, d/2), cosines and sines; the halves of a head are rotated.
    `q_norm` and `k_norm` are the weights (d,) of RMS norms of each head, applied before RoPE. With a `window`, a row
    attends to that many positions, its own included.
    """

    __slots__ = ("_attention", "_kept", "format", "handle", "head_dim", "positions", "queries")

    def __init__(
        self,
        format: str,
        keys: Buffer,
        values: Buffer,
        positions: int,
        queries: int,
        head_dim: int,
        scale: float,
        rope: tuple[Floats, Floats] | None = None,
        q_norm: Floats | None = None,
        k_norm: Floats | None = None,
        eps: float = 0.0,
        window: int | None = None,
    ) -> None:
        if format not in PLAIN:
            raise ValueError(f"a cache is in {', '.join(PLAIN[:-1])} or {PLAIN[-1]}, not in {format}")
        if min(positions, queries, head_dim) < 1 or (window is not None and window < 1):
            raise ValueError("positions, queries, head_dim and window must be at least 1")
        caches = [np.frombuffer(buffer, np.uint8) for buffer in (keys, values)]
        for cache in caches:
            if not cache.flags.writeable or cache.size < packed_bytes(format, positions, head_dim):
                raise ValueError(f"the cache is no writable buffer for {positions} x {head_dim} numbers in {format}")
        tables = []
        for table in rope or ():
            if head_dim % 2 or table.ndim != 2 or table.shape[0] < positions or table.shape[1] != head_dim // 2:
                raise ValueError(f"a table of RoPE is {table.shape}, not ({positions}, {head_dim} / 2)")
            tables.append(_address(_checked(table)))
        norms = [None if norm is None else _vector(norm, head_dim) for norm in (q_norm, k_norm)]
        self.format, self.positions, self.queries, self.head_dim = format, positions, queries, head_dim
        self._kept = (caches, rope, q_norm, k_norm)
        self._attention = _Attention(
            *(cache.ctypes.data for cache in caches),
            *(tables or (None, None)),
            *norms,
            _CODES[format],
            queries,
            head_dim,
            window or 0,
            scale,
            eps,
        )
        self.handle = ctypes.addressof(self._attention)


def matmul(w: Packed, x: Floats, bias: Floats | None = None) -> Floats:
    """The product (rows, out) of x (rows, in) with the transpose of w (out, in), plus a bias (out,)."""
    rows = _rows(x, w.columns)
    y = np.empty((rows, w.rows), _FLOAT32)
    library().matmul(w.handle, _address(x), rows, None if bias is None else _vector(bias, w.rows), _address(y))
    return y


def rows_of(w: Packed, ids: Sequence[int] | npt.NDArray[np.int64]) -> Floats:
    """Rows of w, widened: (n, columns). Raises IndexError for a row that w does not have."""
    wanted = np.ascontiguousarray(ids, np.int64)
    if wanted.ndim != 1:
        raise ValueError(f"the numbers of rows are {wanted.shape}, not (n,)")
    y = np.empty((wanted.size, w.columns), _FLOAT32)
    missed = library().rows_of(w.handle, _address(wanted), wanted.size, _address(y))
    if missed >= 0:
        raise IndexError(f"row {wanted[missed]} of a matrix of {w.rows} rows")
    return y


def layer_norm(x: Floats, weight: Floats, bias: Floats | None, eps: float) -> Floats:
    """Each row of x (rows, D) shifted and scaled to mean 0 and variance 1, times weight, plus bias."""
    columns = weight.size
    rows, y = _rows(x, columns), np.empty_like(x)
    shift = None if bias is None else _vector(bias, columns)
    library().layer_norm(_address(x), rows, columns, _vector(weight, columns), shift, eps, _address(y))
    return y


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """Each row of x (rows, D) divided by its root mean square, times weight."""
    columns = weight.size
    rows, y = _rows(x, columns), np.empty_like(x)
    library().rms_norm(_address(x), rows, columns, _vector(weight, columns), eps, _address(y))
    return y


def gelu_new(x: Floats) -> Floats:
    """GELU by tanh (Hendrycks and Gimpel 2016), as in GPT-2."""
    return _each(library().gelu_new, x)


def gelu(x: Floats) -> Floats:
    """GELU by the normal distribution function."""
    return _each(library().gelu, x)


def exponentials(x: Floats) -> Floats:
    """The e^x that activations and softmax use, to 2 units in the last place."""
    return _each(library().exponentials, x)


def silu_gate(inner: Floats) -> Floats:
    """silu(gate) * up for rows of F gates and F ups: (rows, 2F) -> (rows, F)."""
    if inner.ndim != 2 or inner.shape[1] % 2:
        raise ValueError(f"gates and ups side by side are (rows, 2F), not {inner.shape}")
    rows, columns = _rows(inner, inner.shape[1]), inner.shape[1] // 2
    y = np.empty((rows, columns), _FLOAT32)
    library().silu_gate(_address(inner), rows, columns, _address(y))
    return y


def attend(attention: Attention, qkv: Floats, position: int) -> Floats:
    """Attention of rows that start at `position`: qkv (rows, (r+2)d), queries then key then value, -> (rows, r·d).

    The rows' keys and values are rounded to the cache's format and written there; then each row attends to the cache up
    to itself. Raises OverflowError if a key or value is too large for the cache's format.
    """
    r, d = attention.queries, attention.head_dim
    rows = _rows(qkv, (r + 2) * d)
    if position < 0 or position + rows > attention.positions:
        raise ValueError(f"{rows} rows at {position} are not within the cache's {attention.positions} positions")
    out = np.empty((rows, r * d), _FLOAT32)
    lost = library().attend(attention.handle, _address(qkv), rows, position, _address(out))
    if lost:
        raise OverflowError(f"{lost} keys or values are too large for {attention.format}")
    return out


def quantise(format: str, x: Floats) -> bytes:
    """The rows of x (rows, columns) packed in any format, bit by bit as ggml's reference quantisers do it.

    Raises OverflowError if a number or a block's scale becomes infinite, and ValueError if a number to quantise is it
    already or is no number.
    """
    if x.ndim != 2:
        raise ValueError(f"a matrix is (rows, columns), not {x.shape}")
    if format not in PLAIN and not np.isfinite(x).all():
        raise ValueError(f"{format} has no infinity and no NaN")
    return _packed(format, _checked(x)).tobytes()


def pack(format: str, x: Floats) -> bytes:
    """The bytes of x in a plain format; raises OverflowError if a finite number becomes infinite."""
    _require_plain(format)
    return _checked(x).tobytes() if format == "float32" else _packed(format, x).tobytes()


def unpack(format: str, data: Buffer, rows: int, columns: int) -> Floats:
    """The numbers (rows, columns) that `pack` packed."""
    _require_plain(format)
    packed = np.frombuffer(data, np.uint8)
    if packed.size != packed_bytes(format, rows, columns):
        raise ValueError(f"{packed.size} bytes are not {rows} x {columns} numbers in {format}")
    if format == "float32":  # at any address, which the copy is not
        return packed.view(_FLOAT32).reshape(rows, columns).copy()
    x = np.empty((rows, columns), _FLOAT32)
    library().unpack(_CODES[format], _address(packed), x.size, _address(x))
    return x


def round_to(format: str, x: Floats) -> Floats:
    """The numbers of x, each rounded to what a plain format can hold; raises OverflowError as `pack` does."""
    _require_plain(format)
    if format == "float32":
        return x
    y = np.empty_like(_checked(x))
    _refuse_lost(library().round_to(_CODES[format], _address(x), x.size, _address(y)), format, x)
    return y


def _packed(format: str, x: Floats) -> npt.NDArray[np.uint8]:
    columns = x.shape[-1] if x.ndim else 1
    packed = np.empty(packed_bytes(format, x.size // max(1, columns), columns), np.uint8)
    _refuse_lost(library().pack(_CODES[format], _address(_checked(x)), x.size, _address(packed)), format, x)
    return packed


def _refuse_lost(lost: int, format: str, x: Floats) -> None:
    if lost:
        raise OverflowError(f"{lost} of {x.size} numbers are too large for {format}")


def _require_plain(format: str) -> None:
    if format not in PLAIN:
        raise ValueError(f"{format} is none of {', '.join(PLAIN)}")


def _each(function: ctypes._NamedFuncPointer, x: Floats) -> Floats:
    y = np.empty_like(_checked(x))
    function(_address(x), x.size, _address(y))
    return y


def _rows(x: Floats, columns: int) -> int:
    """The number of rows of x, which must be (rows, columns) float32 in one piece."""
    shape = x.shape
    if len(shape) != 2 or shape[1] != columns or x.dtype is not _FLOAT32 or not x.flags.c_contiguous:
        raise ValueError(f"activations are {shape} {x.dtype}, not contiguous (rows, {columns}) float32")
    return int(shape[0])


def _checked(x: Floats) -> Floats:
    if x.dtype != _FLOAT32 or not x.flags.c_contiguous:
        raise ValueError(f"an array is {x.dtype} {x.strides}, not contiguous float32")
    return x


def _vector(x: Floats, size: int) -> int:
    """The address of a float32 vector of this size."""
    if x.shape != (size,) or x.dtype != _FLOAT32 or not x.flags.c_contiguous:
        raise ValueError(f"a vector is {x.shape} {x.dtype}, not contiguous ({size},) float32")
    return _address(x)


_one_byte = ctypes.c_char.from_buffer


def _address(x: npt.NDArray[np.generic]) -> int:
    """The address of an array's first number, the faster way where there is one."""
    return ctypes.addressof(_one_byte(x)) if x.flags.writeable and x.size else x.ctypes.data  # type: ignore[arg-type]
