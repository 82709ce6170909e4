"""Language models: loading, probing, training, and comparison with the theory.

Every comparison has a control that can fail. Functions that need torch and transformers raise an
error if these are missing: `pip install 'assocjax[llm]'`. In reading order:

* `libraries`: imports the libraries of the extra when they are needed.
* `files`: the location of a model's files, and their hashes.
* `_architectures`: the differences between families of transformers, as their modules.
* `tensors`: which checkpoints hold the same weights.
* `_formats`: the differences between families of decoders, as they are stored.
* `decoders`: `load_decoder` and `save_decoder`, for models in JAX; without torch or transformers.
* `models`: `load_model`.
* `embeddings`: a model's embedding, read without the other weights.
* `probes`: the residual stream of tokens, and attention as a matrix of token pairs.
* `configuration`: `PretrainConfig`.
* `recipe`: recipes of training, their learning rates and optimizers, and that of `pretrain_tiny`.
* `published`: recipes of Pythia, PolyPythias, SmolLM2 and OLMo-2, and from files.
* `pretrain`: `pretrain_tiny`, a small Pythia with a folder for every checkpoint.
* `similarity`: covariance similarity of a model's vectors and a theory's rows.
* `nulls`: the same with shuffled tokens, among all tokens or among tokens of similar frequency.
* `dominance`: how much of a similarity is due to one shared direction, token or feature.
* `theory`: the theory's matrices for some tokens of a large vocabulary, exact.
* `bootstrap`: how much a similarity varies with the sample of text.
* `compare`: all layers and heads with all matrices, in one Dataset.
* `texts`: a text in a model's tokens, and the theory of its most frequent tokens.
* `revisions`: `compare_revisions`, one checkpoint after another, with a file for each.
* `next_tokens`: what a model predicts after single tokens, beside the n-grams of a text.
* `ngram_revisions`: `compare_ngrams`, the same of one checkpoint after another.
* `twins`: `compare_with_twins`, changes of weights beside those of statistics twins, by step.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
