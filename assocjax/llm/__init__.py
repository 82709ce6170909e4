"""Does the theory describe real language models? A comparison with a control that can fail.

In reading order:

* `similarity`: covariance similarity of a model's vectors and a theory's rows.
* `nulls`: the same with shuffled tokens, over all of them and among tokens of like frequency.
* `dominance`: how much of it is one shared direction, one token or one feature.
* `theory`: the theory's matrices of some tokens of a large vocabulary, exact.
* `bootstrap`: how much of a similarity is the sample of text.
* `compare`: all layers and heads with all matrices, in one Dataset.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
