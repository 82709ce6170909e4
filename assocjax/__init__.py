"""assocjax: how semantic associations form while an attention-based language model trains.

A theory (Im, Oh, Fang, Li, ICLR 2026, arXiv 2601.19208) says that early in training every weight
matrix is a closed-form composition of three statistics of the text: what follows a token, which
tokens are interchangeable, and what stands in a token's context. This package computes those
statistics, trains the transformer, and compares the two. The data flows one way:

    data = load_tokens("fables", seq_len=32)                    text -> tokens      corpora/
    stats = corpus_statistics(data)                             -> statistics       statistics/
    large = sparse_statistics(open_tokens("tokens/"))           -> of large corpora statistics/
    theory = leading_weights(stats, num_layers=3, ...)          -> theory           theories/
    moments = effective_statistics(data, depth=3)               -> statistics       statistics/
    theory = effective_weights(moments, data, ...)              -> a longer theory  theories/
    weights, losses = train(init_params(...), gradient, ...)    -> training         training/
    compare_params(weights, theory)                             -> comparison       models/
    ablate(weights, theory, data)                               -> what edits do    analysis/
    find_passages(data, "bird", "flew")                         -> its documents    analysis/
    dataset = sweep(data, learning_rates=..., seeds=..., ...)   -> all of it        experiments/
    validity_horizon(dataset)                                   -> its end          experiments/
    associations = track(data, ...)                             -> when they form   experiments/
    save(dataset, "sweep.nc")                                   -> results          storage/
    llm.load_model("owner/name", "step16")                      -> language models  llm/
    llm.compare_model(streams, matrices, counts)                -> with the theory  llm/
    llm.compare_revisions("model", ["step0", "step16"], ...)    -> over training    llm/
    save_sweep(dataset, ".")                                    -> figures          figures/
    reproduce.reproduce(["all"], out="reproduced/")             -> the paper's      reproduce/
    write_explorer(associations, "explorer.html")               -> a page           explorer/

The rooms, in reading order: `storage`, `corpora`, `models`, `statistics`, `training`, `theories`,
`analysis`, `experiments`, `llm`, `figures`, `reproduce`, `explorer`, then the command line:
`options`, `commands`, `cli`. Each has a docstring that is its tour. A module imports only from its
own room and from those before it, after the small `errors`, `arguments`, `checks` and `precision`
that all use.
"""

import lazy_loader

# Names live in __init__.pyi and are imported on first use: `assocjax --help` never waits for JAX.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
