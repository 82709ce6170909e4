"""How much faster are the statistics of a corpus than by products of one-hots?

    python benchmarks/statistics_vs_dense.py

Seconds a sequence for B, Phi, Q and Delta: of `corpus_statistics`, and of `dense.py` in PyTorch
(where installed) and in JAX, on the same cores, in turn. On every side it is the difference between
two numbers of sequences, over that difference: what does not grow with the corpus, above all
products of [V,V] matrices, is left out on both. Prints the ratios (median of repeats) and how far
the sides agree, and writes the same as JSON.
"""

import jax
import numpy as np
from dense import NAMES, jax_statistics, torch_statistics
from harness import (
    TORCH,
    device,
    difference,
    finish,
    in_turn,
    parser,
    random_tokens,
    ratio,
    use_all_cores,
)

import assocjax as aj


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--vocab-size", type=int, default=3000)
    options.add_argument("--seq-len", type=int, default=200)
    options.add_argument("--sequences", type=int, default=16384, help="ours; and half as many")
    options.add_argument("--dense-sequences", type=int, default=32, help="and half as many")
    options.add_argument("--microbatch", type=int, default=8, help="sequences, of the dense sides")
    options.add_argument("--corpus", help="as of the command line; random tokens by default")
    options.add_argument("--repeats", type=int, default=3)
    options = options.parse_args(arguments)
    use_all_cores()
    V, T, N, n = options.vocab_size, options.seq_len, options.sequences, options.dense_sequences
    microbatch = options.microbatch
    if options.small:
        V, T, N, n, microbatch = 20, 8, 32, 8, 2
    tokens = random_tokens(N, T, V)
    if options.corpus:
        data = aj.load_tokens(options.corpus, vocab_size=V, seq_len=T, num_sequences=N)
        tokens, V, N = data.tokens, data.vocab_size, data.num_sequences
        if not data.mask.all():
            raise SystemExit("the dense sides know no padding: choose a corpus without")

    def ours(tokens):
        statistics = aj.corpus_statistics(tokens, V)
        return {name: getattr(statistics, name) for name in NAMES}

    dense = {"JAX": jax_statistics} | ({"PyTorch": torch_statistics} if TORCH else {})
    calls = {("ours", size): lambda size=size: ours(tokens[:size]) for size in (N // 2, N)}
    for name, function in dense.items():
        for size in (n // 2, n):
            calls[name, size] = lambda f=function, size=size: f(tokens[:size], V, microbatch)
    agreement = {
        name: difference(ours(tokens[:n]), jax.tree.map(np.asarray, calls[name, n]()))
        for name in dense
    }
    times = in_turn(calls, options.repeats)
    each = {
        name: (times[name, size] - times[name, size // 2]) / (size - size // 2)
        for name, size in (("ours", N), *((name, n) for name in dense))
    }
    print(f"V={V} T={T} on {device()}: milliseconds a sequence, of {options.repeats} repeats")
    print(f"{'ours':8} {1e3 * np.median(each['ours']):9.3f}   N={N} less N={N // 2}")
    rows = {}
    for name in dense:
        rows[name] = {
            "ratio": ratio(each[name], each["ours"]),
            "seconds_a_sequence": each[name].tolist(),
            "largest_difference": agreement[name],
        }
        print(
            f"{name:8} {1e3 * np.median(each[name]):9.3f}   N={n} less N={n // 2}, microbatches of "
            f"{microbatch}: ratio {rows[name]['ratio']:.0f}, agreement {agreement[name]:.1e}"
        )
    result = {
        "vocab_size": V,
        "seq_len": T,
        "num_sequences": N,
        "dense_num_sequences": n,
        "microbatch": microbatch,
        "corpus": options.corpus or "random",
        "ours_seconds_a_sequence": each["ours"].tolist(),
        "dense": rows,
    }
    return finish(result, options.out)


if __name__ == "__main__":
    main()
