"""From weights and tokens to trained weights.

In reading order:

* `microbatches`: a sum over sequences, some at a time.
* `tables`: the exact gradient with every product of weights taken once a step.
* `plan`: which form of the exact step is cheaper, and its memory.
* `exact`: `exact_gradient` and `exact_loss_and_gradient`, in the form that the plan chooses.
* `parallel`: the same, with the sequences of a batch divided among devices.
* `optimizers`: any of optax, by name or by a function; which are linear in the gradients.
* `train`: any gradient and any optimizer, one scan.
* `flow`: any gradient as an ordinary differential equation.
"""
