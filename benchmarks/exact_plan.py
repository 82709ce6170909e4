"""Is the plan of an exact step the faster of its forms, and is its memory predicted?

    python benchmarks/exact_plan.py

At each of some sizes both forms are timed in turn, on one device, since that is what their cost
model counts. Prints the measured ratio dense / tables beside the ratio of their counted work, the
form that the plan chooses, how much slower it is than the better one, and estimated memory over
XLA's own figure; writes the same as JSON.
"""

from functools import partial

import jax
from exact_vs_dense import start
from harness import difference, finish, in_turn, parser, random_tokens, ratio

import assocjax as aj
from assocjax.models.plan import FORMS

SIZES = (  # V, T, L, N
    (60, 16, 3, 500),
    (128, 32, 2, 128),
    (300, 48, 1, 256),
    (300, 48, 3, 256),
    (500, 100, 2, 100),
    (1000, 64, 2, 64),
    (1000, 128, 3, 32),
    (1000, 128, 3, 256),
    (3000, 64, 2, 16),
    (3000, 200, 1, 32),
)
SMALL = ((6, 4, 1, 3), (5, 4, 2, 6))


def measure(V: int, T: int, L: int, N: int, repeats: int) -> dict:
    params, tokens = start(V, T, L), random_tokens(N, T, V)
    u = aj.count_distinct(tokens)  # which nothing finds under `jit`
    sizes = {"vocab_size": V, "seq_len": T, "num_layers": L, "num_sequences": N, "max_distinct": u}
    steps, memory, work = {}, {}, {}
    for form in FORMS:
        step = jax.jit(partial(aj.exact_loss_and_gradient, form=form, max_distinct=u))
        compiled = step.lower(params, tokens).compile()
        found = compiled.memory_analysis()
        actual = (
            found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes
        )
        plan = aj.plan_exact_step(**sizes, form=form)
        memory[form], work[form] = plan.memory / actual, plan.work
        steps[form] = lambda compiled=compiled: compiled(params, tokens)
    times = in_turn(steps, repeats)
    chosen = aj.plan_exact_step(**sizes).form
    return sizes | {
        "dense_over_tables": ratio(times["dense"], times["tables"]),
        "work_dense_over_tables": work["dense"] / work["tables"],
        "chosen": chosen,
        "chosen_over_best": max(ratio(times[chosen], times[form]) for form in FORMS),
        "memory_over_xla": memory,
        "difference": difference(*(step() for step in steps.values())),
    }


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__).parse_args(arguments)
    rows = []
    print("    V    T  L    N   dense/tables  counted  chosen  slower  memory dense, tables")
    for sizes in SMALL if options.small else SIZES:
        row = measure(*sizes, repeats=1 if options.small else 3)
        rows.append(row)
        V, T, L, N = sizes
        memory = ", ".join(f"{row['memory_over_xla'][form]:.2f}" for form in FORMS)
        print(
            f"{V:5} {T:4} {L:2} {N:4} {row['dense_over_tables']:14.2f} "
            f"{row['work_dense_over_tables']:8.2f}  {row['chosen']:6} "
            f"{row['chosen_over_best']:7.2f}  {memory}",
            flush=True,
        )
    return finish({"rows": rows}, options.out)


if __name__ == "__main__":
    main()
