"""What share of the machine's peak in matrix products does an exact gradient step reach?

    python benchmarks/matmul_peak.py

The peak is a product of two large float32 matrices, timed in turn with `exact_loss_and_gradient`.
The step's floating-point operations are counted in two ways: those of the matrix products that the
program contains (its jaxpr, loops unrolled), the usual sense of the word; and those of the same
step written with one-hots (`dense.py`), which may exceed the peak where the step avoids them.
Prints both shares (median of repeats), and writes the same as JSON.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from harness import device, finish, in_turn, parser, random_tokens, ratio
from jax.extend.core import ClosedJaxpr, Jaxpr

import assocjax as aj
from assocjax.precision import matmul


def product_flops(jaxpr: Jaxpr) -> int:
    """Operations of the matrix products of a program; a product of [m,k] and [k,n] has 2 m k n."""
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(equation.outvars[0].aval.shape)
        inside = sum(product_flops(part) for part in _parts(equation.params))
        if name == "while" and inside:
            raise NotImplementedError("products in a loop of unknown length")
        total += inside * equation.params.get("length", 1)  # of a scan
    return total


def _parts(params: dict):
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part


def dense_flops(V: int, T: int, L: int, N: int) -> int:
    """Operations of the products of a step with one-hots, with autograd.

    A layer forwards: h W and (A h) V, [T,V] by [V,V]; (h W) h^T and A h, T^2 V. Backwards each
    product costs twice as much, but for what only the one-hot h of the first layer would receive.
    """
    large, small = 2 * T * V**2, 2 * T**2 * V
    layers = L * (2 * large + 2 * small) + large
    constant = large + 2 * small  # gradients of X: through X W, (X W) X^T and A X
    return N * (3 * layers - constant)


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--vocab-size", type=int, default=3000)
    options.add_argument("--seq-len", type=int, default=200)
    options.add_argument("--num-layers", type=int, default=3)
    options.add_argument("--sequences", type=int, default=256)
    options.add_argument("--size", type=int, default=4096, help="of the product that is the peak")
    options.add_argument("--repeats", type=int, default=3)
    options = options.parse_args(arguments)
    V, T, L, N = options.vocab_size, options.seq_len, options.num_layers, options.sequences
    size = options.size
    if options.small:
        V, T, L, N, size = 20, 8, 2, 8, 64
    tokens = random_tokens(N, T, V)
    params = aj.init_params(
        jax.random.key(0), vocab_size=V, seq_len=T, num_layers=L, scale=0.1 / V**0.5
    )

    # Its own count of distinct tokens would not be seen where the program is only looked at.
    step = partial(aj.exact_loss_and_gradient, data=tokens, max_distinct=aj.count_distinct(tokens))

    square = jax.random.normal(jax.random.key(1), (size, size), jnp.float32)
    product = jax.jit(matmul)
    times = in_turn(
        {"peak": lambda: product(square, square), "step": lambda: step(params)}, options.repeats
    )
    peak = 2 * size**3 / times["peak"]
    counts = {
        "in the program": product_flops(jax.make_jaxpr(step)(params).jaxpr),
        "with one-hots": dense_flops(V, T, L, N),
    }
    print(f"V={V} T={T} L={L} N={N} on {device()}: peak {np.median(peak) / 1e9:.1f} GFLOP/s")
    print(f"a step takes {np.median(times['step']):.2f} s")
    shares = {}
    for name, count in counts.items():
        shares[name] = ratio(count / times["step"], peak)
        print(f"products {name}: {count / 1e9:.1f} GFLOP, {shares[name]:.2f} of the peak")
    result = {
        "vocab_size": V,
        "seq_len": T,
        "num_layers": L,
        "num_sequences": N,
        "peak_flops": peak.tolist(),
        "step_seconds": times["step"].tolist(),
        "flops": counts,
        "shares": shares,
    }
    return finish(result, options.out)


if __name__ == "__main__":
    main()
