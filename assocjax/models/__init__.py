"""Models: their protocol, the paper's model with its fast exact gradient, and others.

In reading order:

* `model`: `Model`, the protocol: what training, theories and comparisons ask of a model.
* `registry`: models by name; `register_model`.
* `microbatches`: sums over sequences, accumulated over microbatches.
* `agreement`: relative error, cosine and norm ratio of two sets of weights, safe from underflow.
* `params`: `Params`, the weights of the paper's model and their shapes, and `init_params`.
* `attention_only`: the paper's attention-only transformer: the logits of one sequence, attention's
  softmax, and the loss.
* `_tables`: its exact gradient, with every product of weights computed once per step.
* `plan`: the choice of the cheaper form of that gradient, and its memory.
* `exact`: `exact_gradient` and `exact_loss_and_gradient`, in the form that the plan chooses.
* `paper`: all this as a `Model`.
* `factored`: the same attention and positions, for tokens embedded in fewer dimensions.
* `architecture`: `DecoderConfig`, the architecture of GPT-NeoX, Llama, GPT-2 and relatives.
* `decoder`: decoders of such an architecture, with attention as a seam.
* `flax_models`: any flax module as a `Model`.
"""
