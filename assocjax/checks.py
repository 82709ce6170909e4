"""Checks of numbers and arrays, made once in public functions; inner functions trust callers.

Values are only checked when they are concrete. Under `jit`, `vmap` or `grad` an array has a shape
and a dtype but no values yet, and only shape and dtype are checked.
"""

import math
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Int32

from assocjax.arguments import check_integer, check_sequence
from assocjax.errors import InputError, InputTypeError


def is_traced(x: Any) -> bool:
    return isinstance(x, Tracer)


def is_hidden(x: Any) -> bool:
    """Whether values cannot be read: `x` is traced, or partly on devices of other processes."""
    return is_traced(x) or (isinstance(x, jax.Array) and not x.is_fully_addressable)


def check_number(name: str, value: Any, *, minimum: float | None = None) -> Any:
    """Returns a finite real number, of Python, NumPy or JAX, as a float; a traced scalar as it is.

    Raises:
        InputTypeError: If it is not a number (bools and strings are refused).
        InputError: If it is not finite, or below `minimum`, or a traced array is not a scalar.
    """
    if is_traced(value):
        if value.ndim:
            raise InputError(f"{name} must be a scalar; got shape {value.shape}")
        if not _is_real(value.dtype):
            raise InputTypeError(f"{name} must be a real number; got dtype {value.dtype}")
        return value
    try:
        if isinstance(value, str | bytes | bytearray | bool) or np.ndim(value):
            raise TypeError
        if hasattr(value, "dtype") and not _is_real(value.dtype):
            raise TypeError
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        raise InputTypeError(f"{name} must be a number; got {value!r}") from None
    if not math.isfinite(number) or (minimum is not None and number < minimum):
        bound = "" if minimum is None else f" and at least {minimum:g}"
        raise InputError(f"{name} must be finite{bound}; got {number:g}")
    return number


def check_positive(name: str, value: Any) -> float:
    """As `check_number`, and the number must be positive, also in JAX's default floating dtype."""
    number, dtype = check_number(name, value, minimum=0), jnp.result_type(float)
    if not number or not number >= float(jnp.finfo(dtype).tiny):
        rounded = f", which {dtype} rounds to 0" if number else ""
        raise InputError(f"{name} must be positive; got {number:g}{rounded}")
    return number


def _is_real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def check_numbers(name: str, values: Any, *, minimum: float) -> np.ndarray:
    """Returns a non-empty list of distinct finite numbers as a float64 vector."""
    values, each = check_sequence(name, values, "numbers"), f"every entry of {name}"
    array = np.array([check_number(each, value, minimum=minimum) for value in values])
    if len(np.unique(array)) != array.size:
        raise InputError(f"{name} must not repeat a value; got {array.tolist()}")
    return array


def check_step(name: str, value: Any) -> Any:
    """As `check_integer` with minimum 0; a traced integer is returned as it is."""
    if not is_traced(value):
        return check_integer(name, value, minimum=0)
    if value.ndim or not jnp.issubdtype(value.dtype, jnp.integer):
        raise InputTypeError(f"{name} must be an integer; got {value.aval}")
    return value


def check_key(name: str, key: Any) -> None:
    """Checks that `key` is a JAX random key: typed, or a raw uint32 array.

    Raises:
        InputTypeError: If it is not.
    """
    is_array = isinstance(key, np.ndarray | jax.Array)
    if is_array and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return
    if not (is_array and key.dtype == jnp.uint32 and key.shape in ((2,), (4,))):
        raise InputTypeError(f"{name} must be a key from jax.random.key; got {key!r}")


def as_array(name: str, value: Any) -> np.ndarray | Array:
    """Returns a JAX array as it is, anything else as a NumPy array.

    Raises:
        InputTypeError: If it cannot be converted to an array of numbers or booleans.
    """
    try:
        array = value if isinstance(value, jax.Array) else np.asarray(value)
    except (TypeError, ValueError):  # such as rows of different lengths
        raise InputTypeError(f"{name} must be an array; got {type(value).__name__}") from None
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise InputTypeError(f"{name} must hold numbers; got dtype {array.dtype}")
    return array


def check_dataset(dataset: Any, source: str, variables: Iterable[str], dims: str) -> None:
    """Checks that a Dataset has the variables and dimensions of those that a function returns.

    Args:
      source: name of that function.
      variables: names of variables that `dataset` must have.
      dims: dimensions that each of these variables must have, separated by spaces.

    Raises:
      InputTypeError: `dataset` is not a Dataset.
      InputError: a variable or dimension is missing, or a variable is empty or not numeric.
    """
    if not isinstance(dataset, xr.Dataset):
        raise InputTypeError(f"dataset must be a Dataset from {source}; got {type(dataset)}")
    for name in variables:
        if name not in dataset:
            raise InputError(f"dataset must be from {source}; it has no variable {name!r}")
        if dataset[name].dtype.kind not in "fiub":
            raise InputError(f"dataset must be from {source}; its {name!r} holds no numbers")
        for dim in dims.split():
            if dim not in dataset[name].dims:
                raise InputError(f"dataset must be from {source}; its {name!r} has no {dim!r}")
        if not dataset[name].size:
            raise InputError(f"dataset must hold something; its {name!r} is empty")


def check_precision(params: Any) -> None:
    """Checks that weights are float32 or float64: half precision is too coarse for corpus sums."""
    for leaf in jax.tree.leaves(params):
        dtype = getattr(leaf, "dtype", type(leaf).__name__)
        if dtype not in (jnp.float32, jnp.float64):
            raise InputTypeError(f"params must be float32 or float64; got dtype {dtype}")


@runtime_checkable
class Sequences(Protocol):
    """A tokenized corpus: `TokenData`, in memory, or `TokenFile`, on disk."""

    @property
    def num_sequences(self) -> int: ...
    @property
    def seq_len(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32 [n, T+1] and mask bool [n, T] of the sequences from `start` to `stop`."""
        ...


CorpusLike = Sequences | ArrayLike
"""The type that every function accepts as a corpus: a `TokenData` or `TokenFile`, or an integer
array [N, T+1] of token ids. An array may come with a boolean mask [N, T], False where the input or
the target is padding."""


def check_corpus(
    data: CorpusLike, vocab_size: int | None, mask: ArrayLike | None
) -> tuple[Int32[Array, "N T+1"], Bool[Array, "N T"], int]:
    """Returns the tokens, mask and vocabulary size of a corpus in any form of `CorpusLike`.

    Args:
      data: `TokenData` or a `TokenFile`, or an integer array [N, T+1] of token ids.
      vocab_size, mask: for an array only; `TokenData` and `TokenFile` have their own.

    Raises:
      InputError: `vocab_size` is missing for an array, or differs from the corpus's own; or a
        `mask` is given for a corpus that has its own.
    """
    if isinstance(data, Sequences):
        if vocab_size not in (None, data.vocab_size):
            raise InputError(
                f"vocab_size must be left out, or that of the data, {data.vocab_size}; "
                f"got {vocab_size!r}"
            )
        vocab_size = data.vocab_size
    elif vocab_size is None:
        raise InputError("vocab_size must be given where data is an array of tokens")
    vocab_size = check_integer("vocab_size", vocab_size, minimum=2)
    return *check_tokens(data, mask, vocab_size), vocab_size


def check_tokens(
    data: CorpusLike, mask: ArrayLike | None, vocab_size: int
) -> tuple[Int32[Array, "N T+1"], Bool[Array, "N T"]]:
    """Checks sequences [N, T+1] and their mask [N, T]; returns them as int32 and bool arrays.

    A `TokenData` or `TokenFile` is read completely and has its own mask. Without a mask every
    position is valid. Token ids whose values cannot be checked, as traced ones, are clipped to
    [0, V).
    """
    check_integer("vocab_size", vocab_size, minimum=2)
    tokens: Any = data
    if isinstance(data, Sequences):
        if mask is not None:
            raise InputError(f"mask must be left out: a {type(data).__name__} has its own")
        tokens, mask = data.read(0, data.num_sequences)
    tokens = as_array("data", tokens)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise InputTypeError(f"data must hold integers; got dtype {tokens.dtype}")
    shape = np.shape(tokens)
    if len(shape) != 2 or shape[0] < 1 or shape[1] < 2:
        raise InputError(f"data must have shape [N, T+1] with N, T >= 1; got {shape}")
    if not is_hidden(tokens):
        values = np.asarray(tokens)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= vocab_size:
            bad = low if low < 0 else high
            raise InputError(f"data must hold token ids in [0, vocab_size={vocab_size}); got {bad}")
    else:
        tokens = jnp.clip(tokens, 0, vocab_size - 1)
    expected = (shape[0], shape[1] - 1)
    if mask is None:
        return jnp.asarray(tokens, jnp.int32), jnp.ones(expected, bool)
    mask = as_array("mask", mask)
    if mask.dtype != bool:
        raise InputTypeError(f"mask must be boolean; got dtype {mask.dtype}")
    if np.shape(mask) != expected:
        raise InputError(
            "mask must have one entry for each input position, shape [N, T] = "
            f"{expected} for tokens of shape {shape}; got {np.shape(mask)}"
        )
    if not is_hidden(mask) and not np.asarray(mask).any():
        raise InputError("mask must leave at least one valid position; all are False")
    return jnp.asarray(tokens, jnp.int32), jnp.asarray(mask)
