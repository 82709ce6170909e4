"""From weights and tokens to trained weights.

In reading order:

* `parallel`: the exact gradient, with the sequences of a batch divided among devices.
* `coupled`: AdamW whose second moment all tokens of an embedding share.
* `optimizers`: any optax optimizer, by name or by a function; a test of linearity in the gradients.
* `train`: training by any gradient and any optimizer, as one scan.
* `flow`: gradient flow, the ordinary differential equation of any gradient.
"""
