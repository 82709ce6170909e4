"""assocjax: how semantic associations form while an attention-based language model trains.

A theory (Im, Oh, Fang, Li, ICLR 2026, arXiv 2601.19208) says that early in training every weight
matrix is a closed-form composition of three statistics of the text: which tokens follow a token,
which tokens are interchangeable, and which tokens occur before a token. This package computes those
statistics, trains the transformer, and compares the two. The data flows one way:

    data = load_tokens("fables", seq_len=32)                    text -> tokens      corpora/
    stats = corpus_statistics(data)                             -> statistics       statistics/
    large = sparse_statistics(open_tokens("tokens/"))           -> same, large data statistics/
    theory = leading_weights(stats, num_layers=3, ...)          -> theory           theories/
    moments = effective_statistics(data, depth=3)               -> statistics       statistics/
    theory = effective_weights(moments, data, ...)              -> a longer theory  theories/
    weights, losses = train(init_params(...), gradient, ...)    -> training         training/
    compare_params(weights, theory)                             -> comparison       models/
    ablate(weights, theory, data)                               -> ablation         analysis/
    find_passages(data, "bird", "flew")                         -> source documents analysis/
    dataset = sweep(data, learning_rates=..., seeds=..., ...)   -> a grid of runs   experiments/
    validity_horizon(dataset)                                   -> theory's horizon experiments/
    associations = track(data, ...)                             -> over training    experiments/
    save(dataset, "sweep.nc")                                   -> results          storage/
    llm.load_model("owner/name", "step16")                      -> a language model llm/
    llm.compare_model(streams, matrices, counts)                -> and the theory   llm/
    llm.compare_revisions("model", ["step0", "step16"], ...)    -> by checkpoint    llm/
    save_sweep(dataset, ".")                                    -> figures          figures/
    reproduce.reproduce(["all"], out="reproduced/")             -> paper's results  reproduce/
    write_explorer(associations, "explorer.html", data=data)    -> an HTML page     explorer/

The rooms, in reading order: `storage`, `corpora`, `statistics`, `models`, `training`, `theories`,
`analysis`, `experiments`, `llm`, `figures`, `reproduce`, `explorer`, then the command line, `cli`.
A room is a subpackage; its docstring is a tour of its modules, of which those that begin with `_`
are for the room itself. A module imports only from its own room, from earlier rooms, and from the
small `errors`, `arguments`, `checks`, `precision` and `compilation`.
"""

import lazy_loader

# Names are listed in __init__.pyi and imported on first use, so `assocjax --help` is fast: no JAX.
_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str):
    if name != "__version__":
        return _import(name)
    from importlib.metadata import version

    return version("assocjax")
