"""From tokens to the statistics that the theories are composed of.

In reading order:

* `loops`: sums over positions and their keys, for a corpus in host memory.
* `_compiled`: the loops themselves, compiled by Numba.
* `scatter`: the same sums in JAX, for use under a transformation or on a GPU.
* `dense`: `corpus_statistics`, the basis functions and their compositions, as [V, V] matrices.
* `datasets`: the same as a Dataset, to be saved.
* `_sparse_loops`: the loops in exact integers, for vocabularies too large for [V, V] matrices.
* `counting`: exact integer sums over a corpus of any size, block by block.
* `sparse`: `sparse_statistics`, the same statistics as operators, sparse plus rank one.
* `moments`: `effective_statistics`, the statistics that the effective theory needs.
* `contexts`: `context_statistics`, contexts of tokens and of pairs of tokens, exact and sparse.
* `ngrams`: `count_ngrams`, smoothed probabilities of the next token, and entropies.
* `occurrences`: how often pairs of tokens occur, the evidence for an association.
* `drawing`: random draws from rows of sparse weights, on the device.
* `shards`: parts of a corpus, counted on any machine, resumable, and merged to the same bits.
"""
