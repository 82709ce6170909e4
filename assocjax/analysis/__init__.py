"""Associations of tokens in weights and theory, their source documents, and ablations.

In reading order:

* `scorings`: lists of each token's associates, according to weights and theory.
* `formations`: when associations form: overlap with the theory, precision against a truth.
* `associations`: top tokens of a matrix, frequency correction, precision at k.
* `listings`: a token's lists under every matrix, or why there is none.
* `attribution`: entries of the theory as sums over documents.
* `passages`: the documents and passages that an association comes from.
* `influence`: the derivative of a trained weight with respect to every document.
* `ablation`: the loss of trained weights without the theory's terms, compared with controls.
* `strengths`: how strongly a text, a language model or a statistics twin holds an association.
"""
