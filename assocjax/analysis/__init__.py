"""What weights and theory say of tokens, where it comes from, and what a model loses without it.

In reading order:

* `scorings`: lists of each token's associates, of weights and theory alike.
* `formations`: when associations form: overlap with the theory, precision against a truth.
* `associations`: top tokens of a matrix, frequency correction, precision at k.
* `attribution`: entries of the theory as sums over documents.
* `passages`: the documents and passages that an association comes from.
* `influence`: the derivative of a trained weight with respect to every document.
* `ablation`: trained weights without their theory, beside random and shuffled controls.
"""
