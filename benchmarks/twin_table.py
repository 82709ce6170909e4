"""How much of what real runs of a language model share has its statistics twin, which never reads?

    python benchmarks/twin_table.py FILE.txt --layers 4 --width 96 --steps 16 64

Trains some real runs of one start with different orders of batches, and twins of orders 0 to 5 and
controls from the same start by the same recipe (`assocjax.experiments.twins`). For every weight and
recorded step it prints the cosine of the change since the start with the mean change of the other
real runs: of a held-out real run, which is the ceiling, and of each twin. Each real run is held out
once, and cosines are averaged over them. Then the partial cosine, after the change of the twin of
order 0 has been projected out of both, and the ratio of norms, twin over real run. Last, what each
order adds to the part of the change that is explained (`twin_shares`).

The recipe is Pythia's (`assocjax.llm.recipe`): AdamW, clipping at norm 1, warmup over 1 % of
`--schedule` steps, cosine decay. With `--optimizer sgd` it is plain descent, clipped likewise.
"""

import dataclasses
import time

import numpy as np
import optax
import xarray as xr
from harness import finish, parser

import assocjax as aj
from assocjax import llm
from assocjax.corpora import read_documents
from assocjax.experiments.twins import all_twins, compare_twins
from assocjax.llm.pretrain import tokenize_corpus
from assocjax.llm.recipe import make_optimizer
from assocjax.models.decoder import DecoderModel, gpt2, llama, neox
from assocjax.theories.twin_losses import ORDERS

FAMILIES = {"neox": neox, "gpt2": gpt2, "llama": llama}


def recipe(optimizer: str, learning_rate: float, schedule: int) -> optax.GradientTransformation:
    if optimizer == "adamw":
        return make_optimizer(learning_rate, schedule)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(learning_rate))


def table(dataset: xr.Dataset, measure: str, step: int) -> str:
    """Rows are the run and the twins, columns are weights; all layers together."""
    values = dataset[measure].sel(layers="all", step=step).mean("held_out")
    width = max(map(len, dataset.twin.values.tolist()))
    names = [{"attention_output": "att.out"}.get(w, w) for w in dataset.weight.values.tolist()]
    lines = [f"{measure}, step {step}".ljust(width) + "".join(f"{name:>12}" for name in names)]
    for twin in dataset.twin.values.tolist():
        cells = (f"{cell:12.3f}" for cell in values.sel(twin=twin).values)
        lines.append(twin.ljust(width) + "".join(cells).replace("nan", "  -"))
    return "\n".join(lines)


def shares(dataset: xr.Dataset, step: int) -> str:
    """What each order adds to the part of the change that is explained; all layers together."""
    values = aj.twin_shares(dataset)["share"].sel(layers="all", step=step)
    names = [{"attention_output": "att.out"}.get(w, w) for w in dataset.weight.values.tolist()]
    head = f"share, step {step}".ljust(16) + "".join(f"{name:>12}" for name in names)
    rows = (
        part.ljust(16) + "".join(f"{cell:12.3f}" for cell in values.sel(part=part).values)
        for part in values["part"].values.tolist()
    )
    return "\n".join([head, *rows]).replace("nan", "  -")


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__ or "")
    options.add_argument("text", nargs="?", help="a file; the fables by default")
    options.add_argument("--family", choices=FAMILIES, default="neox")
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--width", type=int, default=96)
    options.add_argument("--heads", type=int, default=4)
    options.add_argument("--vocab-size", type=int, default=1024)
    options.add_argument("--seq-len", type=int, default=64)
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--steps", type=int, nargs="+", default=[16, 64])
    options.add_argument("--schedule", type=int, default=512, help="steps of the schedule")
    options.add_argument("--learning-rate", type=float, default=1e-3)
    options.add_argument("--optimizer", choices=["adamw", "sgd"], default="adamw")
    options.add_argument("--runs", type=int, default=5)
    options.add_argument(
        "--halves",
        action="store_true",
        help="runs on one half, twins (and another run) of the other",
    )
    options.add_argument("--backoff", type=float, default=0.0, help="k of n / (n + k)")
    options.add_argument("--twins", nargs="*", help="such as twin-4; orders 0 to 5 by default")
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args(arguments)
    if options.small:
        small = {"layers": 1, "width": 16, "heads": 2, "vocab_size": 64, "seq_len": 8}
        vars(options).update(small, batch_size=4, steps=[1], runs=2, twins=["twin-0", "twin-4"])
    begin = time.perf_counter()
    sizes = {"vocab_size": options.vocab_size, "seq_len": options.seq_len}
    config = llm.PretrainConfig(**sizes, batch_size=options.batch_size)
    tokenizer, tokens = tokenize_corpus(read_documents(options.text or "fables"), config)
    V = tokenizer.get_vocab_size()
    L, d, H = options.layers, options.width, options.heads
    architecture = FAMILIES[options.family](V, options.seq_len, L, d, H)
    print(f"N={len(tokens)} T={options.seq_len} V={V} L={L} d={d} B={options.batch_size}")
    halves = np.array_split(tokens, 2) if options.halves else (tokens, None)
    statistics = aj.context_statistics(halves[options.halves], V)
    print(f"statistics: {time.perf_counter() - begin:.1f} s, {statistics.bigram.nnz} pairs with")
    print(f"{statistics.pair.nnz} entries of contexts")
    last = {}

    def progress(name, step):
        last["now"], before = time.perf_counter(), last.get("now", begin)
        print(f"  {name}, to step {step}: {last['now'] - before:.1f} s", flush=True)

    twins = [
        dataclasses.replace(twin, backoff=options.backoff)
        for twin in all_twins(7 if options.twins else 5)
        if options.twins is None or twin.name in options.twins
    ]
    dataset = compare_twins(
        DecoderModel(options.family, architecture),
        halves[0],
        other=halves[1],
        vocab_size=V,
        statistics=statistics,
        optimizer=recipe(options.optimizer, options.learning_rate, options.schedule),
        steps=options.steps,
        batch_size=options.batch_size,
        num_runs=options.runs,
        twins=twins,
        seed=options.seed,
        progress=progress,
    )
    for step in dataset.step.values.tolist():
        for measure in ("cosine", "partial_cosine", "norm_ratio"):
            print(table(dataset, measure, step), end="\n\n")
        if any(f"twin-{order}" in dataset.twin.values for order in ORDERS):
            print(shares(dataset, step), end="\n\n")
    result = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "seconds": time.perf_counter() - begin,
        "dataset": dataset.mean("held_out").to_dict(),
    }
    print(f"{result['seconds']:.0f} s in all")
    return finish(result, options.out)


if __name__ == "__main__":
    main()
