"""How much faster is an exact gradient step than the model written with one-hots?

    python benchmarks/exact_vs_dense.py

Seconds of `exact_loss_and_gradient`, and of loss and gradient in `dense.py`, as the paper defines
them, with Jacobians, and by automatic differentiation, each in PyTorch (where installed) and in
JAX, float32, on the same cores, in turn, for several depths. The dense sides take fewer sequences,
and their time is scaled to the same number: it is proportional to it. Also prints the memory at
most of a process of its own that takes our step, and how far loss and gradients agree; writes the
same as JSON.
"""

import jax
import numpy as np
from dense import (
    jax_autograd,
    jax_loss_and_gradient,
    to_torch,
    torch_autograd,
    torch_loss_and_gradient,
    torch_params,
)
from harness import (
    TORCH,
    device,
    difference,
    finish,
    in_turn,
    parser,
    peak_memory,
    random_tokens,
    ratio,
)

import assocjax as aj


def start(V: int, T: int, L: int) -> aj.Params:
    return aj.init_params(
        jax.random.key(0), vocab_size=V, seq_len=T, num_layers=L, scale=0.1 / V**0.5
    )


def step(V: int, T: int, L: int, N: int) -> None:
    jax.block_until_ready(aj.exact_loss_and_gradient(start(V, T, L), random_tokens(N, T, V)))


def measure(V, T, L, N, n, microbatch, repeats) -> dict:
    memory = peak_memory(step, V, T, L, N)
    params, tokens = start(V, T, L), random_tokens(N, T, V)
    few = tokens[:n]
    dense = {
        "JAX": lambda: jax_loss_and_gradient(params, few, microbatch),
        "JAX, autograd": lambda: jax_autograd(params, few, microbatch),
    }
    if TORCH:
        weights, batch = torch_params(params), to_torch(few).long()
        dense["PyTorch"] = lambda: torch_loss_and_gradient(weights, batch, microbatch)
        dense["PyTorch, autograd"] = lambda: torch_autograd(weights, batch, microbatch)
    loss, gradient = aj.exact_loss_and_gradient(params, few)
    agreement = {}
    for name, side in dense.items():
        dense_loss, dense_gradient = side()
        if name.startswith("PyTorch"):
            dense_gradient = aj.Params(**{w: a.cpu().numpy() for w, a in dense_gradient.items()})
        agreement[name] = difference((dense_loss, dense_gradient), (loss, gradient))
    times = in_turn({"ours": lambda: aj.exact_loss_and_gradient(params, tokens), **dense}, repeats)
    ours = times["ours"]
    print(
        f"\nV={V} T={T} L={L} on {device()}\n{'ours':17} {np.median(ours):8.2f} s   N={N}, "
        f"{memory:.2f} GiB at most"
    )
    rows = {}
    for name in dense:
        scaled = times[name] * N / n
        rows[name] = {
            "ratio": ratio(scaled, ours),
            "seconds": times[name].tolist(),
            "largest_difference": agreement[name],
        }
        print(
            f"{name:17} {np.median(scaled):8.2f} s   {N}/{n} times N={n}, microbatches of "
            f"{microbatch}: ratio {rows[name]['ratio']:.1f}, agreement {agreement[name]:.1e}"
        )
    return {
        "vocab_size": V,
        "seq_len": T,
        "num_layers": L,
        "num_sequences": N,
        "dense_num_sequences": n,
        "microbatch": microbatch,
        "ours_seconds": ours.tolist(),
        "ours_peak_GiB": memory,
        "dense": rows,
    }


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--vocab-size", type=int, default=3000)
    options.add_argument("--seq-len", type=int, default=200)
    options.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--sequences", type=int, nargs="+", default=[256, 1024, 1024])
    options.add_argument("--dense-sequences", type=int, default=16)
    options.add_argument("--microbatch", type=int, default=8, help="sequences, of the dense sides")
    options.add_argument("--repeats", type=int, default=3)
    options = options.parse_args(arguments)
    V, T, n, microbatch = (
        options.vocab_size,
        options.seq_len,
        options.dense_sequences,
        options.microbatch,
    )
    cases = list(zip(options.layers, options.sequences, strict=True))
    if options.small:
        V, T, n, microbatch, cases = 20, 8, 4, 2, [(1, 8)]
    rows = [measure(V, T, L, N, n, microbatch, options.repeats) for L, N in cases]
    return finish({"steps": rows}, options.out)


if __name__ == "__main__":
    main()
