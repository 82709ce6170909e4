"""How loose are the bounds of the paper's theorem where its conditions are met?

    python benchmarks/theorem_bounds.py --corpus FILE.txt

Trains one layer from zero to the end of the theorem's range, s eta = 1/12 or 5 / (8 sqrt(T)), in
double precision. Prints the measured distance from the leading terms, the bound and their ratio
for each weight at the last step that meets all conditions, and writes the same as JSON.
"""

import math

import numpy as np
from harness import double_precision, finish, parser

import assocjax as aj


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--corpus", default="python-docs", help="as of the command line")
    options.add_argument("--vocab-size", type=int, default=500)
    options.add_argument("--seq-len", type=int, default=60)
    options.add_argument("--num-sequences", type=int, default=128)
    options.add_argument("--steps", type=int, default=40)
    options = options.parse_args(arguments)
    V, T, N = options.vocab_size, options.seq_len, options.num_sequences
    steps = options.steps
    if options.small:
        V, T, N, steps = 10, 4, 4, 4
    with double_precision():
        data = aj.load_tokens(options.corpus, vocab_size=V, seq_len=T, num_sequences=N)
        duration = min(1 / 12, 5 / (8 * math.sqrt(data.seq_len)))
        rate = duration / steps * (1 - 1e-12)
        dataset = aj.sweep(
            data, learning_rates=[rate], steps=steps, num_layers=1, theories=["leading"]
        )
    bounds = aj.theorem_bounds(dataset).squeeze(drop=True)
    met = np.flatnonzero(bounds["conditions_met"].values)
    unmet = bounds["conditions"].isel(step=-1)
    names = unmet["condition"].values[~unmet.values].tolist()
    step = int(met[-1]) if met.size else steps
    print(
        f"{data.name}: V={data.vocab_size} T={data.seq_len} N={data.num_sequences} L=1, "
        f"step {step}, s eta = {step * rate:.4f}; conditions not met: {names or 'none'}"
    )
    rows = {}
    for weight in aj.WEIGHTS:
        last = bounds.isel(step=step).sel(weight=weight)
        row = {name: float(last[name]) for name in ("distance", "bound", "looseness")}
        rows[weight] = row
        print(f"{weight:10} " + "  ".join(f"{name} {value:.2e}" for name, value in row.items()))
    result = {
        "weights": rows,
        "steps": step,
        "learning_rate": rate,
        "unmet": names,
        "corpus": data.describe(),
    }
    return finish(result, options.out)


if __name__ == "__main__":
    main()
