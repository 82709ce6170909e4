"""Does a step of a statistics twin cost the same whatever the text's length, and how much is it?

    python benchmarks/twin_step.py

Prints seconds of a real step (loss and gradient of one batch), and the steps of the twins of orders
2 to 4 over it, for growing texts at one batch size, and for growing batches of one text. A twin
draws as many pairs as a batch has positions. The text is random, tokens with frequencies 1 / rank;
contexts are summed before (`aj.context_statistics`), whose seconds are printed too.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from harness import finish, in_turn, parser, random_tokens, ratio

import assocjax as aj
from assocjax.models.decoder import DecoderModel, neox
from assocjax.models.model import Sizes

ORDERS = (2, 3, 4)


def measure(model, tokens, batch_size: int, repeats: int) -> dict[str, float]:
    """Seconds of the real step and of the statistics, and each twin's step over the real one."""
    V, T, L = model.config.vocab_size, model.config.seq_len, model.config.num_layers
    begin = time.perf_counter()
    statistics = aj.context_statistics(tokens, V)
    counted = time.perf_counter() - begin
    prepared = aj.prepare_twin(statistics)
    params = model.init(jax.random.key(0), Sizes(V, T, L), 1.0)
    decoder, key = model.decoder(params), jax.random.key(1)
    batch, mask = jnp.asarray(tokens[:batch_size]), jnp.ones((batch_size, T), bool)

    def twin(order):
        def loss(params, prepared, key):
            return aj.twin_loss(decoder, params, prepared, key, order=order, rows=batch_size * T)

        step = jax.jit(jax.value_and_grad(loss))
        return lambda: step(params, prepared, key)

    step = jax.jit(model.loss_and_gradient)
    sides = {"real": lambda: step(params, batch, mask)}
    sides |= {f"order {order}": twin(order) for order in ORDERS}
    times = in_turn(sides, repeats)
    found = {"statistics": counted, "entries": float(statistics.pair.nnz)}
    found["real"] = float(np.median(times["real"]))
    return found | {name: ratio(times[name], times["real"]) for name in sides if name != "real"}


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__ or "")
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--width", type=int, default=96)
    options.add_argument("--vocab-size", type=int, default=1024)
    options.add_argument("--seq-len", type=int, default=64)
    options.add_argument("--sequences", type=int, nargs="+", default=[1000, 4000, 16000])
    options.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64])
    options.add_argument("--repeats", type=int, default=5)
    options = options.parse_args(arguments)
    if options.small:
        small = {"layers": 1, "width": 16, "vocab_size": 32, "seq_len": 8}
        vars(options).update(small, sequences=[20], batch_sizes=[2], repeats=1)
    V, T = options.vocab_size, options.seq_len
    model = DecoderModel("neox", neox(V, T, options.layers, options.width, 2))
    middle = options.batch_sizes[len(options.batch_sizes) // 2]
    cases = [(N, middle) for N in options.sequences]
    cases += [(options.sequences[0], B) for B in options.batch_sizes if middle != B]
    names = ("statistics", "entries", "real", *(f"order {order}" for order in ORDERS))
    print(f"V={V} T={T} L={options.layers} d={options.width}; seconds, then twin step / real step")
    print("        N     B" + "".join(f"{name:>12}" for name in names))
    rows = []
    for N, B in cases:
        found = measure(model, random_tokens(N, T, V), B, options.repeats)
        print(f"{N:9}{B:6}" + "".join(f"{found[name]:12.4g}" for name in names), flush=True)
        rows.append({"N": N, "B": B, **found})
    return finish({"rows": rows}, options.out)


if __name__ == "__main__":
    main()
