"""assocjax: how semantic associations form while an attention-based language model trains.

A theory (Im, Oh, Fang, Li, ICLR 2026, arXiv 2601.19208) says that early in training every weight
matrix is a closed-form composition of three statistics of the text: what follows a token, which
tokens are interchangeable, and what stands in a token's context. This package computes those
statistics, trains the transformer, and compares the two. The data flows one way:

    data = load_tokens("fables", seq_len=32)                    text -> tokens      corpora/
    stats = corpus_statistics(
        data.tokens, data.vocab_size, data.mask)                -> statistics       statistics.py
    large = sparse_statistics(open_tokens("tokens/"))           -> of large corpora sparse.py
    theory = leading_weights(stats, num_layers=3, ...)          -> theory           closed_forms.py
    moments = effective_statistics(data.tokens, ...)            -> statistics       moments.py
    theory = effective_weights(moments, data.tokens, ...)       -> a longer theory  quadrature.py
    weights, losses = train(init_params(...), gradient, ...)    -> training         training.py
    compare_params(weights, theory)                             -> comparison       compare.py
    dataset = sweep(data, learning_rates=..., seeds=..., ...)   -> all of it        sweeps.py
    validity_horizon(dataset)                                   -> its end          horizons.py
    ablate(weights, theory, data.tokens)                        -> what edits do    ablation.py
    find_passages(data, "bird", "flew")                         -> its documents    passages.py
    save(dataset, "sweep.nc")                                   -> results          results.py
    associations = track(data, ...)                             -> when they form   tracking.py
    llm.load_model("owner/name", "step16")                      -> language models  llm/
    llm.compare_model(streams, matrices, counts)                -> with the theory  llm/
    llm.compare_revisions("model", ["step0", "step16"], ...)    -> over training    llm/
    save_sweep(dataset, ".")                                    -> figures          figures/
    reproduce.reproduce(["all"], out="reproduced/")             -> the paper's      reproduce/
    write_explorer(associations, "explorer.html")               -> a page           explorer/

A module imports only from those before it. Read them in this order, after the small `errors`,
`arguments`, `checks` and `linalg` that all use: `storage`, `params`, `corpora`, `sums`,
`statistics`, `counting`, `sparse`, `moments`, `model`, `gradients`, `optimizers`, `closed_forms`,
`training`, `flow`, `quadrature`, `compare`, `corrections`, `runs`, `results`, `shards`, `plans`,
`checkpoints`, `grids`, `sweeps`, `horizons`, `bounds`, `associations`, `ablation`, `attribution`,
`influence`, `passages`, `scorings`, `formations`, `tracking`, `llm`, `figures`, `reproduce`,
`explorer`, `options`, `commands`, `cli`.
"""

import lazy_loader

# Names live in __init__.pyi and are imported on first use: `assocjax --help` never waits for JAX.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
