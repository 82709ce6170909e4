"""The configuration of `pretrain_tiny`, which its command shares; without JAX."""

import dataclasses
from typing import Literal, get_args

from assocjax.arguments import check_choice, check_integer
from assocjax.errors import InputError

Models = Literal["neox", "llama", "gpt2"]
"""Architectures that `pretrain_tiny` trains, by the names of models of assocjax."""

Optimizers = Literal["adamw", "coupled_adamw", "sgd"]


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """The configuration, which determines the weights together with the corpus.

    Attributes:
        model: Architecture: "neox" (as in Pythia), "llama" or "gpt2".
        optimizer: "adamw", with Pythia's betas and weight decay; "coupled_adamw", the same with a
            second moment that all tokens of an embedding share; or "sgd", without weight decay,
            whose learning rate has to be far larger.
        vocab_size: Size of the BPE vocabulary, which is trained on the corpus; it is smaller if no
            pair is left to merge. Bytes that do not occur in the corpus have no token.
        seq_len: T.
        batch_size: Sequences in a minibatch.
        steps: Number of updates.
        num_layers: L.
        width: d; the MLP has width 4 d (Llama: 8/3 d).
        num_heads: Number of heads, each of width d / num_heads.
        learning_rate: Largest learning rate, after the warmup.
        seed: Seed of the initialization, and of the order of sequences.
        order_seed: Seed of the order of sequences instead, so that runs of one start differ in it
            only; None is `seed`.
    """

    model: Models = "neox"
    optimizer: Optimizers = "adamw"
    vocab_size: int = 2048
    seq_len: int = 128
    batch_size: int = 32
    steps: int = 512
    num_layers: int = 6
    width: int = 128
    num_heads: int = 4
    learning_rate: float = 1e-3
    seed: int = 0
    order_seed: int | None = None

    def __post_init__(self):
        check_choice("model", self.model, get_args(Models))
        check_choice("optimizer", self.optimizer, get_args(Optimizers))
        for field in dataclasses.fields(self):
            named = field.name in ("model", "optimizer", "learning_rate")
            if not named and getattr(self, field.name) is not None:
                minimum = {"seed": 0, "order_seed": 0, "steps": 0, "vocab_size": 2}
                minimum = minimum.get(field.name, 1)
                value = check_integer(field.name, getattr(self, field.name), minimum=minimum)
                object.__setattr__(self, field.name, value)

        from assocjax.checks import check_number  # here, so that --help does not import JAX

        rate = check_number("learning_rate", self.learning_rate, minimum=0)
        object.__setattr__(self, "learning_rate", rate)
        if self.width % self.num_heads or self.width // self.num_heads < 8:
            raise InputError(
                "width must be a multiple of num_heads, at least 8 times it; got "
                f"{self.width} for {self.num_heads} heads"
            )
