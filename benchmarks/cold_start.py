"""How long until something happens, against importing JAX alone?

    python benchmarks/cold_start.py

Seconds of processes that import the package, print the help of its command, and give a first small
result, in turn with one that imports JAX and makes an array. Prints the ratios (median of repeats),
and writes the same as JSON.
"""

import subprocess
import sys

import numpy as np
from harness import device, finish, in_turn, parser, ratio

RESULT = """
import assocjax as aj
data = aj.load_tokens("fables", seq_len=8, num_sequences=16)
print(aj.corpus_statistics(data).bigram)
"""
PROCESSES = {
    "import jax": ["-c", "import jax; jax.numpy.zeros(1).block_until_ready()"],
    "import assocjax": ["-c", "import assocjax"],
    "assocjax --help": ["-m", "assocjax.cli", "--help"],
    "statistics of a small corpus": ["-c", RESULT],
}


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=5)
    options = options.parse_args(arguments)

    def start(command):
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)

    sides = {name: lambda c=command: start(c) for name, command in PROCESSES.items()}
    times = in_turn(sides, 1 if options.small else options.repeats)
    ratios = {name: ratio(side, times["import jax"]) for name, side in times.items()}
    print(f"on {device()}")
    for name, side in times.items():
        print(f"{name:30} {np.median(side):6.2f} s   {ratios[name]:.2f} of importing JAX")
    seconds = {name: side.tolist() for name, side in times.items()}
    return finish({"seconds": seconds, "ratios": ratios}, options.out)


if __name__ == "__main__":
    main()
