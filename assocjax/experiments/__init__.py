"""Training and theories side by side.

In reading order:

* `runs`: one run beside its theories, differentiable.
* `record`: one run step by step, read at chosen steps and saved between them.
* `plans`: how a grid of runs is divided among devices; its memory.
* `grids`: a grid computed in chunks and segments, over devices and processes.
* `sweeps`: `sweep`, a grid over learning rates, seeds and starts, as an xarray Dataset.
* `tables`: such a Dataset as a table, for pandas.
* `horizons`: how long a theory holds, and a law for it.
* `tracking`: `track`, one run and its associations at chosen steps.
"""
