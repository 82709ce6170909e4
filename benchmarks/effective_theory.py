"""How far do the theories follow exact training, and what do they cost?

    python benchmarks/effective_theory.py --corpus FILE.txt

Three questions, in double precision:

1. Errors of W_O, V_1 and W_1 relative to exact gradient descent, at several steps: of the leading
   terms; of the effective theory around zero logits; of the effective theory; and of exact
   training with attention held uniform, which is all that such a theory approximates. In brackets
   1 - cosine of W_O. Then the passes over the data that `effective_weights` took, and its error of
   W_1; last, after two corrections for attention's feedback, the passes of `corrected_weights` and
   its errors of W_O, V_1 and W_1.
2. Seconds of an effective step (no data) over those of an exact step, in its cheaper form, for
   growing N: the ratio falls like 1/N once N outgrows what an exact step does once a step.
3. Exact gradient flow by an adaptive solver against gradient descent in small steps to the same
   time: gradients taken, seconds, and how far apart they end.

Prints tables and ratios, and writes the same as JSON.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import double_precision, finish, parser, seconds, slope

import assocjax as aj

CASES = [  # vocab_size, seq_len, num_sequences, learning_rate, steps
    (120, 24, 256, 0.1, (16, 24, 32, 40, 60)),
    (400, 48, 96, 0.2, (20, 30)),
]
SIDES = ("leading", "around zero", "effective", "uniform attention")
L = 3


def uniform_attention(params: aj.Params) -> aj.Params:
    """The weights with attention at its start."""
    return params.replace(
        query_key=jnp.zeros_like(params.query_key), position=jnp.zeros_like(params.position)
    )


def follow(data: aj.TokenData, rate: float, steps: int) -> dict:
    """Trains exactly and by every theory side by side; compares them at every step."""
    tokens, mask, V = jnp.asarray(data.tokens), jnp.asarray(data.mask), data.vocab_size
    inputs = {
        "tokens": tokens,
        "mask": mask,
        "leading": aj.corpus_statistics(tokens, V, mask),
        "effective": aj.effective_statistics(tokens, depth=L, vocab_size=V, mask=mask),
    }
    zero = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=data.seq_len, num_layers=L)

    def run(inputs):
        tokens, mask = inputs["tokens"], inputs["mask"]

        def gradients(sides, step):
            loss, exact = aj.exact_loss_and_gradient(sides["exact"], tokens, mask)
            corpus = inputs["effective"], tokens, mask
            return loss, {
                "exact": exact,
                "around zero": aj.effective_gradient(sides["around zero"], *corpus, around="zero"),
                "effective": aj.effective_gradient(sides["effective"], *corpus),
                "uniform attention": aj.exact_gradient(
                    uniform_attention(sides["uniform attention"]), tokens, mask
                ),
            }

        def observe(snapshot):
            sides = dict(snapshot.params)
            sides["leading"] = aj.leading_weights(inputs["leading"], L, rate, snapshot.step)
            exact = sides.pop("exact")
            first = exact.replace(query_key=exact.query_key[:1], value=exact.value[:1])
            return (
                snapshot.loss,
                first,
                {
                    name: {
                        weight: (measures.relative_error, 1 - measures.cosine)
                        for weight, measures in aj.compare_params(exact, side).items()
                    }
                    for name, side in sides.items()
                },
            )

        start = dict.fromkeys(("exact", *SIDES[1:]), zero)
        return aj.train(start, gradients, optax.sgd(rate), steps, observe=observe)

    _, (losses, exact, compared) = jax.jit(run)(inputs)
    return {"loss": losses, "exact": exact, "compared": compared, **inputs}


def errors(load, cases) -> list[dict]:
    rows = []
    for V, T, N, rate, steps in cases:
        data = load(vocab_size=V, seq_len=T, num_sequences=N)
        print(f"\nV={data.vocab_size} T={T} N={data.num_sequences} L={L} eta={rate:g}")
        print(
            "step  loss    "
            + "".join(f"{name:>38}" for name in SIDES)
            + "    passes: W_1    corrected"
        )
        found = follow(data, rate, max(steps))
        for step in steps:
            row = {"vocab_size": V, "seq_len": T, "num_sequences": N, "learning_rate": rate}
            row |= {"step": step, "loss": float(found["loss"][step])}
            for name in SIDES:
                compared = found["compared"][name]
                row[name] = {
                    weight: np.asarray(compared[weight][0][step]).reshape(-1).tolist()
                    for weight in aj.WEIGHTS
                }
                row[name]["output_1-cosine"] = float(compared["output"][1][step])
            common = {"num_layers": L, "learning_rate": rate, "steps": step}
            corpus = found["effective"], data.tokens, data.mask
            quadrature = aj.effective_weights(*corpus, **common)
            corrected = aj.corrected_weights(*corpus, **common, corrections=2)
            measured = []
            for weight in ("output", "value", "query_key"):
                exact = getattr(found["exact"], weight)[step]
                theory = getattr(corrected.params, weight)
                theory = theory if weight == "output" else theory[:1]
                measured.append(float(aj.agreement(exact, theory).relative_error))
            summed = quadrature.params.query_key[:1]
            error = float(aj.agreement(found["exact"].query_key[step], summed).relative_error)
            row |= {"passes": quadrature.passes, "quadrature_W_1": error}
            row |= {"corrected_passes": corrected.passes, "corrected": measured}
            rows.append(row)
            cells = []
            for name in SIDES:
                W_O, V_1, W_1 = (row[name][w][0] for w in ("output", "value", "query_key"))
                cells.append(f"{W_O:.5f} {V_1:.5f} {W_1:.5f} ({row[name]['output_1-cosine']:.0e})")
            cells = "".join(f"{cell:>38}" for cell in cells)
            last = f"{corrected.passes}: " + " ".join(f"{e:.6f}" for e in measured)
            print(
                f"{step:>4}  {row['loss']:.4f}{cells}    {quadrature.passes}: {error:.5f}    {last}"
            )
    return rows


def cost(load, V: int, T: int, sizes: list[int]) -> dict:
    rows = []
    print(f"\nV={V} T={T} L={L}: an effective step (no data) over an exact step")
    for N in sizes:
        data = load(vocab_size=V, seq_len=T, num_sequences=N)
        statistics = aj.effective_statistics(data, depth=L)
        params = aj.init_params(
            jax.random.key(0), vocab_size=data.vocab_size, seq_len=T, num_layers=L, scale=0.01
        )
        effective = seconds(aj.effective_gradient, params, statistics)
        exact = seconds(aj.exact_gradient, params, data.tokens, data.mask)
        attention = seconds(aj.uniform_attention_gradient, params, data.tokens, data.mask)
        rows.append(
            {"num_sequences": data.num_sequences, "effective": effective, "exact": exact}
            | {"attention_pass": attention}
        )
        ratio = f"{effective:.4f} s / {exact:.4f} s = {effective / exact:.4f}"
        share = f"{attention / exact:.2f} of an exact step"
        print(f"N={data.num_sequences:>6}  {ratio}   pass for W and P: {share}")
    largest = rows[-2:]
    power = slope(
        [row["num_sequences"] for row in largest],
        [row["effective"] / row["exact"] for row in largest],
    )
    print(f"slope of log ratio on log N, over the largest two: {power:.2f} (-1 is 1/N)")
    return {"rows": rows, "slope": power}


def flow(load, V: int, T: int, N: int, duration: float, rates: list[float]) -> dict:
    data = load(vocab_size=V, seq_len=T, num_sequences=N)
    start = aj.init_params(jax.random.key(0), vocab_size=data.vocab_size, seq_len=T, num_layers=L)
    tokens, mask = jnp.asarray(data.tokens), jnp.asarray(data.mask)

    @jax.jit
    def solve(params, tokens, mask):
        times = jnp.array([duration])
        return aj.gradient_flow(params, lambda p: aj.exact_gradient(p, tokens, mask), times)

    elapsed = seconds(solve, start, tokens, mask, repeats=1)
    solved = solve(start, tokens, mask)
    ended = jax.tree.map(lambda leaf: leaf[0], solved.params)
    steps = int(solved.num_steps)
    print(f"\nV={data.vocab_size} T={T} N={N}: exact gradient flow to time {duration:g}")
    print(f"flow: {steps} solver steps, {6 * steps} gradients, {elapsed:.2f} s")
    rows = []
    for rate in rates:
        count = round(duration / rate)

        @jax.jit
        def descend(params, tokens, mask, rate=rate, count=count):
            def gradient(params, step):
                return aj.exact_loss_and_gradient(params, tokens, mask)

            return aj.train(params, gradient, optax.sgd(rate), count)[0]

        stepwise = seconds(descend, start, tokens, mask, repeats=1)
        agreement = aj.compare_params(ended, descend(start, tokens, mask))
        error = {name: float(np.max(agreement[name].relative_error)) for name in aj.WEIGHTS}
        rows.append({"learning_rate": rate, "steps": count, "seconds": stepwise, "error": error})
        print(
            f"descent, eta={rate:g}: {count} gradients, {stepwise:.2f} s, {stepwise / elapsed:.2f} "
            f"times the flow; from it by " + ", ".join(f"{n} {e:.1e}" for n, e in error.items())
        )
    return {"solver_steps": steps, "seconds": elapsed, "descent": rows}


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--corpus", default="fables", help="as of the command line")
    options = options.parse_args(arguments)

    def load(**sizes):
        return aj.load_tokens(options.corpus, **sizes)

    small = options.small
    with double_precision():
        result = {
            "errors": errors(load, [(10, 4, 6, 0.1, (5,))] if small else CASES),
            "cost": cost(load, 10, 4, [4, 8])
            if small
            else cost(load, 300, 48, [64, 256, 1024, 4096]),
            "flow": flow(load, 10, 4, 6, 0.2, [0.1])
            if small
            else flow(load, 120, 24, 256, 3.2, [0.02, 0.005]),
            "corpus": load(vocab_size=10, seq_len=4).describe(),
        }
    return finish(result, options.out)


if __name__ == "__main__":
    main()
