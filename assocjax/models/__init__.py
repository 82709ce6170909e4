"""The model, its weights, and how two sets of weights are compared.

In reading order:

* `params`: `Params`, the weights and their shapes, and `init_params`.
* `attention_only`: the paper's attention-only transformer: the logits of one sequence, attention's
  softmax, and the loss.
* `decoder`: GPT-NeoX, Llama and GPT-2, with attention as a seam.
* `agreement`: relative error, cosine and norm ratio of two sets of weights, safe from underflow.
"""
