"""A language model's vectors of tokens: its residual stream, and attention between token pairs.

The theory's matrices are compared with these (Im, Oh, Fang, Li, arXiv 2601.19208, section 5.3):
E before a layer, after its attention, after the layer, and E W_Q W_K^T E^T.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from assocjax.arguments import check_choice, check_integer, check_integers
from assocjax.errors import InputError
from assocjax.llm._architectures import FAMILIES, gain, normed, rotate, submodule
from assocjax.llm.libraries import require
from assocjax.llm.models import LanguageModel
from assocjax.llm.theory import check_token_ids
from assocjax.storage.display import summarized

Progress = Callable[[int, int], None]


@summarized
class Streams(NamedTuple):
    """The residual stream of n tokens around L' layers, each float32 [L', n, d].

    Attributes:
        before: h, the input of the layer.
        after_attention: h + attention(norm(h)), without the MLP, or h + norm(attention(h)) where a
            norm stands after attention (OLMo-2, Gemma-2). It is the same for the parallel residual
            of GPT-NeoX and Phi, where no module receives this sum, since both MLP and attention
            read h.
        after_layer: The output of the layer; for the last layer, before the final norm.
    """

    before: np.ndarray
    after_attention: np.ndarray
    after_layer: np.ndarray


def single_token_streams(
    model: LanguageModel,
    token_ids: np.ndarray,
    *,
    prefix: int | None = None,
    layers: Sequence[int] | None = None,
    batch_size: int = 1024,
    progress: Progress | None = None,
) -> Streams:
    """The residual stream of every token fed alone: one token at position 0, or after a prefix.

    Without a prefix the token attends to itself only, so that queries, keys and positions have no
    effect.

    Args:
        model: A language model.
        token_ids: Integers [n].
        prefix: A token that is fed before each of them, at position 0, such as beginning-of-text;
            by default none.
        layers: Layers to return, in that order, counted from 1; by default all L. For a wide model
            and many tokens, not all layers fit in memory: request them in groups.
        batch_size: Tokens fed at once.
        progress: Called with (tokens done, n).

    Returns:
        `Streams` [L', n, d].

    Raises:
        InputError, InputTypeError: If an argument has another shape, type or range.

    Cost: n tokens through the model, for any `layers`; memory 12 L' n d bytes for the result.
    """
    ids = check_token_ids(token_ids, model.vocab_size, distinct=False)
    chosen = _check_layers(layers, model.num_layers)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    fed = ids[:, None]
    if prefix is not None:
        prefix = check_integer("prefix", prefix, minimum=0, maximum=model.vocab_size - 1)
        fed = np.insert(fed, 0, prefix, axis=1)
    shape = (len(chosen), ids.size, model.width)
    streams = Streams(*(np.empty(shape, np.float32) for _ in Streams._fields))
    for start in range(0, ids.size, batch_size):
        batch = slice(start, min(start + batch_size, ids.size))

        def keep(layer: int, found: tuple, batch: slice = batch) -> None:
            for stream, values in zip(streams, found, strict=True):
                stream[layer, batch] = values[:, -1].cpu().numpy()

        with _watching(model, chosen, keep):
            _forward(model, fed[batch])
        if progress is not None:
            progress(batch.stop, ids.size)
    return streams


def occurrence_streams(
    model: LanguageModel,
    tokens: np.ndarray,
    mask: np.ndarray,
    token_ids: np.ndarray,
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> tuple[Streams, np.ndarray]:
    """The residual stream of tokens, averaged over their occurrences in a text.

    Args:
        model: A language model.
        tokens: Integers [N, T]: sequences, each fed from position 0.
        mask: bool [N, T]: positions that count. All positions are fed, and attend to all earlier
            ones, so padding must be at the end, where it has no effect.
        token_ids: Integers [n], all different.
        layers: As in `single_token_streams`.
        batch_size: Sequences fed at once.
        progress: Called with (sequences done, N).

    Returns:
        `Streams` [L', n, d], summed in float64, NaN for a token that does not occur; and the number
        of occurrences, int64 [n].

    Raises:
        InputError, InputTypeError: If an argument has another shape, type or range; if T exceeds
            the number of positions of the model.

    Cost: N T tokens through the model, for any `layers`; memory on the model's device: 24 L' n d
    bytes for the sums, and the activations of `batch_size` sequences.
    """
    torch = require("torch")
    tokens = check_token_ids(tokens, model.vocab_size, name="tokens", dims=2, distinct=False)
    ids = check_token_ids(token_ids, model.vocab_size)
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != tokens.shape:
        raise InputError(
            f"mask must be boolean, of shape [N, T] = {tokens.shape} as tokens; got {mask.dtype} "
            f"{mask.shape}"
        )
    longest = model.module.config.max_position_embeddings
    if tokens.shape[1] > longest:
        raise InputError(
            f"tokens must have at most T = {longest} positions, as the model; got {tokens.shape[1]}"
        )
    chosen = _check_layers(layers, model.num_layers)
    batch_size = check_integer("batch_size", batch_size, minimum=1)

    row_of = np.full(model.vocab_size, -1)
    row_of[ids] = np.arange(len(ids))
    rows = np.where(mask, row_of[tokens], -1)
    counts = np.bincount(rows[rows >= 0], minlength=len(ids))
    device = _device(model)
    shape = (len(Streams._fields), len(chosen), len(ids), model.width)
    sums = torch.zeros(shape, dtype=torch.float64, device=device)
    for start in range(0, len(tokens), batch_size):
        batch = slice(start, min(start + batch_size, len(tokens)))
        of_batch = torch.from_numpy(rows[batch]).to(device)
        counted = of_batch >= 0
        where = of_batch[counted]

        def add(layer: int, found: tuple, counted: Any = counted, where: Any = where) -> None:
            for i, values in enumerate(found):
                sums[i, layer].index_add_(0, where, values[counted].double())

        with _watching(model, chosen, add):
            _forward(model, tokens[batch])
        if progress is not None:
            progress(batch.stop, len(tokens))
    means = sums / torch.from_numpy(counts).to(device)[:, None]
    return Streams(*means.float().cpu().numpy()), counts


def query_key_factors(
    model: LanguageModel,
    layer: int,
    embeddings: np.ndarray,
    *,
    head: int | None = None,
    norm: bool | str = False,
    distance: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores between tokens in a layer, as factors: `queries @ keys.T` [n, n], rows are queries.

    The result depends on `distance`:

    * None: E W_Q W_K^T E^T, which the paper compares with its query-key matrix. It differs from the
      model's scores if queries and keys have biases, norms or a rotary embedding.
    * An integer: the model's attention scores, before the softmax and without the scale
      1 / sqrt(d_head) and the soft-capping (Gemma-2), for token i as a query `distance` positions
      after token j as a key: (R (e_i W_Q + b_Q)) · (e_j W_K + b_K). R is the rotation by the
      distance, or the identity without rotary embedding (GPT-2). Not even b_K can be left out: if R
      is not the identity, the term of b_K with a query depends on the distance, and so differs
      between keys. Queries and keys are clipped or normed before R where the model does so (OLMo,
      OLMo-2). A sliding window is not applied.

    Args:
        model: A language model.
        layer: Layer, counted from 1.
        embeddings: E [n, d], such as `Streams.before` of that layer.
        head: A query head, counted from 0; by default the mean over heads of W_Q W_K^T. If heads
            share keys (grouped queries), each query head is used with its group's keys.
        norm: First apply to E the layer's norm before attention, including gain and bias, as the
            layer does. Needed for the model's scores; the paper does not apply it. "gain" only
            multiplies E by its gain, which is the same as to fold it into W_Q and W_K. No effect
            where there is no such norm (OLMo-2).
        distance: Positions from key to query, below the model's number of positions; see above.

    Returns:
        queries and keys, float32 [n, r]: r = d_head for a head and r = heads d_head for the mean.

    Raises:
        InputError, InputTypeError: If an argument has another shape, type or range.

    Cost: 2 n d d_head multiplications for each head; with `distance`, of all heads of the layer.
    """
    torch = require("torch")
    layer = check_integer("layer", layer, minimum=1, maximum=model.num_layers)
    if head is not None:
        head = check_integer("head", head, minimum=0, maximum=model.num_heads - 1)
    E = np.asarray(embeddings)
    if E.ndim != 2 or E.shape[1] != model.width or not np.issubdtype(E.dtype, np.floating):
        raise InputError(
            f"embeddings must be floats of shape [n, d] with d = {model.width}; got {E.dtype} "
            f"{E.shape}"
        )
    if not isinstance(norm, bool | np.bool_):
        check_choice("norm", norm, ("gain",))
    if distance is not None:
        last = model.module.config.max_position_embeddings - 1
        distance = check_integer("distance", distance, minimum=0, maximum=last)
    block = _layers(model)[layer - 1]
    family = FAMILIES[model.family]
    heads = slice(None) if head is None else slice(head, head + 1)
    with torch.inference_mode():
        x = torch.tensor(E, dtype=torch.float32, device=_device(model))
        if norm and family.attention_norm is not None:
            module = submodule(block, family.attention_norm)
            x = x * gain(module) if norm == "gain" else module(x)
        attention = submodule(block, family.attention)
        one = x.new_full((len(x), 1), distance is not None)  # the factor of the biases
        x = torch.cat([x, one], dim=1)
        if distance is None:
            queries, keys = (x @ W[heads] for W in family.query_key(attention))
        else:  # a norm may be over all heads
            queries, keys = normed(attention, *(x @ W for W in family.query_key(attention)))
            queries, keys = rotate(model.module, family, queries[heads], keys[heads], distance)
        # The mean over heads is one product of the concatenated heads.
        queries = queries.transpose(0, 1).flatten(1) / len(queries)
        keys = keys.transpose(0, 1).flatten(1)
    return queries.cpu().numpy(), keys.cpu().numpy()


@contextlib.contextmanager
def _watching(
    model: LanguageModel, layers: Sequence[int], use: Callable[[int, tuple], None]
) -> Iterator[None]:
    """Calls `use` with (index in `layers`, the three streams [B, T, d]) when a layer returns."""
    blocks, path = _layers(model), FAMILIES[model.family].written
    with contextlib.ExitStack() as hooks:
        for place, layer in enumerate(layers):
            found: dict[str, Any] = {}

            def enter(_: Any, args: tuple, kwargs: dict, found: dict = found) -> None:
                found["before"] = args[0] if args else kwargs["hidden_states"]

            def attend(_: Any, args: tuple, output: Any, found: dict = found) -> None:
                found["attention"] = _first(output)

            def leave(_: Any, args: tuple, output: Any, found: dict = found, at: int = place):
                before, attention = found.pop("before"), found.pop("attention")
                use(at, (before, before + attention, _first(output)))

            block = blocks[layer - 1]
            for handle in (
                block.register_forward_pre_hook(enter, with_kwargs=True),
                submodule(block, path).register_forward_hook(attend),
                block.register_forward_hook(leave),
            ):
                hooks.callback(handle.remove)
        yield


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _forward(model: LanguageModel, tokens: np.ndarray) -> None:
    """Runs sequences [B, T] through the layers, without the output head, which is not needed."""
    torch = require("torch")
    with torch.inference_mode():
        ids = torch.tensor(tokens, dtype=torch.int64, device=_device(model))
        model.module.base_model(input_ids=ids, use_cache=False)


def _layers(model: LanguageModel) -> Any:
    return submodule(model.module, FAMILIES[model.family].layers)


def _device(model: LanguageModel) -> Any:
    return next(model.module.parameters()).device


def _check_layers(layers: Sequence[int] | None, num_layers: int) -> list[int]:
    if layers is None:
        return list(range(1, num_layers + 1))
    chosen = check_integers("layers", layers, minimum=1, maximum=num_layers)
    if len(set(chosen)) != len(chosen):
        raise InputError(f"layers must be different; got {chosen}")
    return chosen
