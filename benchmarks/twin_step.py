"""Does a step of a statistics twin cost the same whatever the text's length, and how much is it?

    python benchmarks/twin_step.py
    python benchmarks/twin_step.py --large --orders 2

Prints seconds of a real step (loss and gradient of one batch), and the steps of the twins of orders
2 to 4 over it, for growing texts at one batch size, and for growing batches of one text. A twin
draws as many pairs as a batch has positions. The text is random, tokens with frequencies 1 / rank;
contexts are summed before (`aj.context_statistics`), whose seconds are printed too.

With `--large` it is one step of AdamW of each twin of Pythia-160M's shape instead, with sparse
contexts and rematerialized layers: its seconds, the memory that XLA's plan of it needs with its
arguments, and the memory that the process has held at most.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import finish, in_turn, parser, random_tokens, ratio, resident_peak

import assocjax as aj
from assocjax.models.decoder import DecoderModel, neox
from assocjax.models.model import Sizes


def measure(model, tokens, batch_size: int, orders, repeats: int) -> dict[str, float]:
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
    sides |= {f"order {order}": twin(order) for order in orders}
    times = in_turn(sides, repeats)
    found = {"statistics": counted, "entries": float(statistics.pair.nnz)}
    found["real"] = float(np.median(times["real"]))
    return found | {name: ratio(times[name], times["real"]) for name in sides if name != "real"}


def measure_large(model, sizes: Sizes, tokens, rows: int, entries: int, order: int):
    """Seconds to compile and of one step of AdamW, and GiB of the process."""
    statistics = aj.context_statistics(tokens, sizes.vocab_size)
    prepared = aj.prepare_twin(statistics, entries=entries)
    found = {"order": order, "entries of pairs": statistics.pair.nnz}
    found |= {"of tokens": prepared.context.largest.nse}
    del statistics
    optimizer = optax.adamw(1e-3, b2=0.95, weight_decay=0.1)
    params = jax.jit(lambda key: model.init(key, sizes))(jax.random.key(0))
    decoder, state, key = model.decoder(params), optimizer.init(params), jax.random.key(1)

    def step(params, state, prepared, key):
        def loss(params):
            options = {"order": order, "rows": rows, "rematerialize": True}
            return aj.twin_loss(decoder, params, prepared, key, **options)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    begin = time.perf_counter()
    step = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, prepared, key).compile()
    compiled, plan = time.perf_counter(), step.memory_analysis()
    planned = (plan.argument_size_in_bytes + plan.temp_size_in_bytes) / 2**30
    print(f"order {order}: planned {planned:.2f} GiB", flush=True)
    *_, loss = jax.block_until_ready(step(params, state, prepared, key))
    done = time.perf_counter()
    found |= {
        "loss": float(loss),
        "compile": compiled - begin,
        "step": done - compiled,
        "planned_GiB": planned,
    }
    return found | {"peak_GiB": resident_peak()}


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__ or "")
    options.add_argument("--layers", type=int, help="4, or 12 of a large twin")
    options.add_argument("--width", type=int, default=96)
    options.add_argument("--vocab-size", type=int, default=1024)
    options.add_argument("--seq-len", type=int, default=64)
    options.add_argument("--sequences", type=int, nargs="+", default=[1000, 4000, 16000])
    options.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64])
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--orders", type=int, nargs="+", default=[2, 3, 4])
    options.add_argument("--large", action="store_true", help="one step at Pythia-160M's shape")
    options = options.parse_args(arguments)
    if options.small:
        small = {"layers": 1, "width": 16, "vocab_size": 32, "seq_len": 8}
        vars(options).update(small, sequences=[20], batch_sizes=[2], repeats=1)
    if options.large:
        return large(options)
    V, T = options.vocab_size, options.seq_len
    options.layers = options.layers or 4
    model = DecoderModel("neox", neox(V, T, options.layers, options.width, 2))
    middle = options.batch_sizes[len(options.batch_sizes) // 2]
    cases = [(N, middle) for N in options.sequences]
    cases += [(options.sequences[0], B) for B in options.batch_sizes if middle != B]
    names = ("statistics", "entries", "real", *(f"order {order}" for order in options.orders))
    print(f"V={V} T={T} L={options.layers} d={options.width}; seconds, then twin step / real step")
    print("        N     B" + "".join(f"{name:>12}" for name in names))
    rows = []
    for N, B in cases:
        found = measure(model, random_tokens(N, T, V), B, options.orders, options.repeats)
        print(f"{N:9}{B:6}" + "".join(f"{found[name]:12.4g}" for name in names), flush=True)
        rows.append({"N": N, "B": B, **found})
    return finish({"rows": rows}, options.out)


def large(options) -> dict:
    """A step at Pythia-160M's shape, or at a tiny one, from a text of 1,280,000 positions."""
    sizes = Sizes(50_304, 2048, options.layers or 12)
    width, heads, N, rows, entries = 768, 12, 20_000, 2048, 256
    if options.small:
        sizes, width, heads, N, rows, entries = Sizes(32, 8, 2), 16, 2, 20, 16, 4
    model = DecoderModel("neox", neox(*sizes, width, heads))
    tokens = random_tokens(N, min(64, sizes.seq_len), sizes.vocab_size)
    print(
        f"V={sizes.vocab_size} L={sizes.num_layers} d={width}; one step of {rows} rows, K={entries}"
    )
    found = []
    for order in options.orders:
        found.append(measure_large(model, sizes, tokens, rows, entries, order))
        print("  ".join(f"{name} {value:.4g}" for name, value in found[-1].items()), flush=True)
    return finish({"large": found}, options.out)


if __name__ == "__main__":
    main()
