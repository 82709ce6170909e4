"""The paper's theorem about the leading terms: its conditions and its bounds.

After s steps of gradient descent with step size eta, in every layer and in the Frobenius norm,

    ||W_O - s eta B||                    <=  3 s^2 eta^2
    ||V_l - C(s,2) eta^2 Phi^T B^T||     <=  12 s^3 eta^3
    ||W_l - c(s) eta^4 Q||               <=  13 s^5 eta^5 T
    ||P_l - c(s) eta^4 Delta||           <=  13 s^5 eta^5 T

under conditions on L, T, V, s eta and the start. The leading terms stay accurate far beyond these
conditions, and the bounds are loose by orders of magnitude; this module compares both with
measurements.

Source: paper, Theorems 4.1 and D.10 (zero start), D.13 (Gaussian start).
"""

import contextlib
import itertools
import math

import numpy as np
import xarray as xr

from assocjax.arguments import check_integer
from assocjax.checks import check_dataset, check_number
from assocjax.errors import InputError, reading
from assocjax.storage import results


def theorem_conditions(
    *,
    num_layers: int,
    seq_len: int,
    vocab_size: int,
    learning_rate: float,
    steps: int,
    init_scale: float = 0.0,
    xi: float = 0.0,
) -> dict[str, bool]:
    """Which conditions of the theorem hold; it applies to a setting if all of them hold.

    For any start:

        num_layers <= sqrt(seq_len)/4
        seq_len >= 60
        vocab_size >= 500
        steps*learning_rate <= 1/(12*num_layers)
        steps*learning_rate <= 5/(8*sqrt(seq_len))

    and for a Gaussian start (`init_scale` > 0), whose variance is v^2 / V^(2+2 xi) with
    v <= eta^2 / T^2 in the theorem, also

        init_scale <= learning_rate^2/(seq_len^2*vocab_size^(1+xi))
        learning_rate >= 1/seq_len
        seq_len <= vocab_size

    Equality meets a condition. A bound that is not a floating-point number is rounded to one; the
    bounds on `steps*learning_rate` are divided by the steps and compared with the learning rate.

    Args:
      num_layers, seq_len, vocab_size: L, T, V.
      learning_rate: eta.
      steps: s.
      init_scale: standard deviation of the start, in units of the weights; 0 is the zero start.
      xi: the theorem needs some xi > 0, and its condition is weaker the smaller xi is. With the
        default, the limit 0, the conditions are necessary but not sufficient.

    Returns:
      A dict from each condition, named as above and in this order, to whether it holds.

    Raises:
      InputError, InputTypeError: an argument is out of range or has the wrong type.

    Source: paper, Theorems D.10 and D.13.
    """
    L = check_integer("num_layers", num_layers, minimum=1)
    T = check_integer("seq_len", seq_len, minimum=1)
    V = check_integer("vocab_size", vocab_size, minimum=2)
    s = check_integer("steps", steps, minimum=0)
    eta = check_number("learning_rate", learning_rate, minimum=0)
    sd = check_number("init_scale", init_scale, minimum=0)
    xi = check_number("xi", xi, minimum=0)
    if eta == 0:
        raise InputError("learning_rate must be positive; got 0")
    conditions = {
        "num_layers <= sqrt(seq_len)/4": 16 * L**2 <= T,
        "seq_len >= 60": T >= 60,
        "vocab_size >= 500": V >= 500,
        # Division rounds once; with the product of s and eta, equality could be lost by rounding.
        "steps*learning_rate <= 1/(12*num_layers)": s == 0 or eta <= 1 / (12 * L * s),
        "steps*learning_rate <= 5/(8*sqrt(seq_len))": s == 0 or eta <= 5 / (8 * s * math.sqrt(T)),
    }
    if sd > 0:
        edge = math.exp(min(2 * math.log(eta / T) - (1 + xi) * math.log(V), 700))
        with contextlib.suppress(OverflowError):
            edge = eta**2 / (T**2 * V ** (1 + xi))  # exact to the last digit
        conditions |= {
            "init_scale <= learning_rate^2/(seq_len^2*vocab_size^(1+xi))": sd <= edge,
            "learning_rate >= 1/seq_len": eta >= 1 / T,
            "seq_len <= vocab_size": T <= V,
        }
    return conditions


@reading("sweep")
def theorem_bounds(dataset: xr.Dataset) -> xr.Dataset:
    """Compares the theorem with a measurement: bounds, measured distances, and its conditions.

    Args:
      dataset: from `sweep`, compared with the theory "leading", trained by the exact gradient with
        the optimizer "sgd" on the full batch. The theorem applies to no other sweeps.

    Returns:
      A Dataset with
        `bound`      over `weight`, `learning_rate` and `step`: 3 s^2 eta^2 (output), 12 s^3 eta^3
                     (value), 13 s^5 eta^5 T (query_key, position)
        `distance`   ||trained - leading|| of the weights, as in `dataset`
        `looseness`  bound / distance; NaN at step 0, where the bound is 0, and where the distance
                     is 0 or undefined
      and `conditions` over `init_scale`, `learning_rate`, `step` and `condition` (the names from
      `theorem_conditions`, with xi = 0; conditions on a Gaussian start are True for a zero start),
      and `conditions_met`, whether all of them hold. Attributes are those of `dataset`.

    A looseness below 1 where the conditions are met would refute the theorem, unless it is due to
    rounding: a float32 distance is not accurate below about 1e-7 of the weight's norm.

    Raises:
      InputError: `dataset` is not such a sweep.

    Source: paper, Theorems 4.1, D.10 and D.13.
    """
    config, corpus = _check_sweep(dataset)
    T = corpus["seq_len"]
    step, rates = dataset["step"], dataset["learning_rate"]
    # Not s^5 alone: it would overflow the int32 of the steps.
    time = rates * step.astype(np.float64)
    bound = {
        "query_key": 13 * time**5 * T,
        "position": 13 * time**5 * T,
        "value": 12 * time**3,
        "output": 3 * time**2,
    }
    bound = xr.Dataset(bound).to_dataarray("weight").transpose("weight", "learning_rate", "step")
    distance = dataset["distance"].sel(theory="leading", quantity="weights", drop=True)
    safe = distance.where((distance > 0) & (bound > 0))
    looseness = (bound / safe).transpose(*distance.dims)
    variables = {
        "bound": bound.assign_attrs(units="1", long_name="bound on the distance of the weights"),
        "distance": distance,
        "looseness": looseness.assign_attrs(units="1", long_name="bound / distance"),
    }
    variables["conditions"] = _conditions(dataset, config["num_layers"], T, corpus["vocab_size"])
    variables["conditions_met"] = variables["conditions"].all("condition", keep_attrs=False)
    variables["conditions"].attrs["long_name"] = "whether a condition of the theorem holds"
    variables["conditions_met"].attrs["long_name"] = "whether all conditions of the theorem hold"
    return results.describe(
        xr.Dataset(variables, attrs=dataset.attrs), {"condition": "condition of the theorem"}
    )


def _check_sweep(dataset: xr.Dataset) -> tuple[dict, dict]:
    """Checks that the theorem applies to a sweep; returns its configuration and its corpus."""
    check_dataset(dataset, "sweep", [], "")
    if missing := [name for name in ("config", "corpus") if name not in dataset.attrs]:
        raise InputError(f"dataset must be from sweep; it has no attribute {missing[0]!r}")
    check_dataset(dataset, "sweep", ["distance"], "theory quantity weight")
    theories = dataset["theory"].values.tolist()
    if "leading" not in theories:
        raise InputError(f"dataset must be compared with the theory 'leading'; got {theories}")
    attrs = results.decode(dataset.attrs)
    config = attrs["config"]
    for name, value in (("gradient", "exact"), ("optimizer", "sgd"), ("batch_size", None)):
        if config[name] != value:
            raise InputError(
                f"dataset must be a sweep with {name}={value!r}, as the theorem requires; "
                f"got {config[name]!r}"
            )
    return config, attrs["corpus"]


def _conditions(dataset: xr.Dataset, L: int, T: int, V: int) -> xr.DataArray:
    dims = ("init_scale", "learning_rate", "step")
    axes = [dataset[name].values.tolist() for name in dims]
    cells = [
        theorem_conditions(
            num_layers=L,
            seq_len=T,
            vocab_size=V,
            learning_rate=rate,
            steps=step,
            init_scale=scale,
        )
        for scale, rate, step in itertools.product(*axes)
    ]
    names = list(max(cells, key=len))
    values = np.array([[cell.get(name, True) for name in names] for cell in cells])
    return xr.DataArray(
        values.reshape(*map(len, axes), len(names)),
        dims=(*dims, "condition"),
        coords={**{name: dataset[name] for name in dims}, "condition": names},
    )
