"""Training and theories side by side.

In reading order:

* `config`: the settings of a run, and its corpus.
* `runs`: one run compared with its theories; differentiable.
* `record`: one run step by step, recorded at chosen steps and resumable.
* `_plans`: how a grid of runs is divided among devices, and the memory it needs.
* `_grids`: a grid of runs, computed in chunks and segments over devices and processes.
* `sweeps`: `sweep`, a grid over learning rates, seeds and initialization scales, as a Dataset.
* `tables`: a Dataset as a pandas table.
* `horizons`: how long a theory holds, and a power law for it.
* `together`: real runs and theories of a decoder, trained side by side by one recipe.
* `changes`: changes of weights: their inner products, cosines and ratios.
* `twins`: `compare_twins`, statistics twins beside real runs of a decoder, weight by weight.
* `checkpoints`: `compare_checkpoints`, twins beside checkpoints of a model of whose training the
  start and the recipe are known.
* `prediction`: `predict_formation`, the steps at which twins predict that associations form.
* `counterfactuals`: `remove_bigrams`, what twins predict of training without an association.
* `tracking`: `track`, one run and its associations at chosen steps.
"""
