"""Theories of the weights, from statistics alone; each is a gradient or a closed form.

In reading order:

* `theory`: `Theory`, the protocol: what runs and sweeps ask of a theory.
* `registry`: theories by name; `register_theory`.
* `closed_forms`: the weights that the paper's leading terms give after s steps of gradient descent,
  of gradient flow or of any linear optimizer.
* `leading`: the gradient of the leading terms, and their theory of a run.
* `leading_factored`: the leading terms of the factored model, with an embedding.
* `effective`: the gradient of the effective theory: uniform attention, and the loss to second order
  in the context.
* `twin_statistics`: what statistics twins, networks that never read a text, are trained on; their
  contexts for a large vocabulary (`_sparse_contexts`).
* `twin_losses`: their losses, and the states of their rows, which are drawn by `_twin_draws`.
* `twins`: statistics twins as theories.
* `twin_rows`: what the rows of twins predict.
* `another_run`: another real run in the place of a theory, as the ceiling of all.
* `taylor`: the weights of any model as a polynomial in time.
* `quadrature`: the weights of the effective theory, with few passes over the data.
* `corrections`: the same, corrected for attention's feedback by a few exact gradients.
* `bounds`: the paper's theorem: its conditions, its bounds and how loose they are.
"""
