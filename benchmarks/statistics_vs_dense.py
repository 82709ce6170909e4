"""How fast are the statistics of a corpus, against products of one-hots and against a plain loop?

    python benchmarks/statistics_vs_dense.py

Two comparisons, each of sides that take turns; a ratio is the median of the repeats.

One-hots: B, Phi, Q and Delta of dense statistics, given G, against `dense.py` in PyTorch (where
installed) and in JAX. What does not grow with the corpus, above all products of [V,V] matrices, is
left out: of a dense side, time is the difference between two numbers of sequences.

A plain loop: `sparse_statistics` of a token file, both passes and what it composes between them,
against a compiled loop over sequences, positions and keys on one core, in float64 on matrices
[V,V], both passes, to which G is given.

Seconds are of the clock, and of all cores together: on a machine that does other work only the
second can be compared.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numba
import numpy as np
from dense import NAMES, jax_statistics, torch_statistics
from harness import (
    TORCH,
    device,
    difference,
    finish,
    parser,
    random_tokens,
    ratio,
    use_all_cores,
)

import assocjax as aj
from assocjax.statistics import loops


@numba.njit
def first_pass(tokens, bigram, context):
    for n in range(len(tokens)):
        for t in range(tokens.shape[1] - 1):
            y = tokens[n, t + 1]
            bigram[tokens[n, t], y] += 1
            for k in range(t + 1):
                context[y, tokens[n, k]] += 1 / (t + 1)


@numba.njit
def second_pass(tokens, matrix, query_key, position):
    m = np.empty(len(position))
    for n in range(len(tokens)):
        for t in range(tokens.shape[1] - 1):
            y, total = tokens[n, t + 1], 0.0
            for k in range(t + 1):
                m[k] = matrix[y, tokens[n, k]]
                total += m[k]
            for k in range(t + 1):
                D = (m[k] - total / (t + 1)) / (t + 1)
                query_key[tokens[n, t], tokens[n, k]] += D
                position[t - k] += D


def plain_loop(tokens: np.ndarray, V: int, matrix: np.ndarray) -> tuple[np.ndarray, ...]:
    """Bigrams, contexts and correlations, of the matrix [target, key], as sums over positions."""
    bigram, context, query_key = (np.zeros((V, V)) for _ in range(3))
    position = np.zeros(tokens.shape[1] - 1)
    first_pass(tokens, bigram, context)
    second_pass(tokens, matrix, query_key, position)
    return bigram, context, query_key, position


def loop_statistics(tokens: np.ndarray, V: int, matrix: np.ndarray) -> None:
    """The loops of `corpus_statistics`, without what it composes; matrix[key, target]."""
    T = tokens.shape[1] - 1
    block = loops.lay_out(tokens, np.ones((len(tokens), T), bool), V)
    loops.count_bigrams(block, V)
    loops.sum_contexts(block, block.first, 1 / block.num_keys, np.zeros((V, V)))
    factor = 1 / np.maximum(np.arange(T + 1), 1) ** 2
    loops.sum_correlations(block, matrix, factor, np.zeros((V, V)))


def in_turn(sides: dict, repeats: int) -> dict[str, dict]:
    """Seconds [repeats] of each side by the clock and of all cores, after a call that compiles."""
    clocks = {"by the clock": time.perf_counter, "of all cores": time.process_time}
    times = {name: {side: np.empty(repeats) for side in sides} for name in clocks}
    for repeat in range(-1, repeats):
        for side, function in sides.items():
            starts = [clock() for clock in clocks.values()]
            jax.block_until_ready(function())
            for (name, clock), start in zip(clocks.items(), starts, strict=True):
                if repeat >= 0:
                    times[name][side][repeat] = clock() - start
    return times


def against_one_hots(options) -> dict:
    V, T, N, n = options.vocab_size, options.seq_len, options.sequences, options.dense_sequences
    microbatch, repeats = options.microbatch, options.repeats
    if options.small:
        V, T, N, n, microbatch, repeats = 20, 8, 32, 8, 2, 1
    tokens = random_tokens(N, T, V)
    matrix = np.random.default_rng(0).normal(size=(V, V))
    dense = {"JAX": jax_statistics} | ({"PyTorch": torch_statistics} if TORCH else {})
    sides = {("ours", N): lambda: loop_statistics(tokens, V, matrix)}
    for name, function in dense.items():
        for size in (n // 2, n):
            sides[name, size] = lambda f=function, size=size: f(tokens[:size], V, microbatch)
    statistics = aj.corpus_statistics(tokens[:n], V)
    found = {name: getattr(statistics, name) for name in NAMES}
    agreement = {
        name: difference(found, jax.tree.map(np.asarray, sides[name, n]())) for name in dense
    }
    rows = {}
    for clock, times in in_turn(sides, repeats).items():
        ours = times["ours", N] / N
        print(f"V={V} T={T}, milliseconds a sequence, {clock}: ours {1e3 * np.median(ours):.3f}")
        for name in dense:
            theirs = (times[name, n] - times[name, n // 2]) / (n - n // 2)
            rows[f"{name}, {clock}"] = row = {
                "ratio": ratio(theirs, ours),
                "seconds_a_sequence": theirs.tolist(),
                "ours_seconds_a_sequence": ours.tolist(),
            }
            print(
                f"  {name} {1e3 * np.median(theirs):.3f}, ratio {row['ratio']:.0f}, agreement "
                f"{agreement[name]:.1e}"
            )
    sizes = {"vocab_size": V, "seq_len": T, "sequences": N, "dense_sequences": n}
    return sizes | {"agreement": agreement, "rows": rows}


def against_plain_loop(options) -> dict:
    V, T, N, repeats = options.file_vocab_size, 128, options.file_sequences, options.repeats
    if options.small:
        V, T, N, repeats = 20, 8, 32, 1
    tokens = random_tokens(N, T, V)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.bin"
        path.write_bytes(tokens.astype("<i4").tobytes())
        about = {"dtype": "int32", "vocab_size": V, "seq_len": T}
        path.with_suffix(".json").write_text(json.dumps(about), "utf-8")
        file = aj.open_tokens(path)
        statistics = aj.sparse_statistics(file)
        G = statistics.composed @ np.eye(V)
        by_target = np.ascontiguousarray((G - G.mean(axis=1, keepdims=True)).T)
        *_, query_key, position = plain_loop(tokens, V, by_target)
        agreement = difference(
            (statistics.query_key @ np.eye(V), statistics.position),
            (query_key / (N * T), position / (N * T)),
        )
        sides = {
            "ours": lambda: aj.sparse_statistics(file),
            "plain loop": lambda: plain_loop(tokens, V, by_target),
        }
        all_times = in_turn(sides, repeats)
    rows = {}
    for clock, times in all_times.items():
        share = ratio(times["ours"], times["plain loop"])
        rows[clock] = {"ratio": share} | {name: each.tolist() for name, each in times.items()}
        seconds = {name: round(float(np.median(each)), 3) for name, each in times.items()}
        print(f"token file, V={V} T={T} N={N}, seconds {clock}: {seconds}, ours/plain {share:.2f}")
    print(f"  agreement {agreement:.1e}")
    return {"vocab_size": V, "seq_len": T, "sequences": N, "agreement": agreement, "rows": rows}


def first_calls() -> list[float]:
    """Seconds of the loops of dense statistics: in a first process, which compiles them, and in
    another, which loads them.
    """
    code = (
        "import time, numpy as np; from assocjax.statistics import loops; start = time.time();"
        "block = loops.lay_out(np.zeros((1, 3), np.int32), np.ones((1, 2), bool), 2);"
        "sums = loops.sum_contexts(block, block.first, 1 / block.num_keys, np.zeros((2, 2)));"
        "loops.sum_correlations(block, sums, np.ones(3), np.zeros((2, 2)));"
        "print(time.time() - start)"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        command = [sys.executable, "-c", code]
        times = [
            float(subprocess.check_output(command, env=environment, text=True)) for _ in range(2)
        ]
    print(f"first calls: {times[0]:.2f} s to compile the loops, {times[1]:.2f} s to load them")
    return times


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--vocab-size", type=int, default=3000)
    options.add_argument("--seq-len", type=int, default=200)
    options.add_argument("--sequences", type=int, default=8192, help="ours")
    options.add_argument("--dense-sequences", type=int, default=32, help="and half as many")
    options.add_argument("--microbatch", type=int, default=8, help="sequences, of the dense sides")
    options.add_argument("--file-vocab-size", type=int, default=4000)
    options.add_argument("--file-sequences", type=int, default=65536)
    options.add_argument("--repeats", type=int, default=3)
    options = options.parse_args(arguments)
    use_all_cores()
    print(f"on {device()}, {loops.num_threads()} threads")
    result = {
        "first_calls": first_calls(),
        "plain_loop": against_plain_loop(options),
        "one_hots": against_one_hots(options),
    }
    return finish(result, options.out)


if __name__ == "__main__":
    main()
