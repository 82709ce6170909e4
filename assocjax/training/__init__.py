"""From weights and tokens to trained weights.

In reading order:

* `microbatches`: sums over sequences, accumulated over microbatches.
* `_tables`: the exact gradient, with every product of weights computed once per step.
* `plan`: the choice of the cheaper form of the exact gradient, and its memory.
* `exact`: `exact_gradient` and `exact_loss_and_gradient`, in the form that the plan chooses.
* `parallel`: the same, with the sequences of a batch divided among devices.
* `optimizers`: any optax optimizer, by name or by a function; a test of linearity in the gradients.
* `train`: training by any gradient and any optimizer, as one scan.
* `flow`: gradient flow, the ordinary differential equation of any gradient.
"""
