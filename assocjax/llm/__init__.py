"""Language models: load, probe and train them; does the theory describe them?

The comparison has a control that can fail. What needs torch and transformers says so:
`pip install 'assocjax[llm]'`. In reading order:

* `libraries`: asks for the extra.
* `files`: where a model's files are, and their hashes.
* `architectures`: what differs between GPT-NeoX, Llama and GPT-2.
* `tensors`: which checkpoints hold the same weights.
* `models`: `load_model`.
* `probes`: the residual stream of tokens, and attention as a matrix of token pairs.
* `recipe`: Pythia's, at a small size.
* `pretrain`: `pretrain_tiny`, a small Pythia with a folder for every checkpoint.
* `similarity`: covariance similarity of a model's vectors and a theory's rows.
* `nulls`: the same with shuffled tokens, over all of them and among tokens of like frequency.
* `dominance`: how much of it is one shared direction, one token or one feature.
* `theory`: the theory's matrices of some tokens of a large vocabulary, exact.
* `bootstrap`: how much of a similarity is the sample of text.
* `compare`: all layers and heads with all matrices, in one Dataset.
* `texts`: a text in a model's tokens, and the theory of its most frequent ones.
* `revisions`: `compare_revisions`, one checkpoint after another, a file each.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
