import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    assert_trees_close,
    equations,
    planned_memory,
    random_mask,
    random_params,
    random_tokens,
)

import assocjax as aj
from assocjax.models._tables import num_products, num_tables
from assocjax.models.plan import FORMS

PAPER = {"vocab_size": 3000, "seq_len": 200, "num_layers": 3, "num_sequences": 2048}


def test_forms_agree(tolerance):
    V, T, N = 13, 9, 6
    params = random_params(0, V=V, T=T + 1, L=3, scale=0.5)
    tokens, mask = random_tokens(1, N, T, V), random_mask(2, N, T)
    dense, tables = (aj.exact_loss_and_gradient(params, tokens, mask, form=f) for f in FORMS)
    assert_trees_close(tables, dense, rtol=tolerance)
    assert np.all(tables[1].position[:, T:] == 0)  # lags that no sequence has


@pytest.mark.parametrize(("layers", "microbatch"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_equal_tokens_of_a_sequence_are_one(layers, microbatch, x64):
    """A bound on distinct tokens, found or given, changes rounding only; one that fails, shows."""
    V, T, N = 40, 19, 5
    params = random_params(0, V=V, T=T, L=layers, scale=0.5)
    tokens, mask = random_tokens(1, N, T, V), random_mask(2, N, T)
    most = max(len(set(sequence[:-1].tolist())) for sequence in tokens)
    bound = aj.count_distinct(tokens)
    assert most <= bound < min(most + 8, T)
    dense = aj.exact_loss_and_gradient(params, tokens, mask, form="dense")
    for max_distinct in (None, most, T, 5 * T):
        tables = aj.exact_loss_and_gradient(
            params,
            tokens,
            mask,
            form="tables",
            microbatch_size=microbatch,
            max_distinct=max_distinct,
        )
        assert_trees_close(tables, dense, rtol=1e-12)
    loss, _ = aj.exact_loss_and_gradient(
        params, tokens, form="tables", microbatch_size=microbatch, max_distinct=most - 1
    )
    assert np.isnan(loss)


@pytest.mark.optimized
@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_of_a_large_batch_keeps_its_digits_in_float32(form):
    """A pair of tokens that follow each other 10^4 times hides no small probability."""
    N, T, V = 4000, 32, 50
    tokens = random_tokens(0, N, T, V)
    frequent = np.random.default_rng(1).random(tokens.shape) < 0.4
    tokens = np.where(frequent, 0, tokens).astype(np.int32)
    params = jax.tree.map(
        lambda a: a.astype(np.float32), random_params(0, V=V, T=T, L=1, scale=0.1)
    )
    single = aj.exact_loss_and_gradient(params, tokens, form=form)
    jax.config.update("jax_enable_x64", True)
    params = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, float)), params)
    double = aj.exact_loss_and_gradient(params, tokens, form=form)
    double = jax.tree.map(np.asarray, double)
    jax.config.update("jax_enable_x64", False)
    for actual, expected in zip(jax.tree.leaves(single), jax.tree.leaves(double), strict=True):
        error = np.max(np.abs(np.asarray(actual, float) - expected))
        assert error < 1e-5 * np.max(np.abs(expected))


@pytest.mark.parametrize("microbatch", [1, 2])
def test_both_forms_can_be_differentiated_and_mapped(microbatch, x64):
    """A Hessian-vector product, forward over the gradient and in reverse through it."""
    V, T, N = 5, 9, 3  # a sequence has equal tokens
    params, direction = (random_params(seed, V=V, T=T, L=2) for seed in (0, 1))
    tokens = random_tokens(1, N, T, V)

    def inner(a, b):
        return jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, a, b))

    products = []
    for form in FORMS:

        def gradient(params, form=form):
            return aj.exact_gradient(params, tokens, form=form, microbatch_size=microbatch)

        forward = jax.jit(lambda p, g=gradient: jax.jvp(g, (p,), (direction,))[1])
        reverse = jax.jit(jax.grad(lambda p, g=gradient: inner(g(p), direction)))
        products += [forward(params), reverse(params)]
    for product in products[1:]:
        assert_trees_close(product, products[0], rtol=1e-11)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, direction)
    dense, tables = (
        jax.jit(jax.vmap(lambda p, f=form: aj.exact_gradient(p, tokens, form=f)))(both)
        for form in FORMS
    )
    assert_trees_close(tables, dense, rtol=1e-12)


def test_tables_multiply_no_sequence_by_a_matrix():
    """Products of [V,V] matrices are as many as promised, whatever the number of sequences."""
    V, T, L = 11, 4, 3  # sizes that nothing else has
    params = random_params(0, V=V, T=T, L=L)

    def shapes(N):
        tokens = jnp.zeros((N, T + 1), jnp.int32)
        step = jax.make_jaxpr(lambda p: aj.exact_gradient(p, tokens, form="tables"))(params)
        products = [e for e in equations(step.jaxpr) if e.primitive.name == "dot_general"]
        return [tuple(v.aval.shape for v in e.invars) for e in products]

    square = [found for found in shapes(5) if found == ((V, V), (V, V))]
    assert len(square) == 3 * num_products(L)
    by_matrix = [found for found in shapes(5) if found[0][-2:] == (T, V) and (V, V) in found]
    assert by_matrix == []


def test_numbers_of_tables_and_products():
    """By hand: W_O, V_1 W_O and W_1; then for L=2 also V_2 W_O, V_1 V_2 W_O and four of W_2."""
    assert [num_tables(L) for L in (1, 2, 3)] == [3, 9, 29]
    assert [num_products(L) for L in (1, 2, 3)] == [1, 6, 25]


@pytest.mark.optimized
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("layers", "max_distinct"), [(3, None), (3, 16)])
def test_memory_is_predicted(form, layers, max_distinct):
    V, T, N = 200, 40, 64
    params = jax.eval_shape(lambda: random_params(0, V=V, T=T, L=layers))
    tokens = jax.ShapeDtypeStruct((N, T + 1), jnp.int32)
    options = {"form": form, "microbatch_size": 16, "max_distinct": max_distinct}
    step = jax.jit(lambda p, t: aj.exact_loss_and_gradient(p, t, **options))
    found = planned_memory(step.lower(params, tokens))
    actual = found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes
    plan = aj.plan_exact_step(
        vocab_size=V,
        seq_len=T,
        num_layers=layers,
        num_sequences=N,
        **options,
    )
    assert plan.microbatch_size == 16
    # XLA reuses buffers as it can: an estimate to plan by, not a bound.
    assert 0.6 < plan.memory / actual < 2.5


def test_plan_of_the_papers_setting():
    plan = aj.plan_exact_step(**PAPER)
    assert plan.form == "tables"
    assert plan.memory <= 4 << 30
    # Tables hold 58 matrices of 36 MB: dense is what fits a smaller memory.
    small = aj.plan_exact_step(**PAPER, memory_limit=1 << 30)
    assert small.form == "dense"
    assert small.memory <= 1 << 30
    assert small.work > plan.work
    # Products of matrices do not pay for a few sequences, nor when there are 4^L tables.
    assert aj.plan_exact_step(**PAPER | {"num_sequences": 8}).form == "dense"
    assert aj.plan_exact_step(**PAPER | {"num_layers": 6}).form == "dense"
    assert aj.plan_exact_step(**PAPER, memory_limit=1).microbatch_size == 1


def test_a_chosen_plan_is_followed():
    plan = aj.plan_exact_step(**PAPER, form="dense", microbatch_size=3)
    assert (plan.form, plan.microbatch_size) == ("dense", 3)
    more = aj.plan_exact_step(**PAPER, form="dense", microbatch_size=4)
    assert more.memory > plan.memory
    double = aj.plan_exact_step(**PAPER, form="dense", microbatch_size=3, itemsize=8)
    assert double.memory == 2 * plan.memory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be at least 1; got 0"),
        ({"memory_limit": 0}, "memory_limit must be at least 1; got 0"),
        ({"microbatch_size": 0}, "microbatch_size must be at least 1; got 0"),
        ({"form": "sparse"}, "form must be one of 'dense', 'tables'; got 'sparse'"),
    ],
)
def test_bad_plans(change, message):
    with pytest.raises(aj.InputError, match=message):
        aj.plan_exact_step(**PAPER | change)


def test_sequences_longer_than_the_weights_reach():
    params = random_params(0, V=5, T=4, L=1)
    with pytest.raises(aj.InputError, match=r"data must have at most 4 positions.* got 6"):
        aj.exact_gradient(params, random_tokens(0, 2, 6, 5))
