"""From tokens to the statistics that the theory is made of.

In reading order:

* `loops`: compiled sums over positions and their keys, for a corpus in the memory of the host.
* `scatter`: the same in JAX, in a transformation or on a GPU.
* `dense`: `corpus_statistics`, the basis functions and what they compose to, as [V, V] matrices.
* `datasets`: the same as a Dataset, to be saved.
* `sparse_loops`: the loops in exact integers, where no [V, V] fits.
* `counting`: exact integer sums over a corpus of any size, by blocks.
* `sparse`: `sparse_statistics`, the same statistics as operators, sparse plus rank one.
* `moments`: `effective_statistics`, what the effective theory reads of a corpus.
* `shards`: parts of a corpus that are counted anywhere, stop, go on, and merge to the same bits.
"""
