"""With which power of each size do the statistics, an exact step and a sweep grow?

    python benchmarks/scaling.py

Doubles one size at a time, from a middle case, and fits log seconds (the fastest of repeats) to log
size. Expected where a size dominates: 1 in N for all, 2 in T and in V at most (the [V,V] matrices
of the statistics cost V^3), 1 in L and in the number of runs. Prints the seconds and the slopes,
and writes the same as JSON.
"""

import numpy as np
from exact_vs_dense import start
from harness import device, finish, parser, random_tokens, seconds, slope, use_all_cores

import assocjax as aj

MIDDLE = {"V": 256, "T": 64, "L": 2, "N": 64, "runs": 1}
STATISTICS = {"N": [4096, 8192, 16384, 32768], "T": [64, 128, 256], "V": [512, 1024, 2048]}
EXACT = {"N": [64, 128, 256], "T": [64, 128, 256], "V": [512, 1024, 2048], "L": [1, 2, 4, 8]}
RUNS = {"runs": [8, 16, 32]}


def statistics_seconds(V, T, N, **_) -> float:
    return seconds(aj.corpus_statistics, random_tokens(N, T, V), V)


def exact_seconds(V, T, L, N, **_) -> float:
    return seconds(aj.exact_gradient, start(V, T, L), random_tokens(N, T, V))


def sweep_seconds(V, T, L, N, runs) -> float:
    vocabulary = tuple(str(i) for i in range(V))
    data = aj.TokenData(random_tokens(N, T, V), np.ones((N, T), bool), vocabulary, "random", "")
    common = {"learning_rates": [0.1], "init_scales": [0.01], "steps": 4, "num_layers": L}
    common["theories"] = ["leading"]
    return seconds(lambda: aj.sweep(data, seeds=range(runs), **common)["loss"].values)


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__).parse_args(arguments)
    use_all_cores()
    tiny = {"V": 6, "T": 4, "L": 1, "N": 4, "runs": 1}
    middle = tiny if options.small else MIDDLE
    result = {"from": middle}
    print(f"on {device()}, from {middle}")
    for name, measure, axes in (
        ("statistics", statistics_seconds, STATISTICS),
        ("exact step", exact_seconds, EXACT),
        ("sweep", sweep_seconds, RUNS),
    ):
        result[name] = {}
        if options.small:
            first = next(iter(axes))
            axes = {first: [tiny[first], 2 * tiny[first]]}
        for axis, sizes in axes.items():
            times = [measure(**(middle | {axis: size})) for size in sizes]
            power = slope(sizes, times)
            result[name][axis] = {"sizes": sizes, "seconds": times, "slope": power}
            cells = "  ".join(f"{n}: {t:.4f} s" for n, t in zip(sizes, times, strict=True))
            print(f"{name:10} {axis:>4}^{power:.2f}   {cells}")
    return finish(result, options.out)


if __name__ == "__main__":
    main()
