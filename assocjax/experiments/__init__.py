"""Training and theories side by side.

In reading order:

* `runs`: one run beside its theories, differentiable.
* `plans`: how a grid of runs is divided among devices; its memory.
* `grids`: a grid computed in chunks and segments, over devices and processes.
* `sweeps`: `sweep`, a grid over learning rates, seeds and starts, as an xarray Dataset.
* `horizons`: how long a theory holds, and a law for it.
* `tracking`: `track`, one run and its associations at chosen steps.
"""
