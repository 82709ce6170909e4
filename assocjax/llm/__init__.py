"""Language models beside the theory: load them, probe them, train a small one.

Needs the extra `llm` (torch, transformers): `pip install 'assocjax[llm]'`. In reading order:

* `libraries`: asks for the extra.
* `files`: where a model's files are, and the hashes of its weights.
* `architectures`: what differs between GPT-NeoX, Llama and GPT-2.
* `models`: `load_model`.
* `probes`: the residual stream of tokens, and attention as a matrix of token pairs.
* `recipe`: Pythia's, at a small size.
* `pretrain`: `pretrain_tiny`, a small Pythia with a folder for every checkpoint.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
