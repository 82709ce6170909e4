"""Compares a model's layers with the theory's matrices, each score with its nulls: one Dataset.

Two kinds of matrices of a model, for n tokens each fed alone, are compared:

* streams, the residual stream before a layer, after its attention and after the layer [n,d], with
  each of the theory's matrices;
* attention, A = E (W_Q W_K^T) E^T [n,n] of a head, and A = E (mean over heads of W_Q W_K^T) E^T,
  with the theory's `query_key`: as factors of a head's width, never dense.

Every score has two nulls: tokens are shuffled among all tokens ("all"), or only among tokens of
similar frequency ("frequency"), which shows how much frequency alone explains.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax
from jaxtyping import ArrayLike, Float

from assocjax.arguments import (
    LARGEST_DRAWS,
    NUM_BINS,
    NUM_SHUFFLES,
    TOP,
    check_integer,
    check_integers,
    check_is,
    check_names,
)
from assocjax.checks import as_array
from assocjax.errors import InputError, InputTypeError
from assocjax.llm.nulls import Null, frequency_bins, permutation_null
from assocjax.llm.similarity import (
    CENTERINGS,
    FactoredMatrix,
    centre,
    scale_rows,
    token_shares,
)
from assocjax.storage.results import describe

STREAMS = ("before", "after_attention", "after_layer")
"""Points at which the residual stream is read."""

NULLS = ("all", "frequency")
"""Sets of tokens within which tokens are shuffled."""

MEAN_HEAD = "mean"
_SCORES = {
    "similarity": "covariance similarity with the theory",
    "null_mean": "mean similarity with shuffled tokens",
    "null_sd": "standard deviation of the similarity with shuffled tokens",
    "z": "(similarity - null_mean) / null_sd",
    "p": "share of shuffles with at least this similarity",
    "top_token": "index of a token that adds most to the similarity",
    "top_share": "share of that token in the similarity",
}
_NAMES = {
    "residual": "what a target's frequency is compared with",
    "centering": "how representations are centred",
    "stream": "place in the layer",
    "null": "how tokens are shuffled",
    "head": "attention head, or their mean",
}
_NAMES |= {prefix + name: text for prefix in ("", "attention_") for name, text in _SCORES.items()}
"""The coordinate of the mean over heads."""


class Streams(Protocol):
    """Residual streams [layers, n, d], as those of `assocjax.llm.probes`; the last two, or one of
    them, may be None, and are left out."""

    @property
    def before(self) -> Any: ...
    @property
    def after_attention(self) -> Any: ...
    @property
    def after_layer(self) -> Any: ...


def compare_model(
    streams: Streams,
    matrices: Mapping[str, Mapping[str, Float[ArrayLike, "n n"]]],
    counts: ArrayLike,
    *,
    attention: Iterable[tuple[ArrayLike, ArrayLike]] | None = None,
    layers: Sequence[int] | None = None,
    centerings: Sequence[str] = CENTERINGS,
    num_shuffles: int = NUM_SHUFFLES,
    num_bins: int = NUM_BINS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Compares all layers of a model with all of the theory's matrices.

    Args:
      streams: streams of the n tokens, float32 [layers, n, d].
      matrices: residual -> name -> matrix [n,n] of the same tokens in the same order; the same
        names for every residual (`basis_matrices`).
      counts: number of occurrences of each token in the text of the theory, for `frequency_bins`
        [n].
      attention: (queries, keys) of each layer in turn, both [H, n, r]: the scores of a head between
        tokens are queries @ keys.T, with query tokens in rows (`query_key_factors`).
      layers: numbers of the layers, by default from 1.
      centerings: names of `CENTERINGS`.
      num_shuffles, seed: as in `permutation_null`.
      num_bins: number of frequency bins for the second null.
      progress: called with (steps done, steps in total): one step for each centering, or three with
        attention.

    Returns:
      Dataset with `similarity` over (residual, theory, centering, layer, stream), and `null_mean`,
      `null_sd`, `z`, `p` over null and these dimensions. `top_token` and `top_share` over these and
      rank, without null: the tokens that add most to the similarity, as indices of the n tokens,
      and how much each adds (`similarity.token_shares`). With attention, the same variables with
      the prefix `attention_` over (residual, centering, layer, head), for `query_key`; the
      coordinate `head` is "0", "1", ... and "mean".

    Raises:
      InputError: shapes or names do not match; attention without `query_key` in `matrices`.
      InputTypeError: as `covariance_similarity`.

    Cost: for each centering n^2 (n theories + d streams + 2 num_shuffles theories streams)
      multiply-adds, with 3 streams for each layer. The same for attention, with heads instead of
      streams, the heads' width instead of d, and residuals instead of theories. Twice as much again
      without shuffles for the shares of tokens. Memory: three times the streams.
    """
    names = _check_matrices(matrices)
    residuals = list(matrices)
    centerings = list(check_names("centerings", centerings, CENTERINGS))
    num_shuffles = check_integer("num_shuffles", num_shuffles, minimum=2, maximum=LARGEST_DRAWS)
    num_bins = check_integer("num_bins", num_bins, minimum=1)
    seed = check_integer("seed", seed, minimum=0)
    n = np.shape(matrices[residuals[0]][names[0]])[0]
    given = [s for s in STREAMS if s == "before" or getattr(streams, s, ...) is not None]
    values = [_check_stream(name, getattr(streams, name, None), n) for name in given]
    num_layers = len(values[0])
    if len({value.shape for value in values}) > 1:
        raise InputError(f"streams must have one shape; got {[v.shape for v in values]}")
    if layers is None:
        layers = range(1, num_layers + 1)
    layers = check_integers("layers", layers, minimum=1)
    if len(layers) != num_layers:
        raise InputError(f"layers must number the {num_layers} layers of streams; got {layers}")
    counts = as_array("counts", counts)
    if counts.shape != (n,):
        raise InputError(f"counts must have shape [n] = ({n},); got {counts.shape}")
    bins = np.stack([np.zeros(n, np.int32), frequency_bins(counts, num_bins)])  # as of NULLS
    if attention is not None and "query_key" not in names:
        raise InputError(f"matrices must hold 'query_key' to compare attention; got {names}")
    total = len(centerings) * (1 if attention is None else 3)
    steps = iter(range(1, total + 1))
    report = progress or (lambda done, total: None)
    report(0, total)
    compare = partial(
        _compare,
        bins=bins,
        centerings=centerings,
        step=lambda: report(next(steps), total),
        num_shuffles=num_shuffles,
        seed=seed,
    )

    theories = jnp.stack([jnp.asarray(matrices[r][name]) for r in residuals for name in names])
    stacked = np.stack(values, axis=1).reshape(num_layers * len(given), n, -1)
    found = compare(jnp.asarray(stacked), theories)
    shape = (len(centerings), len(NULLS), len(residuals), len(names), num_layers, len(given))
    dims = ("null", "residual", "theory", "centering", "layer", "stream")
    parts = [part.reshape(shape).transpose(1, 2, 3, 0, 4, 5) for part in found]
    variables = _variables("", parts, dims)
    shape = (len(centerings), num_layers, len(given), len(residuals), len(names), -1)
    tops = [
        of.reshape(shape).transpose(3, 4, 0, 1, 2, 5) for of in _tops(stacked, theories, centerings)
    ]
    variables |= _top_variables("", tops, dims[1:])
    coords: dict[str, Any] = {
        "residual": residuals,
        "theory": names,
        "centering": centerings,
        "layer": layers,
        "stream": given,
        "null": list(NULLS),
        "rank": np.arange(1, 1 + min(TOP, n)),
    }
    if attention is not None:
        heads, mean = _read_attention(attention, num_layers, n)
        query_key = jnp.stack([jnp.asarray(matrices[r]["query_key"]) for r in residuals])
        num_heads = heads.left.shape[0] // num_layers
        lead = (len(centerings), len(NULLS), len(residuals), num_layers)
        parts = [
            np.concatenate([each.reshape(*lead, num_heads), one.reshape(*lead, 1)], axis=-1)
            for each, one in zip(compare(heads, query_key), compare(mean, query_key), strict=True)
        ]
        dims = ("null", "residual", "centering", "layer", "head")
        variables |= _variables(
            "attention_", [part.transpose(1, 2, 0, 3, 4) for part in parts], dims
        )
        tops = [
            np.concatenate(
                [
                    each.reshape(len(centerings), num_layers, num_heads, len(residuals), -1),
                    one.reshape(len(centerings), num_layers, 1, len(residuals), -1),
                ],
                axis=2,
            ).transpose(3, 0, 1, 2, 4)
            for each, one in zip(
                *(_tops(of, query_key, centerings) for of in (heads, mean)), strict=True
            )
        ]
        variables |= _top_variables("attention_", tops, dims[1:])
        coords["head"] = [*map(str, range(num_heads)), MEAN_HEAD]
    attrs = {"num_tokens": n, "num_shuffles": num_shuffles, "num_bins": num_bins, "seed": seed}
    return describe(xr.Dataset(variables, coords, attrs), _NAMES)


def _compare(vectors, theories, *, bins, centerings, step, **options) -> list[np.ndarray]:
    """Parts of `Null`, each as an array [centering, null, theory, vectors]."""

    def pair(A, M, within, centering):
        return permutation_null(A, M, bins=within, centering=centering, **options)

    def every(centering: str) -> Null:
        call = partial(pair, centering=centering)
        call = jax.vmap(call, in_axes=(0, None, None))
        call = jax.vmap(call, in_axes=(None, 0, None))
        return jax.vmap(call, in_axes=(None, None, 0))(vectors, theories, bins)

    found = []
    for centering in centerings:
        found.append([np.asarray(part) for part in every(centering)])
        step()
    return [np.stack(parts) for parts in zip(*found, strict=True)]


def _tops(vectors, theories, centerings: Sequence[str]) -> list[np.ndarray]:
    """The tokens with the largest shares, and these: [centering, vectors, theory, rank] each."""
    found = [_top_shares(vectors, theories, centering) for centering in centerings]
    return [np.stack([np.asarray(each[i]) for each in found]) for i in (1, 0)]


@partial(jax.jit, static_argnames="centering")
def _top_shares(vectors, theories, centering: str):
    # One pair at a time, so that memory is that of one.
    centred = lax.map(lambda M: centre(scale_rows(M), centering), theories)

    def of_vectors(A):
        A = centre(A, centering)
        return lax.map(
            lambda M: lax.top_k(shares := token_shares(A, M), min(TOP, shares.size)), centred
        )

    return lax.map(of_vectors, vectors)


def _top_variables(
    prefix: str, tops: Sequence[np.ndarray], dims: tuple[str, ...]
) -> dict[str, Any]:
    names = (f"{prefix}top_token", f"{prefix}top_share")
    return {name: ((*dims, "rank"), of) for name, of in zip(names, tops, strict=True)}


def _variables(prefix: str, parts: Sequence[np.ndarray], dims: tuple[str, ...]) -> dict[str, Any]:
    similarity, mean, sd, z, p = parts
    # The null does not change the score itself.
    variables: dict[str, Any] = {f"{prefix}similarity": (dims[1:], similarity[0])}
    named = {"null_mean": mean, "null_sd": sd, "z": z, "p": p}
    return variables | {f"{prefix}{name}": (dims, part) for name, part in named.items()}


def _read_attention(attention, num_layers: int, n: int) -> tuple[FactoredMatrix, FactoredMatrix]:
    """Factors of all heads [layers H, n, r], and of the means over heads [layers, n, H r]."""
    queries, keys = [], []
    for layer, pair in enumerate(attention):
        q, k = (np.asarray(part) for part in pair)
        if (
            q.ndim != 3
            or q.shape[1] != n
            or q.shape != k.shape
            or (queries and q.shape != queries[0].shape)
        ):
            expected = f"[H, {n}, r]" if not queries else str(queries[0].shape)
            raise InputError(
                f"attention must hold queries and keys of shape {expected} for every layer; got "
                f"{q.shape} and {k.shape} at layer {layer + 1}"
            )
        queries.append(q)
        keys.append(k)
    if len(queries) != num_layers:
        raise InputError(f"attention must have {num_layers} layers; got {len(queries)}")
    q, k = np.stack(queries), np.stack(keys)
    H, r = q.shape[1], q.shape[3]
    heads = FactoredMatrix(jnp.asarray(q.reshape(-1, n, r)), jnp.asarray(k.reshape(-1, n, r)))
    # sum_h Q_h K_h^T is one product of the concatenated heads; a factor 1/H changes no score.
    wide = (jnp.asarray(a.swapaxes(1, 2).reshape(num_layers, n, H * r)) for a in (q, k))
    return heads, FactoredMatrix(*wide)


def _check_matrices(matrices) -> list[str]:
    check_is("matrices", matrices, Mapping)
    for each in matrices.values():
        check_is("every entry of matrices", each, Mapping)
    if not matrices or not all(matrices.values()):
        raise InputError("matrices must hold a matrix for at least one residual")
    names = {residual: list(each) for residual, each in matrices.items()}
    first, *others = names.values()
    if any(other != first for other in others):
        raise InputError(f"matrices must have the same names for every residual; got {names}")
    shapes = {np.shape(matrix) for each in matrices.values() for matrix in each.values()}
    if len(shapes) > 1 or any(len(shape) != 2 or shape[0] != shape[1] for shape in shapes):
        raise InputError(f"matrices must all be [n, n] of one n; got {sorted(shapes)}")
    return first


def _check_stream(name: str, stream, n: int) -> np.ndarray:
    stream = np.asarray(as_array(f"streams.{name}", stream))
    if stream.ndim != 3 or stream.shape[1] != n or 0 in stream.shape:
        raise InputError(f"streams.{name} must have shape [layers, {n}, d]; got {stream.shape}")
    if not np.issubdtype(stream.dtype, np.floating):
        raise InputTypeError(f"streams.{name} must be floating; got dtype {stream.dtype}")
    return stream
