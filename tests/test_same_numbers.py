"""Numbers in float32, as users have them, against those of commit 8ba34d3: sweeps, statistics,
similarities and tracking gave them before modules became rooms and loops were compiled by numba.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import assocjax as aj
from assocjax import llm

SAVED = json.loads((Path(__file__).parent / "golden" / "float32.json").read_text("utf-8"))["values"]
SWEEPS = {"batches": {"batch_size": 5}, "adam": {"optimizer": "adam"}}


@pytest.fixture(scope="module")
def data():
    return aj.load_tokens("fables", vocab_size=24, seq_len=8, num_sequences=12, short="pad")


def compare(name, found, *, rtol=2e-6, atol=2e-6):
    """`atol` in units of the largest entry."""
    expected = np.array(SAVED[name])
    found = np.asarray(found, np.float64).ravel()
    largest = np.nanmax(np.abs(expected))
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol * largest, err_msg=name)


@pytest.mark.parametrize("case", SWEEPS)
def test_sweeps(data, case, promote):
    dataset = aj.sweep(
        data,
        learning_rates=[0.25, 1.0],
        seeds=[0, 1],
        init_scales=[0.0, 0.01],
        steps=3,
        num_layers=2,
        theories=("leading", "effective"),
        **SWEEPS[case],
    )
    compare(f"sweep {case} loss", dataset["loss"].isel(step=[0, 3]))
    chosen = dataset.isel(step=[1, 3], learning_rate=1)
    for name in (name for name in SAVED if name.startswith(f"sweep {case} ")):
        variable = name.removeprefix(f"sweep {case} ")
        weight = next((w for w in aj.WEIGHTS if variable.startswith(w)), None)
        if weight is None:
            continue
        measure = variable.removeprefix(f"{weight}_")
        quantity = "gradients" if measure.startswith("gradient_") else "weights"
        found = chosen[measure.removeprefix("gradient_")].sel(weight=weight)
        has = "quantity" in found.dims
        found = found.sel(quantity=quantity) if has else found.isel(step=-1)
        found = found.isel(layer=-1) if weight == "output" else found
        order = [dim for dim in found.dims if dim not in ("step", "layer")]
        order += [dim for dim in ("step", "layer") if dim in found.dims]
        # Adam divides small gradients by their own size, rounding included.
        tolerance = 1e-3 if case == "adam" else 1e-5
        compare(name, found.transpose(*order), rtol=tolerance, atol=tolerance)


def test_statistics(data):
    found = {
        "statistics": aj.corpus_statistics(data),
        "moments": aj.effective_statistics(data, depth=2),
    }
    seen = 0
    for kind, statistics in found.items():
        for field in dataclasses.fields(statistics):
            if field.name == "substitutability":  # later than the numbers that were saved
                continue
            values = np.asarray(getattr(statistics, field.name), np.float64)
            compare(f"{kind} {field.name} sum of squares", (values * values).sum())
            if kind == "statistics":
                compare(f"{kind} {field.name} corner", values.reshape(-1)[:6])
            seen += 1
    assert seen == sum(name.endswith("sum of squares") for name in SAVED)
    sparse = aj.sparse_statistics(data)
    for name in ("bigram", "context"):
        compare(f"sparse {name} rows", getattr(sparse, name) @ np.eye(24)[:, :3])


@pytest.mark.parametrize("centering", ["feature", "token", "both"])
def test_similarities(centering):
    rng = np.random.default_rng(0)
    A, M = (rng.normal(size=(30, d)).astype(np.float32) for d in (7, 5))
    found = llm.covariance_similarity(A, M, centering=centering)
    compare(f"similarity {centering}", found)


def test_tracking(data):
    dataset = aj.track(
        data,
        learning_rate=1.0,
        steps=4,
        num_layers=2,
        k=3,
        init_scale=1e-3,
        record_at=[0, 2, 4],
        seed=1,
        batch_size=5,
    )
    compare("track loss", dataset["loss"])
    compare("track value cosine", dataset["value_cosine"].isel(step=-1).sel(scoring="raw"))
