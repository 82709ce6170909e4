"""What is gained by training the runs of a sweep together?

    python benchmarks/sweep_vs_loop.py

Seconds of `sweep` over learning rates and seeds, from a Gaussian start, against

- a loop over the same runs: `run_comparison`, compiled once. Both sides count the corpus, train,
  and compare weights and gradients with the leading theory at every step; the sweep also makes its
  Dataset, and divides its runs among the devices.
- a loop over the same runs of `dense.py` in PyTorch (where installed), plain gradient descent, with
  the gradient as the paper defines it and by automatic differentiation. It only trains: no
  statistics, no theory, no comparison, and no gradient after the last step.

Sides take turns. Prints the ratios (median of repeats) and how far the losses agree, and writes the
same as JSON.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from dense import to_torch, torch_autograd, torch_loss_and_gradient, torch_params
from harness import (
    TORCH,
    device,
    difference,
    finish,
    in_turn,
    parser,
    random_tokens,
    ratio,
    use_all_cores,
)

import assocjax as aj

if TORCH:
    import torch


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--vocab-size", type=int, default=128)
    options.add_argument("--seq-len", type=int, default=32)
    options.add_argument("--sequences", type=int, default=128)
    options.add_argument("--num-layers", type=int, default=2)
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--rates", type=int, default=8, help="number of learning rates")
    options.add_argument("--seeds", type=int, default=8, help="number of seeds")
    options.add_argument("--repeats", type=int, default=3)
    options = options.parse_args(arguments)
    use_all_cores()
    V, T, N, L = options.vocab_size, options.seq_len, options.sequences, options.num_layers
    R, S, steps = options.rates, options.seeds, options.steps
    if options.small:
        V, T, N, L, R, S, steps = 12, 4, 6, 1, 2, 2, 2
    tokens, scale = random_tokens(N, T, V), 0.01
    vocabulary = tuple(str(i) for i in range(V))
    data = aj.TokenData(tokens, np.ones((N, T), bool), vocabulary, "random", "")
    rates, seeds = np.geomspace(0.01, 1, R).tolist(), list(range(S))
    config = aj.RunConfig(steps=steps, num_layers=L, theories=("leading",))

    def swept():
        return aj.sweep(
            data,
            learning_rates=rates,
            seeds=seeds,
            init_scales=[scale],
            steps=steps,
            num_layers=L,
            theories=["leading"],
        )

    run = jax.jit(aj.run_comparison, static_argnums=0)

    def looped():
        corpus = aj.Corpus.of(data, config)
        records = [
            jax.device_get(run(config, corpus, jnp.float32(rate), jnp.int32(seed), scale))
            for rate, seed in itertools.product(rates, seeds)
        ]
        return np.stack([record["loss"] for record in records]).reshape(R, S, -1)

    sides = {"sweep": swept, "loop": looped}
    torch_sides = {"PyTorch": torch_loss_and_gradient, "PyTorch, autograd": torch_autograd}
    if TORCH:
        batch = to_torch(tokens).long()
        starts = [_start(seed, V, T, L, scale) for seed in seeds]
        for name, gradient in torch_sides.items():
            sides[name] = lambda gradient=gradient: np.array(
                [
                    [_descend(start, batch, rate, steps, gradient) for start in starts]
                    for rate in rates
                ]
            )
    found = swept()["loss"].values[:, :, 0]
    agreement = {"loop": difference(looped(), found)}
    agreement |= {name: difference(sides[name](), found[..., :-1]) for name in torch_sides if TORCH}
    times = in_turn(sides, options.repeats)
    print(f"V={V} T={T} N={N} L={L} on {device()}: {R} x {S} runs of {steps} steps")
    rows = {}
    for name, side in times.items():
        print(f"{name:17} {np.median(side):8.3f} s", end="")
        if name != "sweep":
            rows[name] = {"ratio": ratio(side, times["sweep"]), "agreement": agreement[name]}
            print(f"   ratio {rows[name]['ratio']:.2f}, agreement {agreement[name]:.1e}", end="")
        print()
    result = {
        "vocab_size": V,
        "seq_len": T,
        "num_sequences": N,
        "num_layers": L,
        "runs": [R, S],
        "steps": steps,
        "seconds": {name: side.tolist() for name, side in times.items()},
        "loops": rows,
    }
    return finish(result, options.out)


def _start(seed: int, V: int, T: int, L: int, scale: float) -> aj.Params:
    """The start that `run_comparison` draws."""
    key, _ = jax.random.split(jax.random.key(seed))
    return aj.init_params(key, vocab_size=V, seq_len=T, num_layers=L, scale=scale)


def _descend(start: aj.Params, tokens, rate: float, steps: int, gradient) -> list[float]:
    """Losses before every step of plain gradient descent; all sequences are one microbatch."""
    weights, losses = torch_params(start), []
    optimizer = torch.optim.SGD(weights.values(), lr=rate)
    for _ in range(steps):
        loss, found = gradient(weights, tokens, len(tokens))
        for name, weight in weights.items():
            weight.grad = found[name]
        losses.append(loss)
        optimizer.step()
    return losses


if __name__ == "__main__":
    main()
