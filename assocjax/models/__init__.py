"""The model, its weights, and how two sets of weights are compared.

In reading order:

* `params`: `Params`, the weights and their shapes, and `init_params`.
* `attention_only`: the paper's attention-only transformer: logits of one sequence (here is the
  softmax of attention) and the loss.
* `agreement`: relative error, cosine and norm ratio of two sets of weights, safe from underflow.
"""
