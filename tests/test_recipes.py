"""Recipes of training: their learning rates by other formulas, and what their files may hold."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import assocjax as aj
from assocjax import llm
from assocjax.cli._checkpoint_twins import clock


@pytest.fixture(scope="module", autouse=True)
def as_users_have_it():
    """optax mixes integers and floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def of_neox(update: int, peak: float, warmup: int, last: int) -> float:
    """GPT-NeoX's rate of an update counted from 0."""
    if update <= warmup:
        return peak * update / warmup
    share = (update - warmup) / (last - warmup)
    return 0.1 * peak + 0.9 * peak / 2 * (math.cos(math.pi * share) + 1)


def test_pythia():
    recipe = llm.RECIPES["pythia-1.4b"]
    updates = [0, 1, 8, 1430, 1431, 72_000, 142_999]
    expected = [of_neox(i, 2e-4, 1430, 143_000) for i in updates]
    np.testing.assert_allclose(recipe.rate(np.array(updates)), expected, rtol=1e-4)
    assert recipe.rate(0) == 0  # the first update changes nothing
    for step in (0, 1, 2, 8, 512):
        # Each rate is the peak less a share of it, in float32.
        expected = pytest.approx(2e-4 * step * (step - 1) / 2860, abs=3e-11 * step)
        assert recipe.summed_rate(step) == expected
    assert (recipe.batch_size, recipe.seq_len) == (1024, 2048)


def test_linear_decay_at_the_end():
    recipe = llm.RECIPES["smollm2-135m"]
    found = recipe.rate(np.array([0, 1000, 2000, 1_600_000, 1_700_000, 2_000_000]))
    np.testing.assert_allclose(found, [0, 1.5e-3, 3e-3, 3e-3, 2.25e-3, 0], rtol=1e-5)
    with pytest.raises(aj.InputError, match="'smollm2-135m' has no decayed, which are not publ"):
        recipe.optimizer()


def test_the_clock_runs_both_ways():
    tiny, pythia = llm.RECIPES["pretrain-tiny"], llm.RECIPES["pythia-1.4b"]
    rates = np.asarray(tiny.rate(np.arange(64)), np.float64)
    assert tiny.summed_rate(64) == pytest.approx(rates.sum())
    summed = tiny.summed_rate(np.array([0, 8, 64]))
    assert [tiny.step_at(each) for each in summed] == [0, 8, 64]
    step = pythia.step_at(float(summed[1]))
    assert pythia.summed_rate(step - 1) < summed[1] <= pythia.summed_rate(step)
    with pytest.raises(aj.InputError, match="at most that of all 512 updates of pretrain-tiny"):
        tiny.step_at(1.0)
    for bad in (-1, 1.5, [3, -1]):
        with pytest.raises(aj.InputError, match="step must be integers of at least 0"):
            tiny.summed_rate(bad)


@pytest.mark.parametrize("name", [*llm.RECIPES])
def test_the_registry_says_where_it_is_from(name):
    recipe = llm.find_recipe(name)
    assert (recipe.name, llm.find_recipe(recipe)) == (name, recipe)
    assert name == "pretrain-tiny" or "arXiv" in recipe.source
    assert recipe.summed_rate(recipe.steps) > recipe.learning_rate


@pytest.mark.parametrize(
    ("decayed", "moved"),
    [
        ("matrices", {"embedding", "query", "unembedding"}),
        ("matrices but the embedding", {"query", "unembedding"}),
        ("all but the embedding", {"query", "unembedding", "gain"}),
        ("all", {"embedding", "query", "unembedding", "gain"}),
    ],
)
def test_decoupled_weight_decay(decayed, moved):
    """Without gradients a weight shrinks by rate times weight_decay; others stay."""
    recipe = dataclasses.replace(llm.RECIPES["pretrain-tiny"], decayed=decayed)
    one = jnp.ones((2, 2))
    params = {"embedding": one, "blocks_0": {"query": one, "norm": {"gain": jnp.ones(2)}}}
    params["unembedding"] = one
    optimizer = recipe.optimizer()
    updates, _ = optimizer.update(
        jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params
    )
    found = {}
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        found[path[-1].key] = float(update.max())
    shrinks = {name for name, change in found.items() if change}
    assert shrinks == moved
    assert found["query"] == pytest.approx(-0.1 * recipe.rate(0))


def test_files(tmp_path):
    recipe = llm.RECIPES["pythia-160m"]
    content = dataclasses.asdict(recipe)
    (tmp_path / "a.json").write_text(json.dumps({"recipe": content, "losses": [1.0]}))
    assert llm.find_recipe(tmp_path / "a.json") == recipe
    content["learning_rate"] = "6e-4"  # as YAML reads it
    lines = [f"{key}: {json.dumps(value)}" for key, value in content.items()]
    (tmp_path / "b.yaml").write_text("\n".join(lines).replace('"6e-4"', "6e-4"))
    assert llm.find_recipe(str(tmp_path / "b.yaml")) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": "fast"}, "learning_rate must be a number; got 'fast'"),
        ({"learning_rate": None}, "learning_rate must be a number; got None"),
        ({"schedule": "sine"}, "schedule must be one of .*; got 'sine'"),
        ({"warmup": 3}, "expected the keys name, source, .*; got 'warmup'"),
        ({"steps": ...}, "expected the keys .*; 'steps' is missing"),
        ({"steps": 5}, "steps must be at least warmup_steps and decay_steps together, 1430; got 5"),
        ({"beta1": 1.5}, "beta1 must be at most 1; got 1.5"),
        ({"first_update": 2}, "first_update must be .*; got 2"),
        ({"decayed": "norms"}, "decayed must be one of .*; got 'norms'"),
    ],
)
def test_bad_files(change, message, tmp_path):
    content = dataclasses.asdict(llm.RECIPES["pythia-160m"]) | change
    content = {key: value for key, value in content.items() if value is not ...}
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(aj.InputError, match=f"recipe: '.*r.json': {message}"):
        llm.find_recipe(tmp_path / "r.json")


def test_other_bad_recipes(tmp_path):
    with pytest.raises(aj.InputError, match=r"must be one of pretrain-tiny, .* file; got 'nosuch'"):
        llm.find_recipe("nosuch")
    with pytest.raises(aj.InputError, match="it cannot be read"):
        llm.find_recipe(tmp_path / "none.yaml")
    (tmp_path / "list.yml").write_text("[1, 2]")
    with pytest.raises(aj.InputError, match="its content must be"):
        llm.find_recipe(tmp_path / "list.yml")
    with pytest.raises(aj.InputTypeError, match="a name or a file; got 3"):
        llm.find_recipe(3)  # type: ignore[arg-type]


def test_the_clock_of_a_command_is_refused_before_anything_is_read():
    with pytest.raises(aj.InputError, match="--recipe: names of revisions must have different"):
        clock("pretrain-tiny", "step", [None])
    with pytest.raises(aj.InputError, match="--over summed_rate: --recipe must be given"):
        clock(None, "summed_rate", ["step0", "step1"])
    assert clock(None, "step", [None]) is None
