"""Statistics twins: a network trained on statistics of a text, which never reads the text.

A twin is the same network with the same start and the same recipe as a real run. Its rows stand for
occurrences of tokens, not for positions of a text. The loss of a pair (x, y) is the negative
log-likelihood of y after the row of x, and the twins differ in what else their rows know:

    order 0   x and y are drawn independently of each other; otherwise as order 2 (a control)
    order 1   pairs have the frequencies of bigrams; a row attends only to itself
    order 2   attention is fixed: row x of the matrix E[A_0 X | x], the mean of uniform attention
              over all occurrences of x, of the values of all V rows
    order 3   for a drawn pair (x, y), t tokens are drawn from E[A_0 X | x, y], where the rows of a
              step have positions t with the frequencies of the text; attention is uniform over
              them and x
    order 4   the row attends to the keys of these tokens at the positions 0..t-1, and to itself at
              t, by the model's own softmax and positions

    order 5   as order 4, but the states of the drawn tokens are those of V other rows, one for each
              token, which attend to drawn tokens themselves

    order 6   as order 4, but the two tokens before x are drawn in order, from the counts of four
              tokens in a row of which (x, y) are the last, and stand where they do in the text;
              their states are their own, of rows that attend to what stands before them
    order 7   as order 6, with four tokens: two more are drawn from the same counts, given the two
              after them

In orders 3, 4, 6 and 7 the states of the drawn tokens are those of the rows of order 2. Half of the
weight of x in its own context is left out of the draws, since x itself stands at position t. Where
no four tokens in a row are known, orders 6 and 7 draw the two tokens as order 4 does.

A mean loss (orders 0 to 2) weighs all pairs by their frequencies. Otherwise pairs are drawn, as
many as a batch has positions, which gives gradients the noise of a batch: AdamW's steps depend on
it. No step reads the text: its cost does not depend on the text's length.

For a large vocabulary contexts are sparse (`entries`), and layers are computed twice instead of
kept (`rematerialize`).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from assocjax.arguments import check_integer
from assocjax.errors import InputError
from assocjax.models.decoder import DecoderModel
from assocjax.models.paper import AttentionOnly
from assocjax.statistics.contexts import MAX_ENTRIES, ContextStatistics, context_statistics
from assocjax.theories.registry import register_theory
from assocjax.theories.theory import Theory
from assocjax.theories.twin_losses import (
    MEAN_ORDERS,
    ORDERS,
    attention_only_twin_loss,
    check_mean,
    twin_loss,
)
from assocjax.theories.twin_statistics import TwinStatistics, prepare_twin

ROWS = 2048
"""Drawn pairs of a step of a twin of full batches: 32 sequences of 64 positions."""

BATCH = "batch"
"""As `rows`: as many drawn pairs as a minibatch of the run has positions."""


@dataclasses.dataclass(frozen=True)
class StatisticsTwin(Theory):
    """A statistics twin as a theory: it starts where the run does and is trained as the run is.

    Its name is "twin-ORDER", with "-mean" for a mean loss and "-shuffled" for shuffled rows.

    Attributes:
      order: see the module's docstring. The paper's model has mean losses only.
      rows: drawn pairs of a step; "batch" draws as many as a minibatch of the run has positions, or
        `ROWS` with the full batch. None is the mean loss.
      shuffle_seed, backoff, entries: as in `prepare_twin`.
      rematerialize: as in `twin_loss`.

    Raises:
      InputError, InputTypeError: `order` or `rows` is out of range, or there is no mean loss of
        this order.
    """

    order: int
    rows: int | str | None = BATCH
    shuffle_seed: int | None = None
    backoff: float = 0.0
    entries: int | None = None
    rematerialize: bool = False

    from_start = True
    of_batches = False

    def __post_init__(self):
        check_integer("order", self.order, minimum=0, maximum=max(ORDERS))
        if self.rows is None:
            check_mean(self.order)
        elif self.rows != BATCH:
            check_integer("rows", self.rows, minimum=1)

    @property
    def name(self) -> str:  # type: ignore[override]
        mean = "-mean" if self.rows is None else ""
        return f"twin-{self.order}{mean}{'' if self.shuffle_seed is None else '-shuffled'}"

    def check(self, model, optimizer):
        known = (DecoderModel,) if self.rows else (DecoderModel, AttentionOnly)
        if not isinstance(model, known):
            names = " or ".join(each.__name__ for each in known)
            raise InputError(f"theory {self.name!r} is of models of class {names}; got {model!r}")

    def prepare(self, model, sizes, batch):
        return self.prepare_from(context_statistics(batch.tokens, batch.vocab_size, batch.mask))

    def prepare_from(self, statistics: ContextStatistics) -> TwinStatistics:
        """As `prepare`, from statistics of a text."""
        options = {"backoff": self.backoff, "shuffle_seed": self.shuffle_seed}
        return prepare_twin(statistics, entries=self.entries, **options)

    def gradient(self, model, params, prepared, batch):
        if isinstance(model, AttentionOnly):
            loss = partial(attention_only_twin_loss, order=self.order)
            return jax.grad(loss)(params, prepared)
        decoder = model.decoder(params)  # type: ignore[attr-defined]
        rows = self.rows
        if rows == BATCH:
            rows = ROWS if batch.size is None else batch.size * batch.mask.shape[1]
        options = {"order": self.order, "rows": rows, "rematerialize": self.rematerialize}
        loss = partial(twin_loss, decoder, **options)
        key = None if self.rows is None else batch.key
        return jax.grad(lambda params: loss(params, prepared, key))(params)

    def prepared_bytes(self, model, sizes, num_sequences):
        itemsize = jnp.dtype(jnp.result_type(float)).itemsize
        positions = num_sequences * sizes.seq_len
        entries = min(positions * (sizes.seq_len + 1) // 2, MAX_ENTRIES)  # of contexts of pairs
        entries += min(positions, MAX_ENTRIES)  # of four tokens in a row
        if self.entries is None:
            kept = sizes.vocab_size**2 * itemsize
        else:  # and the transposed matrix
            kept = 2 * sizes.vocab_size * min(self.entries, sizes.vocab_size) * (itemsize + 4)
        kept += 12 * entries
        return kept, 2 * kept + 24 * entries


for _order in ORDERS:
    register_theory(StatisticsTwin(_order))
    if _order in MEAN_ORDERS:
        register_theory(StatisticsTwin(_order, rows=None))
