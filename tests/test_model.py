import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_trees_close, planned_memory, random_mask, random_params, random_tokens

import assocjax as aj
from assocjax.models.attention_only import default_microbatch_size

N, T, V, L = 5, 6, 7, 3


def dense_logits(params, x, valid):
    """Definition 3.1 as it is written, in NumPy: one-hots, loops, no gathers."""
    T, V = len(x), params.output.shape[0]
    h = np.eye(V)[x]
    for W, P, Va in zip(params.query_key, params.position, params.value, strict=True):
        S = h @ np.asarray(W) @ h.T
        A = np.zeros((T, T))
        for t in range(T):
            keys = [k for k in range(t + 1) if valid[k] or k == t]
            scores = np.array([S[t, k] + P[t - k] for k in keys])
            A[t, keys] = np.exp(scores) / np.exp(scores).sum()
        h = h + A @ h @ np.asarray(Va)
    return h @ np.asarray(params.output)


def dense_loss(params, tokens, mask):
    total = 0.0
    for sequence, valid in zip(tokens, mask, strict=True):
        z = dense_logits(params, sequence[:-1], valid)
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        total -= log_p[np.arange(len(valid)), sequence[1:]][valid].sum()
    return total / mask.sum()


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_logits_and_loss_are_the_definition(tolerance, layers, masked):
    params = random_params(0, V=V, T=T, L=layers)
    tokens = random_tokens(1, N, T, V)
    mask = random_mask(2, N, T) if masked else np.ones((N, T), bool)
    for sequence, valid in zip(tokens, mask, strict=True):
        actual = aj.logits(params, jnp.asarray(sequence[:-1]), jnp.asarray(valid))
        expected = dense_logits(params, sequence[:-1], valid)
        np.testing.assert_allclose(actual, expected, atol=10 * tolerance)
    actual = aj.loss(params, tokens, mask if masked else None)
    np.testing.assert_allclose(actual, dense_loss(params, tokens, mask), rtol=tolerance)


def test_zero_weights_predict_by_chance():
    params = random_params(0, V=V, T=T, L=2, scale=0.0)
    chex.assert_trees_all_equal(params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_allclose(aj.loss(params, random_tokens(0, N, T, V)), np.log(V), rtol=1e-6)


def test_no_position_sees_the_future(x64):
    params = random_params(0, V=V, T=T, L=L, scale=1.0)
    tokens = jnp.asarray(random_tokens(1, 1, T, V)[0, :T])
    before = aj.logits(params, tokens)
    after = aj.logits(params, tokens.at[3].set((tokens[3] + 1) % V))
    np.testing.assert_array_equal(before[:3], after[:3])
    assert jnp.all(jnp.any(before[3:] != after[3:], axis=1))


def test_a_prefix_has_the_logits_of_its_positions(x64):
    params = random_params(0, V=V, T=T, L=L)
    tokens = jnp.asarray(random_tokens(1, 1, T, V)[0, :T])
    np.testing.assert_allclose(
        aj.logits(params, tokens[:4]), aj.logits(params, tokens)[:4], rtol=1e-12, atol=1e-15
    )


def test_padding_counts_in_nothing(x64):
    params = random_params(0, V=V, T=T + 2, L=L)
    tokens = random_tokens(1, N, T, V)
    expected = aj.loss(params, tokens)
    gradient = aj.exact_gradient(params, tokens)
    for left in (0, 1, 2):  # the rest of the padding is on the right
        junk = random_tokens(3, N, T + 2, V)
        junk[:, left : left + T + 1] = tokens
        mask = np.zeros((N, T + 2), bool)
        mask[:, left : left + T] = True
        np.testing.assert_allclose(aj.loss(params, junk, mask), expected, rtol=1e-13)
        actual = aj.exact_gradient(params, junk, mask)
        chex.assert_trees_all_close(actual, gradient, rtol=1e-10, atol=1e-15)


def test_microbatches_fit_their_memory():
    params = random_params(0, V=V, T=T, L=L)
    assert default_microbatch_size(params, T) > 1000
    huge = jax.eval_shape(lambda: random_params(0, V=3000, T=200, L=3))
    assert default_microbatch_size(huge, 200) == 1


def test_dtype_follows_params(tolerance):
    params = random_params(0, V=V, T=T, L=L)
    tokens = random_tokens(1, N, T, V)
    dtype = jnp.result_type(float)
    assert aj.loss(params, tokens).dtype == dtype
    chex.assert_trees_all_equal_shapes_and_dtypes(aj.exact_gradient(params, tokens), params)


def test_half_precision_is_refused():
    """Its sums over a corpus would be off by a tenth, silently."""
    params, tokens = random_params(0, V=V, T=T, L=L), random_tokens(1, N, T, V)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    for function in (aj.loss, aj.exact_gradient):
        with pytest.raises(aj.InputTypeError, match="params must be float32 or float64; got"):
            function(half, tokens)


@pytest.mark.optimized
def test_memory_of_a_derivative_of_the_loss_is_bounded():
    params = random_params(0, V=64, T=16, L=2)

    def memory(N):
        tokens = jax.ShapeDtypeStruct((N, 17), jnp.int32)
        return planned_memory(jax.jit(jax.grad(aj.loss)).lower(params, tokens)).temp_size_in_bytes

    # Between 1024 and 4096 sequences only tokens and losses grow: some bytes a position.
    assert memory(4096) - memory(1024) < 3072 * 16 * 40


def test_a_batch_of_padding_alone_has_loss_zero():
    """Under `jit`, where it cannot be refused."""
    params, tokens = random_params(0, V=V, T=T, L=1), random_tokens(1, N, T, V)
    value, gradient = jax.jit(aj.exact_loss_and_gradient)(params, tokens, np.zeros((N, T), bool))
    assert value == 0
    chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, params))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"vocab_size": 1}, aj.InputError),
        ({"seq_len": 0}, aj.InputError),
        ({"num_layers": 0}, aj.InputError),
        ({"num_layers": 1.5}, aj.InputTypeError),
        ({"scale": -1.0}, aj.InputError),
        ({"scale": float("nan")}, aj.InputError),
        ({"scale": "large"}, aj.InputTypeError),
    ],
)
def test_bad_sizes(options, error):
    good = {"vocab_size": 4, "seq_len": 3, "num_layers": 1, "scale": 1.0}
    with pytest.raises(error, match=next(iter(options))):
        aj.init_params(jax.random.key(0), **(good | options))


def test_init_has_the_scale_asked_for():
    params = random_params(0, V=60, T=50, L=2, scale=0.2)
    for leaf in jax.tree.leaves(params):
        # The sd of n draws is off by 1/sqrt(2n); four times that is a generous allowance.
        np.testing.assert_allclose(jnp.std(leaf), 0.2, rtol=4 / np.sqrt(2 * leaf.size))
    assert not np.allclose(params.value[0], params.value[1])


def test_bad_sequences():
    params = random_params(0, V=V, T=T, L=1)
    with pytest.raises(aj.InputError, match=r"tokens must have shape \[T\] with 1 <= T <= 6"):
        aj.logits(params, jnp.zeros(T + 1, jnp.int32))
    with pytest.raises(aj.InputError, match=r"\[0, vocab_size=7\); got 9"):
        aj.loss(params, np.full((2, 3), 9))
    with pytest.raises(aj.InputTypeError, match="tokens must be integers; got dtype float32"):
        aj.logits(params, jnp.zeros(T))
    with pytest.raises(aj.InputError, match=r"mask must have shape \[T\] = \(6,\); got \(5,\)"):
        aj.logits(params, jnp.zeros(T, jnp.int32), jnp.ones(5, bool))


def test_tree_comparison_can_fail():
    params = random_params(0, V=V, T=T, L=1)
    with pytest.raises(AssertionError):
        assert_trees_close(params, jax.tree.map(lambda a: a * 1.001, params), rtol=1e-4)
