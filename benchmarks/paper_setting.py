"""How long does exact training take at the paper's size?

    python benchmarks/paper_setting.py

Seconds of an exact gradient step at V=3000, T=200, L=3 with batches of 2,048 sequences of random
tokens, and the hours of the paper's 3,200 steps, on whatever device JAX finds. With --sequences a
step takes fewer, and the time is scaled as if proportional, which overstates it where part of a
step does not depend on the number. Prints that, and writes the same as JSON.
"""

from functools import partial

import jax
import numpy as np
from exact_vs_dense import start
from harness import device, finish, in_turn, parser, random_tokens

import assocjax as aj

BATCH, STEPS = 2048, 3200


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--sequences", type=int, default=BATCH, help="of a step that is timed")
    options.add_argument("--repeats", type=int, default=3)
    options = options.parse_args(arguments)
    V, T, L, N = (20, 8, 2, 4) if options.small else (3000, 200, 3, options.sequences)
    # As in training, sequences and weights are on the device already, and distinct tokens counted.
    params, tokens = jax.device_put((start(V, T, L), random_tokens(N, T, V)))
    step = jax.jit(partial(aj.exact_loss_and_gradient, max_distinct=aj.count_distinct(tokens)))
    measured = in_turn({"step": lambda: step(params, tokens)}, options.repeats)["step"]
    each = float(np.median(measured)) * BATCH / N
    hours = each * STEPS / 3600
    print(f"V={V} T={T} L={L} on {device()}: {np.median(measured):.2f} s for {N} sequences")
    scaled = "" if N == BATCH else f", scaled by {BATCH / N:g}"
    print(f"a batch of {BATCH}: {each:.1f} s{scaled}; {STEPS} steps: {hours:.1f} hours")
    result = {
        "vocab_size": V,
        "seq_len": T,
        "num_layers": L,
        "num_sequences": N,
        "seconds": measured.tolist(),
        "batch": BATCH,
        "batch_seconds": each,
        "steps": STEPS,
        "hours": hours,
    }
    return finish(result, options.out)


if __name__ == "__main__":
    main()
