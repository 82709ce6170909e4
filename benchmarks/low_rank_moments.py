"""Would fewer dimensions of context make the effective theory cheaper, and at what error?

    python benchmarks/low_rank_moments.py --corpus FILE.txt

Two forms of `effective_statistics`, by rank r:

covariance: the r leading eigenvectors of the conditional covariance, a matrix [L V, L V];
contexts:   Z_k in the r leading principal directions of the contexts at depth k, for k >= 1, in all
            but Phi_1, which gives the first force on `value`: then only r rows of every M_k are
            needed, and a step costs about 2 V^3 + (4 L^2 + 3 L) r V^2 multiply-adds.

Three questions:

1. How fast do the covariance's eigenvalues fall, and how many entries of it, of E[Z_k | x] and of
   C_jk itself, before the means are taken off, are not zero?
2. Errors of W_O and of V_l (worst layer) relative to the whole effective theory, at several steps
   of descent; beside them the theory's own error against exact training, and its error without any
   covariance. V is small where training is exact.
3. Seconds of a gradient over those of the whole theory's. "no covariance" is the limit of every
   cheaper form of the covariance alone, low rank or sparse.

Prints tables, and writes the same as JSON.

What it finds on stories and news text, and why the library keeps its statistics whole: a few
percent of the covariance's rank are enough, but the chains of products cost more than it does, so
that no more than about a third of a step can be saved. `contexts` saves more than two thirds at
V = 3,000 and r = V/10, and W_O hardly notices; but V_l is then off by .25 to 1.25 times the
theory's own error.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from harness import finish, parser

import assocjax as aj
from assocjax.precision import matmul


def pairs(blocks: jax.Array) -> jax.Array:
    """[L,L,V,V] to [L V, L V]."""
    L, _, V, _ = blocks.shape
    return blocks.transpose(0, 2, 1, 3).reshape(L * V, L * V)


def low_rank_covariance(statistics: aj.EffectiveStatistics, eigen, rank: int):
    """The same statistics with a covariance of a rank, dense."""
    L, V, _ = statistics.conditional_mean.shape
    values, vectors = eigen
    top = vectors[:, -rank:]
    blocks = matmul(top * values[None, -rank:], top.T).reshape(L, V, L, V).swapaxes(1, 2)
    return statistics.replace(conditional_covariance=blocks)


def principal_directions(statistics: aj.EffectiveStatistics) -> jax.Array:
    """[L,V,V]: for each depth the eigenvectors of C_kk as columns, of the largest last."""
    moments = aj.second_moments(statistics)
    depths = range(1, len(moments))
    return jnp.stack([jnp.linalg.eigh(moments[k, k])[1] for k in depths])


def low_rank_contexts(statistics: aj.EffectiveStatistics, directions, rank: int):
    """The same statistics with all contexts but that of Phi_1 projected, dense: for errors."""
    top = directions[:, :, -rank:]
    P = matmul(top, jnp.swapaxes(top, 1, 2))
    context = statistics.context.at[2:].set(matmul(statistics.context[2:], P[1:]))
    within = matmul(matmul(P[:, None], statistics.conditional_covariance), P[None, :])
    return statistics.replace(
        context=context,
        conditional_mean=matmul(statistics.conditional_mean, P),
        conditional_covariance=within,
    )


def factors(statistics: aj.EffectiveStatistics, directions, rank: int) -> dict:
    """What `contexts_loss` reads: the same, as factors."""
    E = directions[:, :, -rank:]
    Et = jnp.swapaxes(E, 1, 2)
    covariance = matmul(matmul(Et[:, None], statistics.conditional_covariance), E[None, :])
    return {
        "whole": statistics.context[:2],
        "context": matmul(statistics.context[2:], E[1:]),
        "frequency": statistics.frequency,
        "mean": jnp.concatenate(list(matmul(statistics.conditional_mean, E)), axis=1),
        "covariance": pairs(covariance),
        "directions": Et,
    }


def contexts_loss(params: aj.Params, corpus: dict):
    """`effective_loss` of `low_rank_contexts`, by r rows of every M_k."""
    W_O, value = params.output, params.value

    def rows(start, depth, layers):  # start M_depth after so many layers
        if depth == 0:
            return start
        through = matmul(rows(start, depth - 1, layers - 1), value[layers - 1])
        return through if layers == depth else rows(start, depth, layers - 1) + through

    L = len(value)
    H = [matmul(rows(E, k, L), W_O) for k, E in enumerate(corpus["directions"], start=1)]
    linear = jnp.sum(corpus["whole"][0].T * W_O)
    linear += jnp.sum(matmul(corpus["whole"][1].T, W_O.T) * jnp.sum(value, axis=0))
    for Phi, H_k in zip(corpus["context"], H[1:], strict=True):
        linear += jnp.sum(Phi.T * H_k)
    context = jnp.concatenate(H)
    b = W_O + matmul(corpus["mean"], context)
    b -= jnp.mean(b, axis=1, keepdims=True)
    cumulants = jax.nn.logsumexp(b, axis=1)
    q = matmul(corpus["frequency"], jnp.exp(b - cumulants[:, None]))
    context -= matmul(context, q)[:, None]
    variance = jnp.sum(context * matmul(corpus["covariance"], context), axis=0)
    return jnp.sum(corpus["frequency"] * cumulants) - linear + jnp.sum(q * variance) / 2


def seconds(function, *arguments, repeats: int) -> float:
    """The fastest of some calls, after one that compiles."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return min(times[1:])


@partial(jax.jit, static_argnames=("steps", "exact"))
def descend(params, statistics, corpus, rate: float, steps: int, exact: bool = False):
    """Weights after so many steps more, by the effective theory or by exact training."""

    def step(_, params):
        if exact:
            gradient = aj.exact_gradient(params, *corpus)
        else:
            gradient = aj.effective_gradient(params, statistics)
        return jax.tree.map(lambda w, g: w - rate * g, params, gradient)

    return jax.lax.fori_loop(0, steps, step, params)


def path(data, statistics, rate: float, steps: list[int], exact: bool = False) -> list[aj.Params]:
    L, V, _ = statistics.conditional_mean.shape
    corpus = jnp.asarray(data.tokens), jnp.asarray(data.mask)
    at = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=data.seq_len, num_layers=L)
    found = []
    for before, after in zip([0, *steps[:-1]], steps, strict=True):
        at = descend(at, statistics, corpus, rate, after - before, exact)
        found.append(at)
    return found


def density(data, statistics: aj.EffectiveStatistics) -> dict:
    present = np.zeros((data.num_sequences, data.vocab_size), np.float32)
    sequence, position = np.nonzero(data.mask)
    present[sequence, data.tokens[sequence, position]] = 1
    row = {
        "E[Z_k | x]": float(jnp.mean(statistics.conditional_mean != 0)),
        "C_jk": float(np.mean(present.T @ present > 0)),  # tokens that share a sequence
        "covariance": float(jnp.mean(statistics.conditional_covariance != 0)),
    }
    print("entries that are not zero: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()))
    return row


def spectrum(values: np.ndarray, ranks: list[int]) -> dict:
    shares = np.cumsum(values[::-1].clip(0)) / values.clip(0).sum()
    row = {r: float(shares[r - 1]) for r in ranks}
    largest = ", ".join(f"{share:.3f} at r={r}" for r, share in row.items())
    print(f"share of the largest eigenvalues in the covariance's trace: {largest}")
    return row


def errors(data, statistics, forms: dict, rate: float, steps: list[int], exact: bool) -> dict:
    whole = path(data, statistics, rate, steps)
    zero = jnp.zeros_like(statistics.conditional_covariance)
    forms = {"no covariance": statistics.replace(conditional_covariance=zero), **forms}
    result = {"loss": [float(aj.effective_loss(p, statistics)) for p in whole]}
    print("errors of W_O / V_l" + "".join(f"{f'step {s}':>20}" for s in steps))
    print(f"{'loss':<19}" + "".join(f"{loss:>20.4f}" for loss in result["loss"]))

    def show(name, theory, truth):
        compared = [aj.compare_params(*both) for both in zip(truth, theory, strict=True)]
        result[name] = [
            [float(np.max(c[weight].relative_error)) for weight in ("output", "value")]
            for c in compared
        ]
        print(f"{name:<19}" + "".join(f"{f'{a:.1e} / {b:.1e}':>20}" for a, b in result[name]))

    if exact:
        show("the theory's own", whole, path(data, statistics, rate, steps, exact=True))
    for name, form in forms.items():
        show(name, path(data, form, rate, steps), whole)
    return result


def cost(statistics, directions, ranks, repeats: int) -> dict:
    L, V, _ = statistics.conditional_mean.shape
    params = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=1, num_layers=L, scale=V**-0.5)
    time_of = partial(seconds, repeats=repeats)
    whole = time_of(aj.effective_gradient, params, statistics)
    context = jnp.tile(params.output, (L, 1))
    within = time_of(jax.jit(matmul), pairs(statistics.conditional_covariance), context)
    limit = whole / (whole - within)
    print(f"a gradient of the whole theory: {whole:.3f} s; the covariance is {within / whole:.2f}")
    print(f"of it, so that without one a gradient is {limit:.2f} times cheaper: no form of it can")
    print("do better. Times cheaper at rank r of the covariance, and of contexts:")
    rows = []

    @jax.jit
    def covariance_products(root, context):
        return matmul(root, matmul(root.T, context))

    gradient = jax.jit(jax.grad(contexts_loss))
    for rank in ranks:
        products = time_of(covariance_products, context[:, :rank], context)
        corpus = factors(statistics, directions, rank)
        contexts = time_of(gradient, params, corpus)
        dense = low_rank_contexts(statistics, directions, rank)
        agreement = aj.compare_params(
            aj.effective_gradient(params, dense), gradient(params, corpus)
        )
        apart = max(float(np.max(agreement[w].relative_error)) for w in ("output", "value"))
        cheaper = whole / (whole - within + products), whole / contexts
        print(f"r = {rank:>5}: {cheaper[0]:.2f}, {cheaper[1]:.2f}   ", end="")
        print(f"(factors against dense gradients: {apart:.0e})")
        rows.append({"rank": rank, "covariance": cheaper[0], "contexts": cheaper[1]})
    return {"seconds": whole, "without_covariance": limit, "rows": rows}


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--corpus", default="fables", help="as of the command line")
    options.add_argument("--vocab-size", type=int, default=300)
    options.add_argument("--seq-len", type=int, default=64)
    options.add_argument("--num-sequences", type=int, default=512)
    options.add_argument("--num-layers", type=int, default=2)
    options.add_argument("--learning-rate", type=float, default=0.5)
    options.add_argument("--steps", type=int, nargs="*", default=[40, 70], help="none: cost only")
    options.add_argument(
        "--fractions", type=float, nargs="+", default=[0.03, 0.1, 0.3], help="ranks over V"
    )
    options.add_argument("--exact", action="store_true", help="train exactly, too")
    options.add_argument("--repeats", type=int, default=2)
    options = options.parse_args(arguments)
    if options.small:
        small = {"vocab_size": 8, "seq_len": 4, "num_sequences": 4, "num_layers": 3}
        vars(options).update(small, steps=[2, 3], fractions=[0.5], repeats=1, exact=True)
    data = aj.load_tokens(
        options.corpus,
        vocab_size=options.vocab_size,
        seq_len=options.seq_len,
        num_sequences=options.num_sequences,
    )
    V, L = data.vocab_size, options.num_layers
    print(f"V={V} T={data.seq_len} N={data.num_sequences} L={L} eta={options.learning_rate:g}")
    statistics = aj.effective_statistics(data, depth=L)
    directions = principal_directions(statistics)
    ranks = [max(1, round(q * V)) for q in options.fractions]
    result = {
        "density": density(data, statistics),
        "cost": cost(statistics, directions, ranks, options.repeats),
    }
    if options.steps:
        eigen = jnp.linalg.eigh(pairs(statistics.conditional_covariance))
        result["spectrum"] = spectrum(np.asarray(eigen[0]), ranks)
        forms = {f"covariance r={r}": low_rank_covariance(statistics, eigen, r) for r in ranks}
        forms |= {f"contexts r={r}": low_rank_contexts(statistics, directions, r) for r in ranks}
        how = options.learning_rate, options.steps, options.exact
        result["errors"] = errors(data, statistics, forms, *how)
    result["corpus"] = data.describe()
    return finish(result, options.out)


if __name__ == "__main__":
    main()
