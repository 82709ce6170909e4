"""From tokens to the statistics that the theory is made of.

In reading order:

* `sums`: sums over positions and pairs of positions, exact in float32 too.
* `dense`: `corpus_statistics`, the basis functions and what they compose to, as [V, V] matrices.
* `datasets`: the same as a Dataset, to be saved.
* `counting`: exact integer sums over a corpus of any size, by blocks.
* `sparse`: `sparse_statistics`, the same statistics as operators, sparse plus rank one.
* `moments`: `effective_statistics`, what the effective theory reads of a corpus.
* `shards`: parts of a corpus that are counted anywhere, stop, go on, and merge to the same bits.
"""
