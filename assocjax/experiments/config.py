"""The settings of a run, its corpus, and what follows from them: checks, keys, names."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, ArrayLike, Bool, Int32, PRNGKeyArray

from assocjax.arguments import (
    EXACT,
    LARGEST_DEPTH,
    LARGEST_STEPS,
    check_choice,
    check_integer,
    check_is,
)
from assocjax.checks import CorpusLike, Sequences, check_corpus
from assocjax.corpora.tokens import TokenData, as_token_data
from assocjax.errors import InputError, InputTypeError
from assocjax.models.exact import count_distinct
from assocjax.models.model import Model, Sizes
from assocjax.models.registry import MODEL, get_model
from assocjax.storage.display import summarized
from assocjax.theories.registry import get_theory, theory_names
from assocjax.theories.theory import Batch, Theory
from assocjax.training.optimizers import (
    Optimizer,
    ScheduledOptimizer,
    check_optimizer,
    optimizer_name,
)

CHANGES = "changes"
"""The quantity of a run and a theory that is the weights less those of the start."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything about a run that is static, that is, fixed at compilation; the rest is traced.

    steps: number of updates.
    num_layers: L.
    theories: the theories that the run is compared with, by name or as `Theory`; () trains without
      a comparison.
    model: the model, by name or as a `Model`.
    gradient: the gradient that trains the weights, "exact" or a theory.
    optimizer: the name of an optax optimizer, a `ScheduledOptimizer`, or another function of the
      learning rate that makes one.
    batch_size: sequences in a minibatch (a new order every epoch); None is the full batch.
    microbatch_size: sequences differentiated at once; None chooses by memory.

    Names are replaced by what is registered under them.
    """

    steps: int
    num_layers: int
    theories: tuple[Theory, ...]
    model: Model = MODEL  # type: ignore[assignment]
    gradient: str | Theory = EXACT
    optimizer: Optimizer = "sgd"
    batch_size: int | None = None
    microbatch_size: int | None = None

    def __post_init__(self):
        # Python numbers, which can be hashed and written as JSON.
        plain = partial(object.__setattr__, self)
        steps = check_integer("steps", self.steps, minimum=0, maximum=LARGEST_STEPS)
        plain("steps", steps)
        layers = check_integer("num_layers", self.num_layers, minimum=1, maximum=LARGEST_DEPTH)
        plain("num_layers", layers)
        if not isinstance(self.theories, tuple):
            raise InputTypeError(f"theories must be a tuple of names; got {self.theories!r}")
        each = "every entry of theories"
        plain("theories", tuple(get_theory(theory, each) for theory in self.theories))
        if len(set(self.names)) != len(self.names):
            raise InputError(f"theories must be distinct names; got {self.names}")
        plain("model", get_model(self.model))
        named = isinstance(self.gradient, str)
        if named:
            check_choice("gradient", self.gradient, (EXACT, *theory_names()))
        if not named or self.gradient != EXACT:
            plain("gradient", get_theory(self.gradient, "gradient"))
        check_optimizer(self.optimizer)
        for name in ("batch_size", "microbatch_size"):
            if getattr(self, name) is not None:
                plain(name, check_integer(name, getattr(self, name), minimum=1))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the theories that the run is compared with."""
        return tuple(theory.name for theory in self.theories)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What of a run and a theory is compared, in the order of the result arrays."""
        changes = () if self.model.zero_start else (CHANGES,)
        return "weights", "gradients", *changes

    @property
    def prepared(self) -> dict[str, Theory]:
        """The theories whose statistics are needed, by name."""
        trains = () if isinstance(self.gradient, str) else (self.gradient,)
        return {theory.name: theory for theory in (*self.theories, *trains)}

    def sizes(self, vocab_size: int, seq_len: int) -> Sizes:
        return Sizes(vocab_size, seq_len, self.num_layers)

    def described(self) -> dict[str, Any]:
        """The settings as JSON values: objects are their names, and `settings` are their own."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        parts: dict[str, Any] = {**self.prepared, self.model.name: self.model}
        if isinstance(self.optimizer, ScheduledOptimizer):
            parts[self.optimizer.name] = self.optimizer
        return fields | {
            "settings": {name: own for name, of in parts.items() if (own := _settings(of))},
            "theories": list(self.names),
            "model": self.model.name,
            "gradient": self.gradient if isinstance(self.gradient, str) else self.gradient.name,
            "optimizer": optimizer_name(self.optimizer),
        }


def as_named(data: CorpusLike, vocab_size: int | None, mask: ArrayLike | None) -> TokenData:
    """Any corpus, given as to `corpus_statistics`, with the names of its tokens; ids in arrays."""
    if isinstance(data, Sequences):
        return as_token_data(data)
    tokens, mask, vocab_size = check_corpus(data, vocab_size, mask)
    names = as_token_data(np.arange(vocab_size)[None]).vocabulary
    of_array = as_token_data(np.asarray(tokens))
    return dataclasses.replace(of_array, mask=np.asarray(mask), vocabulary=names)


@summarized
@struct.dataclass
class Corpus:
    """A corpus for training, and what theories have prepared from it.

    tokens        [N, T+1]
    mask          [N, T]
    prepared      by theory, what `Theory.prepare` returned
    vocab_size    V, static
    max_distinct  the argument of `exact_gradient`; static, so a program is compiled for each value
    """

    tokens: Int32[Array, "N T+1"]
    mask: Bool[Array, "N T"]
    prepared: dict[str, Any]
    vocab_size: int = struct.field(pytree_node=False)
    max_distinct: int | None = struct.field(pytree_node=False, default=None)

    @classmethod
    def of(
        cls,
        data: CorpusLike,
        config: RunConfig,
        *,
        vocab_size: int | None = None,
        mask: ArrayLike | None = None,
    ) -> "Corpus":
        """A corpus with the statistics that the theories of `config` need.

        Args:
          data, vocab_size, mask: as in `corpus_statistics`.
          config: of the runs that will be trained on it.
        """
        tokens, mask, vocab_size = check_corpus(data, vocab_size, mask)
        check_is("config", config, RunConfig)
        batch, sizes = Batch(tokens, mask, vocab_size), config.sizes(vocab_size, mask.shape[1])
        prepared = {
            name: theory.prepare(config.model, sizes, batch)
            for name, theory in config.prepared.items()
        }
        return cls(tokens, mask, prepared, vocab_size, count_distinct(data))

    def sizes(self, config: RunConfig) -> Sizes:
        """The sizes of a model of `config` on this corpus."""
        return config.sizes(self.vocab_size, self.mask.shape[1])


def check_run(config: RunConfig, data: TokenData) -> None:
    """Checks that a run can be trained on a corpus: optimizer, theories, size of its batches."""
    sizes = config.sizes(data.vocab_size, data.seq_len)
    check_applies(config, sizes)
    if config.batch_size is not None and config.batch_size > data.num_sequences:
        raise InputError(
            f"batch_size must be at most the number of sequences, {data.num_sequences}; "
            f"got {config.batch_size}"
        )


def check_applies(config: RunConfig, sizes: Sizes) -> None:
    """Checks that the optimizer can train the model, and that the theories are of both."""
    for theory in config.prepared.values():
        theory.check(config.model, config.optimizer)
    check_optimizer(config.optimizer, config.model.shapes(sizes))


def run_keys(seed: int | Int32[Array, ""]) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Two random keys from a run's seed: for its initial weights, and for its minibatches."""
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    return init_key, batch_key


def of_batches(config: RunConfig, theory: Theory) -> bool:
    """Whether the theory is also trained on the run's minibatches."""
    return config.batch_size is not None and theory.of_batches


def batches_of(theory: str) -> str:
    """The name of the trajectory of a theory that is trained on the run's minibatches."""
    return f"{theory} of batches"


def _settings(part: Any) -> dict[str, Any]:
    """What distinguishes models, theories or optimizers of one name: attributes that are JSON."""
    own = dataclasses.asdict(part) if dataclasses.is_dataclass(part) else vars(part)  # type: ignore[call-overload]
    plain = str | int | float | bool | dict | None
    return {name: own[name] for name in own if name != "name" and isinstance(own[name], plain)}
