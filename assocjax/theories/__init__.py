"""What weights should be, from statistics alone; each theory is a gradient, or a closed form.

In reading order:

* `leading`: the gradient of the paper's leading terms.
* `closed_forms`: the weights that it leads to after s steps, of descent, flow or any linear
  optimizer.
* `effective`: the gradient of the effective theory: uniform attention, the rest to second order.
* `quadrature`: its weights, those of attention too, in few passes over the data.
* `corrections`: corrected for attention's feedback by a few exact gradients.
* `bounds`: the paper's theorem: conditions, bounds and how loose they are.
"""
