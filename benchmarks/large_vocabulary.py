"""How much time and memory do the statistics of a large vocabulary take?

    python benchmarks/large_vocabulary.py --corpus FILE.txt --vocab-size 50000

Computes the sparse statistics of a corpus (all its tokens, where it has fewer than asked for),
the associations of some tokens and products of `value` and `query_key` with a matrix [V, d]; then
compares random entries of both matrices with their definitions, summed position by position over
the whole corpus, and prints the peak of memory. A dense matrix of V = 50,000 would take 20 GB.
"""

import time

import numpy as np
from harness import finish, parser, resident_peak

from assocjax import load_tokens, sparse_statistics, top_associations
from assocjax.analysis.associations import MATRICES
from assocjax.corpora import TokenData, read_documents
from assocjax.corpora._words import number_words
from assocjax.statistics.sparse import rows


def positions(data: TokenData) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of the valid positions [M]."""
    return data.tokens[:, :-1][data.mask], data.tokens[:, 1:][data.mask]


def brute_force_value(data: TokenData, i: int, j: int) -> float:
    """(Phi^T B^T)[i,j] = sum_r Phi[r,i] B[j,r], from the definitions."""
    V = data.vocab_size
    x, y = positions(data)
    after = np.bincount(y[x == j], minlength=V) / x.size
    B_j = after - after.sum() / V
    keys = (data.tokens[:, :-1] == i) & data.mask
    share = np.cumsum(keys, axis=1) / np.maximum(np.cumsum(data.mask, axis=1), 1)
    before = np.bincount(y, share[data.mask], minlength=V) / x.size
    return float((before - before.sum() / V) @ B_j)


def brute_force_query_key(data: TokenData, composed_column, i: int, j: int) -> float:
    """Q[i,j] = mean over valid positions of x_t = i of the sum of D[t,k] over keys x_k = j."""
    total = 0.0
    for n, t in np.argwhere((data.tokens[:, :-1] == i) & data.mask):
        keys = data.tokens[n, : t + 1][data.mask[n, : t + 1]]
        if j in keys:
            G = composed_column(int(data.tokens[n, t + 1]))
            m = G[keys]
            total += np.sum(np.where(keys == j, m - m.mean(), 0)) / keys.size
    return float(total / data.mask.sum())


def check(data: TokenData, stats, samples: int) -> dict[str, float]:
    """Largest error of sampled entries, relative to the largest of them."""
    V = data.vocab_size
    rng = np.random.default_rng(0)
    count = np.bincount(positions(data)[0], minlength=V)
    # Pairs of one sequence, so that entries of Q are not 0; queries that are not too frequent.
    pairs = set()
    for n in rng.permutation(data.num_sequences):
        valid = np.flatnonzero(data.mask[n])
        if valid.size:
            t = rng.choice(valid)
            k = rng.choice(valid[valid <= t])
            if count[data.tokens[n, t]] <= 100 or V < 100:
                pairs.add((int(data.tokens[n, t]), int(data.tokens[n, k])))
        if len(pairs) == samples:
            break
    columns: dict[int, np.ndarray] = {}

    def composed_column(y: int) -> np.ndarray:
        if y not in columns:
            columns[y] = stats.composed @ np.eye(1, V, y)[0]
        return columns[y]

    errors = {}
    for name, brute_force in (
        ("value", lambda i, j: brute_force_value(data, i, j)),
        ("query_key", lambda i, j: brute_force_query_key(data, composed_column, i, j)),
    ):
        chosen = sorted(pairs)
        found = rows(getattr(stats, name), np.array([i for i, _ in chosen]))
        found = found[np.arange(len(chosen)), [j for _, j in chosen]]
        expected = np.array([brute_force(i, j) for i, j in chosen])
        errors[name] = float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))
    return errors


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--corpus", default="python-docs", help="as of the command line")
    options.add_argument("--vocab-size", type=int, default=50_000)
    options.add_argument("--seq-len", type=int, default=128)
    options.add_argument("--num-sequences", type=int)
    options.add_argument("--columns", type=int, default=64, help="d of the products")
    options.add_argument("--tokens", type=int, default=20, help="whose associations to list")
    options.add_argument("--samples", type=int, default=20, help="entries to check")
    options = options.parse_args(arguments)
    if options.small:
        small = {"vocab_size": 60, "seq_len": 8, "num_sequences": 20}
        vars(options).update(small, columns=2, tokens=2, samples=3)
    seconds, memory = {}, {}

    def timed(name, function):
        start = time.perf_counter()
        result = function()
        seconds[name] = time.perf_counter() - start
        memory[name] = resident_peak()
        print(f"{name:>13} {seconds[name]:8.2f} s   peak {memory[name]:6.2f} GiB", flush=True)
        return result

    def load() -> TokenData:
        types = len(number_words(read_documents(options.corpus).documents)[2])
        return load_tokens(
            options.corpus,
            vocab_size=min(options.vocab_size, types),
            seq_len=options.seq_len,
            num_sequences=options.num_sequences,
            short="pad",
        )

    data = timed("load", load)
    print(f"{data.name}: V={data.vocab_size} T={data.seq_len} N={data.num_sequences}")
    stats = timed("statistics", lambda: sparse_statistics(data))
    common = np.argsort(-stats.input_frequency, kind="stable")[100 : 100 + options.tokens]
    common = common if common.size else np.arange(min(options.tokens, data.vocab_size))

    def associations():
        return {
            data.vocabulary[i]: {
                name: top_associations(getattr(stats, name), data.vocabulary, data.vocabulary[i], 3)
                for name in MATRICES
            }
            for i in common
        }

    timed("associations", associations)
    X = np.random.default_rng(0).normal(size=(data.vocab_size, options.columns))
    timed("value @ X", lambda: stats.value @ X)
    timed("query_key @ X", lambda: stats.query_key @ X)
    errors = timed("check", lambda: check(data, stats, options.samples))
    print("largest error of sampled entries, relative:", errors)
    result = {
        "corpus": data.describe(),
        "columns": options.columns,
        "seconds": seconds,
        "peak_memory_gib": memory,
        "relative_errors": errors,
    }
    return finish(result, options.out)


if __name__ == "__main__":
    main()
