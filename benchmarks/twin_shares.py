"""What has each weight learned, and from which statistic of the text? In shares, and in tokens.

    python benchmarks/twin_shares.py FILE.txt OTHER.txt --figures FOLDER

For every text some real runs of one start are trained, and twins of all orders (`compare_twins`).
The first table has the shares of the squared norm of the real runs' mean change that each order
adds, what is left, and what is chance (`twin_shares`); the figure has them layer by layer.

Then the embedding and the unembedding are read as associations. To lowest order the change of the
embedding E is proportional to B U(0)^T and that of the unembedding U to E(0)^T B, for bigrams B, so
that they are read as the matrices [V,V]

    embedding  (E(s) - E(0)) U(0)        unembedding  E(0) (U(s) - U(0))

whose row a and column b tell how much token b is expected after token a. What an order adds is the
change of its twin without its projection on the changes of the twins of lower orders, as in the
shares. Entries are scored within their columns (z-scores). The largest of those pairs that occur at
least `--least` times are printed with their occurrences in the text and their rank, of these pairs,
in the mean change of the real runs. Whether the reading says anything shows beside them: how many
of the 100 largest entries of all V^2 pairs occur in the text, and how many of any 100 pairs do.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import finish, parser
from twin_table import shares

import assocjax as aj
from assocjax import figures, llm
from assocjax.corpora import read_documents
from assocjax.experiments.twins import compare_twins
from assocjax.llm.pretrain import tokenize_corpus
from assocjax.llm.recipe import make_optimizer
from assocjax.models.decoder import DecoderModel, neox
from assocjax.theories.twins import StatisticsTwin


def added(changes: list[np.ndarray]) -> list[np.ndarray]:
    """Each change without its projection on those before it."""
    found: list[np.ndarray] = []
    for change in changes:
        for other in found:
            square = np.sum(other * other)
            change = change - (np.sum(change * other) / square if square else 0) * other
        found.append(change)
    return found


def readings(states: dict[int, dict[str, Any]], step: int) -> dict[str, list[np.ndarray]]:
    """By weight: what each order adds, ascending, and the mean change of the runs, [V,V] each."""

    def of(name, weight):
        start, end = (np.asarray(states[s][name][weight], float) for s in (0, step))
        return (end - start).mean(axis=0)

    first = states[0]["runs"]
    E, U = (np.asarray(first[name][0], float) for name in ("embedding", "unembedding"))
    twins = sorted(name for name in states[0] if name != "runs")
    found = {}
    for weight in ("embedding", "unembedding"):
        changes = [*added([of(name, weight) for name in twins]), of("runs", weight)]
        found[weight] = [c @ U if weight == "embedding" else E @ c for c in changes]
    return found


def z_scores(matrix: np.ndarray) -> np.ndarray:
    """How far each entry is above the mean of its column, in standard deviations of the column."""
    spread = matrix.std(axis=0)
    return (matrix - matrix.mean(axis=0)) / np.where(spread > 0, spread, 1)


def largest(
    order: np.ndarray, runs: np.ndarray, bigram: np.ndarray, least: int, k: int
) -> list[dict[str, int]]:
    """The k pairs that occur often enough and have the largest scores in what an order adds, and
    the rank of each, of these pairs, in the real runs."""
    pairs = np.argwhere(bigram >= least)
    scores, of_runs = (matrix[tuple(pairs.T)] for matrix in (order, runs))
    rank = np.empty(len(pairs), int)
    rank[np.argsort(-of_runs, kind="stable")] = np.arange(1, len(pairs) + 1)
    return [
        {"a": int(a), "b": int(b), "occurrences": int(bigram[a, b]), "rank": int(rank[i])}
        for i in np.argsort(-scores, kind="stable")[:k].tolist()
        for a, b in [pairs[i]]
    ]


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__ or "")
    options.add_argument("texts", nargs="*", help="files; the fables by default")
    options.add_argument("--figures", type=Path, help="folder of a figure for each text")
    options.add_argument("--width", type=int, default=48)
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--heads", type=int, default=4)
    options.add_argument("--vocab-size", type=int, default=512)
    options.add_argument("--seq-len", type=int, default=32)
    options.add_argument("--batch-size", type=int, default=8)
    options.add_argument("--sequences", type=int, default=8192, help="at most, of a text")
    options.add_argument("--steps", type=int, nargs="+", default=[16, 64, 256])
    options.add_argument("--schedule", type=int, default=2048, help="steps of the schedule")
    options.add_argument("--learning-rate", type=float, default=1e-3)
    options.add_argument("--runs", type=int, default=4)
    options.add_argument("--orders", type=int, nargs="+", default=[0, 1, 2, 3, 4, 6])
    options.add_argument("--top", type=int, default=10, help="pairs of an order and weight")
    options.add_argument("--least", type=int, default=10, help="occurrences of a listed pair")
    options = options.parse_args(arguments)
    if options.small:
        small = {"width": 16, "layers": 1, "heads": 2, "vocab_size": 300, "seq_len": 8}
        vars(options).update(small, batch_size=4, sequences=64, steps=[2], runs=2, orders=[0, 1])
        options.least = 1
    begin, found = time.perf_counter(), {}
    for text in options.texts or ["fables"]:
        name = Path(text).stem
        sizes = {"vocab_size": options.vocab_size, "seq_len": options.seq_len}
        config = llm.PretrainConfig(**sizes, batch_size=options.batch_size)
        tokenizer, tokens = tokenize_corpus(read_documents(text), config)
        V, tokens = tokenizer.get_vocab_size(), tokens[: options.sequences]
        statistics, states = aj.context_statistics(tokens, V), {}
        architecture = neox(V, options.seq_len, options.layers, options.width, options.heads)
        dataset = compare_twins(
            DecoderModel("neox", architecture),
            tokens,
            vocab_size=V,
            statistics=statistics,
            optimizer=make_optimizer(options.learning_rate, options.schedule),
            steps=options.steps,
            batch_size=options.batch_size,
            num_runs=options.runs,
            twins=[
                StatisticsTwin(order, options.batch_size * options.seq_len)
                for order in sorted(options.orders)
            ],
            observe=states.__setitem__,
        )
        print(f"{name}: N={len(tokens)} V={V}")
        for step in dataset.step.values.tolist():
            print(shares(dataset, step), end="\n\n")
        if options.figures is not None:
            figures.save(aj.plot_shares(aj.twin_shares(dataset)), options.figures / name)
        words = [repr(tokenizer.decode([token]))[1:-1] for token in range(V)]
        lists, bigram = {}, statistics.bigram.toarray()
        for weight, of in readings(states, dataset.step.values.tolist()[-1]).items():
            for order, matrix in zip(sorted(options.orders), of[:-1], strict=True):
                scores = z_scores(matrix)
                seen = bigram.ravel()[np.argsort(-scores, axis=None, kind="stable")[:100]]
                rows = largest(scores, z_scores(of[-1]), bigram, options.least, options.top)
                occur, chance = int(np.sum(seen > 0)), 100 * float(np.mean(bigram > 0))
                lists[f"{weight}, order {order}"] = {"rows": rows, "occur": occur, "any": chance}
                print(
                    f"{weight}, order {order}: of the 100 largest entries {occur} occur, of any 100"
                    f" pairs {chance:.0f}. Pair (occurrences; rank in the real runs):"
                )
                pairs = (
                    f"{words[r['a']]} -> {words[r['b']]} ({r['occurrences']}; {r['rank']})"
                    for r in rows
                )
                print("  " + ", ".join(pairs))
        share = aj.twin_shares(dataset)["share"].sel(layers="all")
        found[name] = {"lists": lists, "shares": share.to_dict()}
    result = {"options": {name: str(value) for name, value in vars(options).items()}}
    result |= {"texts": found, "seconds": time.perf_counter() - begin}
    return finish(result, options.out)


if __name__ == "__main__":
    main()
