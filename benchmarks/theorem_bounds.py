"""How loose are the bounds of the paper's theorem where its conditions are met?

    python benchmarks/theorem_bounds.py --corpus FILE.txt

Trains one layer from zero to the end of the theorem's range, s eta = 1/12 or 5 / (8 sqrt(T)), in
double precision. Prints the measured distance from the leading terms, the bound and their ratio
for each weight at the last step that meets all conditions, and writes the same as JSON.
"""

import argparse
import json
import math
from pathlib import Path

import jax
import numpy as np

import assocjax as aj
from assocjax.results import versions


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="python-docs", help="as of the command line")
    parser.add_argument("--vocab-size", type=int, default=500)
    parser.add_argument("--seq-len", type=int, default=60)
    parser.add_argument("--num-sequences", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    precision = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        data = aj.load_tokens(
            options.corpus,
            vocab_size=options.vocab_size,
            seq_len=options.seq_len,
            num_sequences=options.num_sequences,
        )
        duration = min(1 / 12, 5 / (8 * math.sqrt(data.seq_len)))
        rate = duration / options.steps * (1 - 1e-12)
        dataset = aj.sweep(data, learning_rates=[rate], steps=options.steps, num_layers=1)
    finally:
        jax.config.update("jax_enable_x64", precision)
    bounds = aj.theorem_bounds(dataset).squeeze(drop=True)
    met = np.flatnonzero(bounds["conditions_met"].values)
    unmet = bounds["conditions"].isel(step=-1)
    names = unmet["condition"].values[~unmet.values].tolist()
    step = int(met[-1]) if met.size else options.steps
    print(
        f"{data.name}: V={data.vocab_size} T={data.seq_len} N={data.num_sequences} L=1, "
        f"step {step}, s eta = {step * rate:.4f}; conditions not met: {names or 'none'}"
    )
    last, rows = bounds.isel(step=step), {}
    for weight in aj.WEIGHTS:
        row = {name: float(last[f"{weight}_{name}"]) for name in ("distance", "bound", "looseness")}
        rows[weight] = row
        print(f"{weight:10} " + "  ".join(f"{name} {value:.2e}" for name, value in row.items()))
    result = {
        "weights": rows,
        "steps": step,
        "learning_rate": rate,
        "unmet": names,
        "corpus": data.describe(),
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


if __name__ == "__main__":
    main()
