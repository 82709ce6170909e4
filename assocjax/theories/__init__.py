"""Theories of the weights, from statistics alone; each is a gradient or a closed form.

In reading order:

* `leading`: the gradient of the paper's leading terms.
* `closed_forms`: the weights that this gradient leads to after s steps of gradient descent, of
  gradient flow or of any linear optimizer.
* `effective`: the gradient of the effective theory: uniform attention, and the loss to second order
  in the context.
* `quadrature`: the weights of the effective theory, with few passes over the data.
* `corrections`: the same, corrected for attention's feedback by a few exact gradients.
* `bounds`: the paper's theorem: its conditions, its bounds and how loose they are.
"""
