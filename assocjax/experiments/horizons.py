"""Validity horizons: how long a theory holds, and how that depends on the setting.

The horizon of a weight is the first step at which its relative error passes a threshold. Horizons
are computed from the Dataset of a sweep, and a power law is fitted to a table of them.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from assocjax.arguments import (
    LARGEST_COUNT,
    LARGEST_DEPTH,
    LARGEST_STEPS,
    THRESHOLD,
    check_integers,
    check_is,
    check_string,
)
from assocjax.checks import CorpusLike, check_dataset, check_number, check_numbers
from assocjax.corpora.tokens import TokenData, as_token_data
from assocjax.errors import InputError, InputTypeError, reading
from assocjax.experiments.sweeps import compared, sweep
from assocjax.experiments.tables import weights_and_layers
from assocjax.models.model import Model
from assocjax.models.registry import MODEL
from assocjax.storage.results import Part, compute_anew
from assocjax.theories.theory import Theory

SETTINGS = ("learning_rate", "vocab_size", "seq_len", "num_layers")


@reading("sweep")
def validity_horizon(dataset: xr.Dataset, threshold: float = THRESHOLD) -> xr.Dataset:
    """The step at which each weight's relative error passes a threshold.

    A theory holds at a step if the relative error is at or below the threshold. It fails if the
    error is above the threshold, or if the run or the theory has diverged by then. It does neither
    where the error is undefined because the weight is still zero.

        onset      first step at which the theory holds
        horizon    first step after the onset at which it fails; 0 if there is no onset

    A theory's weights start at zero. With a Gaussian start the error is therefore 1 at step 0, and
    falls below the threshold only as training outgrows the start. So the horizon is defined as the
    end of the first interval in which the theory holds. From a zero start this is the ordinary
    definition, the first step at which the error passes the threshold. The only exception is a
    weight whose first defined error is above the threshold: its ordinary horizon would be that
    step, although the theory held at no step.

    Args:
      dataset: from `sweep`.
      threshold: of the relative error.

    Returns:
      A Dataset with `horizon` and `onset`, float steps over `learning_rate`, `seed`, `init_scale`,
      `theory`, `weight` and `layer`. NaN means not within the sweep: for a horizon, that the theory
      still held at the last step (or no error was defined). Weights without layers are stored at
      the last layer, as in `dataset`. Attributes: those of `dataset`, `threshold`, and `steps`, the
      last step.

    Raises:
      InputError, InputTypeError: `threshold` is negative or not a number; `dataset` has no errors.
    """
    threshold = check_number("threshold", threshold, minimum=0)
    ends = ("diverged_step", "theory_diverged_step")
    check_dataset(dataset, "sweep", ["relative_error"], "theory quantity weight layer step")
    check_dataset(dataset, "sweep", ends, "")
    step = dataset["step"]
    error = dataset["relative_error"].sel(quantity=compared(dataset), drop=True)
    end = xr.where(dataset[ends[1]] >= 0, dataset[ends[1]], np.inf)
    end = np.minimum(end, xr.where(dataset[ends[0]] >= 0, dataset[ends[0]], np.inf))
    holds = (error <= threshold) & (step < end)
    fails = (error > threshold) | (step >= end)
    onset = _first(holds, step)
    horizon = _first(fails & (step > onset), step)
    # Without an onset the horizon is 0, but it stays NaN if every error is undefined.
    horizon = horizon.where(onset.notnull() | ~fails.any("step"), 0.0)
    dims = [dim for dim in error.dims if dim != "step"]
    variables = {
        name: value.where(weights_and_layers(error))
        .transpose(*dims)
        .assign_attrs(
            units="updates",
            long_name=f"step at which the theory {what}, to {threshold:g} in relative error",
        )
        for name, value, what in (
            ("horizon", horizon, "stops holding (0: it never held; NaN: not within the sweep)"),
            ("onset", onset, "starts holding (NaN: not within the sweep)"),
        )
    }
    attrs = {**dataset.attrs, "threshold": threshold, "steps": int(step[-1])}
    return xr.Dataset(variables, attrs=attrs)


@reading("validity_horizon")
def horizon_table(horizons: xr.Dataset) -> list[dict[str, Any]]:
    """Horizons as a table: one row for each theory, initialization scale and learning rate.

    A weight's horizon is the minimum over layers and seeds of the horizons within the sweep; None
    if there is none. For the last weight, the one that gives the logits, also in training time:
    `output*eta` is the horizon of `output` times the learning rate.

    Args:
      horizons: from `validity_horizon`.

    Raises:
      InputError, InputTypeError: `horizons` is not from `validity_horizon`.
    """
    dims = "theory init_scale learning_rate weight"
    check_dataset(horizons, "validity_horizon", ["horizon"], dims)
    rows, weights = [], horizons["weight"].values.tolist()
    for theory, scale, rate in itertools.product(
        *(horizons[name].values.tolist() for name in ("theory", "init_scale", "learning_rate"))
    ):
        row = {"theory": theory, "init_scale": scale, "learning_rate": rate}
        cell = horizons["horizon"].sel(row)
        row |= {name: _number(cell.sel(weight=name).min()) for name in weights}
        rows.append(row | {f"{weights[-1]}*eta": _times(row[weights[-1]], rate)})
    return rows


class PowerLaw(NamedTuple):
    """horizon = prefactor * product of quantity ** exponent, and how well it fits.

    exponents        of each quantity that varied
    standard_errors  of the exponents, assuming independent deviations from the law
    prefactor        the horizon, in its unit, where every quantity is 1
    r_squared        share of the variance of log(horizon) that the law explains; NaN if that is 0
    num_rows         number of rows used
    """

    exponents: dict[str, float]
    standard_errors: dict[str, float]
    prefactor: float
    r_squared: float
    num_rows: int


def fit_power_law(
    rows: Sequence[Mapping[str, Any]],
    exponents: Sequence[str] = SETTINGS,
    *,
    of: str,
) -> PowerLaw:
    """Least-squares fit of log(horizon) to the logarithms of the quantities that vary.

    Rows without a horizon (None or NaN: it lies beyond the sweep) or with horizon 0 (the theory
    never held) are skipped. Skipping the first kind censors long horizons, so sweeps should be long
    enough that they are rare.

    Args:
      rows: a table of one theory, from `horizon_table` or `horizon_study`.
      exponents: columns of quantities; those that are in no row, or the same in all rows used, get
        no exponent.
      of: the column that holds the horizon, the name of a weight.

    Raises:
      InputError, InputTypeError: fewer rows than coefficients + 1, rows of several theories, rows
        in which quantities do not vary independently, a missing column, or a value that is not
        positive.
    """
    check_string("of", of)
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise InputTypeError(f"rows must be a list of mappings; got {rows!r}")
    for row in rows:
        check_is("every entry of rows", row, Mapping)
    if isinstance(exponents, str) or not isinstance(exponents, Sequence):
        raise InputTypeError(f"exponents must be a sequence of names; got {exponents!r}")
    for name in exponents:
        check_string("every entry of exponents", name)
    present = [name for name in exponents if any(name in row for row in rows)]
    for name, row in itertools.product((of, *present), rows):
        if name not in row:
            raise InputError(f"rows must all have {name!r}; got one with {sorted(row)}")
    kept = [row for row in rows if not (row[of] is None or row[of] != row[of] or row[of] == 0)]
    theories = {row["theory"] for row in kept if "theory" in row}
    if len(theories) > 1:
        raise InputError(f"rows must be of one theory; got {sorted(theories)}")
    used = [
        {name: check_number(f"every {name!r} of rows", row[name]) for name in (of, *present)}
        for row in kept
    ]
    for name, row in itertools.product((of, *present), used):
        if row[name] <= 0:
            raise InputError(f"every {name!r} of rows must be positive; got {row[name]:g}")
    varying = [name for name in present if len({row[name] for row in used}) > 1]
    if len(used) < len(varying) + 2:
        raise InputError(
            f"rows must be at least {len(varying) + 2}, one more than there are coefficients "
            f"(the prefactor{''.join(f', {name}' for name in varying)}); got {len(used)} with a "
            f"{of!r} horizon"
        )
    columns = [np.log([row[name] for row in used]) for name in varying]
    design = np.stack([np.ones(len(used)), *columns], axis=1)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise InputError(f"rows must vary {varying} independently of one another; they do not")
    target = np.log([row[of] for row in used])
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    residual = np.sum((target - design @ solution) ** 2)
    total = np.sum((target - target.mean()) ** 2)
    freedom = len(used) - design.shape[1]
    covariance = np.linalg.inv(design.T @ design) * residual / freedom
    deviations = np.sqrt(np.diag(covariance))
    return PowerLaw(
        exponents=dict(zip(varying, solution[1:].tolist(), strict=True)),
        standard_errors=dict(zip(varying, deviations[1:].tolist(), strict=True)),
        prefactor=math.exp(solution[0]),
        r_squared=float(1 - residual / total) if np.ptp(target) > 0 else math.nan,
        num_rows=len(used),
    )


def horizon_study(
    load: Callable[..., CorpusLike],
    *,
    vocab_sizes: Sequence[int],
    seq_lens: Sequence[int],
    num_layers: Sequence[int],
    learning_rates: Sequence[float],
    duration: float,
    model: str | Model = MODEL,
    theories: Sequence[str | Theory] | None = None,
    threshold: float = THRESHOLD,
    progress: Callable[[int, int], None] | None = None,
    part: Part = compute_anew,
) -> list[dict[str, Any]]:
    """Measures how horizons depend on the setting, varying one quantity at a time.

    The first entries of the four lists are the base. Every setting that differs from it in at most
    one of vocabulary size, sequence length, layers and learning rate is trained from the model's
    default start (zero for the paper's) by plain gradient descent on the full batch for
    ceil(duration / eta) steps.

    Args:
      load: called as `load(vocab_size=..., seq_len=...)`, once for each pair, such as a `partial`
        of `load_tokens`. Keep the number of tokens constant, otherwise it varies too.
      vocab_sizes, seq_lens, num_layers, learning_rates: lists of distinct values, the base first.
      duration: training time s * eta up to which horizons are searched.
      model, theories: as in `sweep`.
      threshold: as in `validity_horizon`.
      progress: called with (steps done, total steps) as the work advances.
      part: called for each setting with a name and a function that computes its horizons, a
        Dataset. With `results.parts_kept_in(folder)`, a stopped study can be resumed.

    Returns:
      A row for each setting and theory: the quantities, the theory, and for each weight its horizon
      in steps, the minimum over layers (None: beyond `duration`), and as `weight*eta` the horizon
      in training time.

    Raises:
      InputError, InputTypeError: an argument cannot be used.

    Cost: one sweep of a single run for each setting, each compiled on its own, since sizes or
    numbers of steps differ. Settings add up; varying all quantities at once would multiply them.
    """
    if not callable(load):
        raise InputTypeError(f"load must be a function that returns a corpus; got {load!r}")
    settings = study_settings(
        vocab_sizes=vocab_sizes,
        seq_lens=seq_lens,
        num_layers=num_layers,
        learning_rates=learning_rates,
        duration=duration,
    )
    threshold = check_number("threshold", threshold, minimum=0)
    # One more record than steps: the start.
    records = [math.ceil(duration / setting["learning_rate"]) + 1 for setting in settings]
    total, before = sum(records), 0
    loaded: dict[tuple[int, int], TokenData] = {}
    rows = []
    for setting, count in zip(settings, records, strict=True):
        V, T, L, rate = setting.values()
        if (V, T) not in loaded:
            loaded[V, T] = _load(load, V, T)

        def measure(data=loaded[V, T], rate=rate, count=count, L=L, before=before) -> xr.Dataset:
            dataset = sweep(
                data,
                learning_rates=[rate],
                steps=count - 1,
                num_layers=L,
                model=model,
                theories=theories,
                progress=_offset(progress, before, total),
            )
            return validity_horizon(dataset, threshold)

        horizons = part(f"V{V}-T{T}-L{L}-eta{rate}", measure)
        for row in horizon_table(horizons):
            steps = {name: row[name] for name in horizons["weight"].values.tolist()}
            times = {f"{name}*eta": _times(value, rate) for name, value in steps.items()}
            rows.append({**setting, "theory": row["theory"], **steps, **times})
        before += count
    return rows


def study_settings(
    *,
    vocab_sizes: Sequence[int],
    seq_lens: Sequence[int],
    num_layers: Sequence[int],
    learning_rates: Sequence[float],
    duration: float,
) -> list[dict[str, Any]]:
    """The settings of a `horizon_study`, the base first: a dict of the four quantities for each.

    Raises:
      InputError, InputTypeError: an argument cannot be used.
    """
    given = {"vocab_sizes": vocab_sizes, "seq_lens": seq_lens, "num_layers": num_layers}
    lists: dict[str, list] = {}
    for name, values in given.items():
        check_numbers(name, values, minimum=1)
        most = LARGEST_DEPTH if name == "num_layers" else LARGEST_COUNT
        key = name if name == "num_layers" else name[:-1]
        lists[key] = check_integers(name, values, minimum=1, maximum=most)
    lists["learning_rate"] = check_numbers("learning_rates", learning_rates, minimum=0).tolist()
    if not all(lists["learning_rate"]):
        raise InputError("learning_rates must be positive; got 0")
    duration = check_number("duration", duration, minimum=0)
    if duration == 0:
        raise InputError("duration must be positive; got 0")
    if duration / min(lists["learning_rate"]) > LARGEST_STEPS:
        raise InputError(
            f"learning_rates must reach the duration, {duration:g}, in at most "
            f"{LARGEST_STEPS} steps; got {min(lists['learning_rate']):g}"
        )

    base = {name: values[0] for name, values in lists.items()}
    return [base] + [
        {**base, name: value} for name, values in lists.items() for value in values[1:]
    ]


def _offset(progress, before: int, total: int):
    """A progress function for one sweep of a study."""
    return progress and (lambda done, _: progress(before + done, total))


def _load(load, V: int, T: int) -> TokenData:
    data = as_token_data(load(vocab_size=V, seq_len=T), "the result of load")
    if (data.vocab_size, data.seq_len) != (V, T):
        raise InputError(
            f"load must return a corpus with vocab_size={V} and seq_len={T}; got "
            f"{data.vocab_size} and {data.seq_len}"
        )
    return data


def _first(condition: xr.DataArray, step: xr.DataArray) -> xr.DataArray:
    """The first step at which a condition holds, as a float; NaN if there is none."""
    return step.astype(float).where(condition).min("step")


def _number(value: xr.DataArray) -> float | None:
    return None if np.isnan(value) else float(value)


def _times(horizon: float | None, rate: float) -> float | None:
    return None if horizon is None else horizon * rate
