"""How does the cost of `corpus_statistics` grow with the number of sequences?

    python benchmarks/statistics_scaling.py

Doubles the number of random (Zipf) sequences, prints the seconds and the slope of a log-log fit
over the sizes (1 is linear), and writes the same as JSON.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

from assocjax import corpus_statistics
from assocjax.results import versions


def random_tokens(N: int, T: int, V: int) -> np.ndarray:
    """Tokens whose frequencies fall as 1 / rank."""
    frequency = 1 / np.arange(1, V + 1)
    shape = (N, T + 1)
    return np.random.default_rng(0).choice(V, shape, p=frequency / frequency.sum()).astype(np.int32)


def seconds(tokens: np.ndarray, V: int, repeats: int) -> float:
    """The fastest of some calls, after one that compiles."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(corpus_statistics(tokens, V))
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-size", type=int, default=300)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--smallest", type=int, default=2000, help="sequences at first")
    parser.add_argument("--doublings", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    V, T = options.vocab_size, options.seq_len
    sizes = [options.smallest * 2**i for i in range(options.doublings + 1)]
    times = []
    print(f"V={V} T={T} on {jax.devices()[0].device_kind}")
    for N in sizes:
        times.append(seconds(random_tokens(N, T, V), V, options.repeats))
        print(f"N={N:>8}  {times[-1]:8.4f} s  {1e6 * times[-1] / N:8.2f} us a sequence")
    slope = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
    print(f"slope of log time on log N: {slope:.3f}")
    result = {
        "vocab_size": V,
        "seq_len": T,
        "num_sequences": sizes,
        "seconds": times,
        "slope": slope,
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


if __name__ == "__main__":
    main()
