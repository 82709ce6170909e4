"""Pythia's training recipe, at a small size.

A GPT-NeoX (rotary, parallel MLP, layer norm), trained like Pythia (Biderman et al., 2023, arXiv
2304.01373, and its configuration files): AdamW with betas .9 and .95, weight decay .1 of matrices
only, gradients clipped at norm 1, linear warmup over 1 % of the steps and cosine decay to 10 % of
the learning rate. Initialization is Gaussian with standard deviation sqrt(2 / 5d), and
2 / (L sqrt(d)) for matrices that write to the residual stream. Checkpoints are saved after 0, 1, 2,
4, 8, ... updates.
"""

import dataclasses
import math
from typing import Any

from assocjax.arguments import check_integer
from assocjax.errors import InputError
from assocjax.llm.libraries import require

_WARMUP, _LAST_RATE = 0.01, 0.1


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """The configuration, which determines the weights together with the corpus.

    Attributes:
        vocab_size: Size of the BPE vocabulary, which is trained on the corpus; it is smaller if no
            pair is left to merge. Bytes that do not occur in the corpus have no token.
        seq_len: T.
        batch_size: Sequences in a minibatch.
        steps: Number of updates.
        num_layers: L.
        width: d; the MLP has width 4 d.
        num_heads: Number of heads, each of width d / num_heads.
        learning_rate: Largest learning rate, after the warmup.
        seed: Seed of the initialization and of the order of sequences.
    """

    vocab_size: int = 2048
    seq_len: int = 128
    batch_size: int = 32
    steps: int = 512
    num_layers: int = 6
    width: int = 128
    num_heads: int = 4
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.name != "learning_rate":
                minimum = {"seed": 0, "steps": 0, "vocab_size": 2}.get(field.name, 1)
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


def revisions(steps: int) -> list[int]:
    """Steps at which a checkpoint is saved: 0, powers of two, and the last step."""
    return sorted({0, steps, *(2**k for k in range(steps.bit_length()) if 2**k <= steps)})


def rate_factor(step: int, steps: int) -> float:
    """The factor of the largest learning rate in update `step`, counted from 1."""
    warmup = max(1, round(_WARMUP * steps))
    if step < warmup:
        return step / warmup
    phase = (step - warmup) / max(1, steps - warmup)
    return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * phase)) / 2


def initial_model(config: PretrainConfig, vocab_size: int) -> Any:
    """A GPTNeoXForCausalLM at initialization, a function of `config.seed`."""
    torch, transformers = require("torch"), require("transformers")
    # A head has at least 8 dimensions, so that the quarter that is rotated has at least one pair.
    neox = transformers.GPTNeoXConfig(
        vocab_size=vocab_size,
        hidden_size=config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=4 * config.width,
        max_position_embeddings=max(2048, config.seq_len),
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    with torch.random.fork_rng():  # weights drawn by the constructor are replaced below
        model = transformers.GPTNeoXForCausalLM(neox)
    generator = torch.Generator().manual_seed(config.seed)
    small = math.sqrt(2 / (5 * config.width))
    residual = 2 / (config.num_layers * math.sqrt(config.width))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.fill_(float(name.endswith("norm.weight")))
            else:
                writes = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
                weight.normal_(0, residual if writes else small, generator=generator)
    return model.train()


def make_optimizer(model: Any) -> Any:
    """AdamW; `update` sets its learning rate."""
    torch = require("torch")
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": 0.1},
        {"params": [w for w in weights if w.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)


def update(model: Any, optimizer: Any, batch: Any, rate: float) -> float:
    """One update; returns the loss before it."""
    torch = require("torch")
    for group in optimizer.param_groups:
        group["lr"] = rate
    logits = model(input_ids=batch[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()
