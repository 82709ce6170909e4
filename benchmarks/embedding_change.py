"""Which statistic describes how training changes an embedding?

    python benchmarks/embedding_change.py --corpus FILE.txt

Trains a factored model by plain gradient descent. Prints, at some steps, the loss and the cosine of
E(s) - E(0) with the leading terms (`--theories leading-factored` of a sweep), which are B B^T E(0)
from a zero output matrix, and with four alternatives:

    shuffled     B B^T E(0), each token with the followers of another of like frequency (mean of 16)
    Sigma        B^T B E(0), which groups tokens that follow the same tokens
    frequency    f E(0), each token's own embedding times its frequency
    start        E(0)
"""

import numpy as np
from harness import finish, parser

import assocjax as aj
from assocjax.experiments.record import record_run

BIN, DRAWS = 16, 16  # tokens of like frequency; shuffles
THEORY = "leading-factored"


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.vdot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))


def shuffle(frequency: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each token another one, of nearly the same rank in frequency."""
    row, ranked = np.arange(len(frequency)), np.argsort(-frequency, kind="stable")
    for of_bin in np.split(ranked, range(BIN, len(row), BIN)):
        cycle = rng.permutation(of_bin)
        row[cycle] = np.roll(cycle, 1)
    return row


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__ or "")
    options.add_argument("--corpus", default="fables", help="as of the command line")
    options.add_argument("--vocab-size", type=int, help="the largest by default")
    options.add_argument("--seq-len", type=int, default=32)
    options.add_argument("--num-sequences", type=int, default=256)
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--width", type=int, default=32)
    options.add_argument("--learning-rate", type=float, default=1.0)
    options.add_argument("--init-scale", type=float, default=0.0, help="sd of all but E(0)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--steps", type=int, nargs="+", default=[2, 8, 16, 32, 64])
    options = options.parse_args(arguments)
    if options.small:
        small = {"vocab_size": 20, "seq_len": 4, "num_sequences": 8, "width": 4, "steps": [2]}
        vars(options).update(small, layers=1)
    data = aj.load_tokens(
        options.corpus,
        vocab_size=options.vocab_size,
        seq_len=options.seq_len,
        num_sequences=options.num_sequences,
    )
    statistics = aj.corpus_statistics(data)
    B, f = np.asarray(statistics.bigram, float), np.asarray(statistics.input_frequency, float)
    rng = np.random.default_rng(options.seed)
    rows = [shuffle(f, rng) for _ in range(DRAWS)]
    starts = {}

    def read(step, weights):
        E, theory = (np.asarray(weights[of]["embedding"], float) for of in ("run", THEORY))
        start = starts.setdefault("E", E)
        if step == 0:
            return {"cosine": np.zeros(5)}
        change = E - start
        of_shuffled = [cosine(change, B[row] @ (B[row].T @ start)) for row in rows]
        others = B.T @ (B @ start), f[:, None] * start, start
        found = [cosine(change, theory - start), np.mean(of_shuffled)]
        return {"cosine": np.array(found + [cosine(change, other) for other in others])}

    config = aj.RunConfig(
        steps=max(options.steps),
        num_layers=options.layers,
        theories=(aj.get_theory(THEORY),),
        model=aj.Factored(width=options.width),
    )
    run = record_run(
        config,
        aj.Corpus.of(data, config),
        options.learning_rate,
        options.seed,
        options.init_scale,
        record_at=(0, *options.steps),
        read=read,
    )
    names = (THEORY, "shuffled", "Sigma", "frequency", "start")
    print(
        f"{data.name}: V={data.vocab_size} T={data.seq_len} N={data.num_sequences} "
        f"L={options.layers} d={options.width}, learning rate {options.learning_rate}, "
        f"initial scale {options.init_scale}"
    )
    print(" step    loss" + "".join(f"{name:>18}" for name in names))
    table = []
    for step, found in zip(options.steps, run.records["cosine"][1:], strict=True):
        print(f"{step:5}{run.loss[step]:8.3f}" + "".join(f"{each:18.3f}" for each in found))
        cosines = dict(zip(names, found.tolist(), strict=True))
        table.append({"step": step, "loss": float(run.loss[step]), **cosines})
    return finish({"cosines": table, "corpus": data.describe()}, options.out)


if __name__ == "__main__":
    main()
