"""Every optimizer: its recursion by scalars, and its theories against exact training."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_close, random_mask, random_tokens, token_data

import assocjax as aj
from assocjax.training.optimizers import check_optimizer, check_resumable, make_optimizer

N, T, V, L = 8, 6, 7, 2
LEADING = ("leading",)
STEPS = 20


def scheduled(schedule):
    return lambda rate: optax.chain(optax.scale_by_schedule(schedule), optax.sgd(rate))


LINEAR = {
    "descent": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "nesterov": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
    "cosine": lambda rate: optax.sgd(optax.cosine_decay_schedule(rate, STEPS)),
    "warm-up": scheduled(optax.warmup_cosine_decay_schedule(0.0, 1.0, 5, STEPS)),
    "named schedule": aj.ScheduledOptimizer("sgd", "cosine", STEPS, warmup_steps=5),
    "weight decay": lambda rate: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(rate)),
}
OTHERS = {"adam": optax.adam, "adamw": optax.adamw, "rmsprop": optax.rmsprop}
FUNCTIONS = {"sgd": optax.sgd, "adam": optax.adam}
CLIPPED = {
    "clip": lambda rate: optax.chain(optax.clip(1.0), optax.sgd(rate)),
    "clip the norm": lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate)),
}


def by_rank(rate):
    """Decays what has more than one axis: all weights, but no scalar of a recursion."""
    mask = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # noqa: E731
    return optax.chain(optax.add_decayed_weights(0.5, mask=mask), optax.sgd(rate))


def one_layer_faster(updates, params):
    """Of two layers the second at half the rate."""
    halved = jnp.array([1.0, 0.5])
    return updates.replace(value=updates.value * halved[:, None, None])


NAMED = aj.Params(query_key=False, position=False, value=True, output=False)
BY_SHAPE = {
    "decay by rank": by_rank,
    "decay by name": lambda rate: optax.chain(
        optax.add_decayed_weights(0.5, mask=NAMED), optax.sgd(rate)
    ),
    "centred": lambda rate: optax.chain(optax.centralize(), optax.sgd(rate)),
    "by layer": lambda rate: optax.chain(optax.stateless(one_layer_faster), optax.sgd(rate)),
    "norms of weights": lambda rate: optax.chain(optax.sgd(rate), optax.scale_by_trust_ratio()),
    "clip the norm": lambda rate: optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(rate)),
}


@pytest.fixture
def data():
    return token_data(random_tokens(0, N, T, V), V, random_mask(1, N, T))


@pytest.mark.parametrize("name", [*LINEAR, *OTHERS, *CLIPPED])
def test_linear_optimizers_are_told_from_others(promote, name):
    assert aj.is_linear((LINEAR | OTHERS | CLIPPED)[name]) == (name in LINEAR)


def test_optimizers_are_told_within_a_trace(promote):
    told = {}

    @jax.jit
    def traced(x):
        told.update({rate: aj.is_linear(lambda x, f=f: f(x)) for rate, f in FUNCTIONS.items()})
        return x

    traced(1.0)
    assert told == {"sgd": True, "adam": False}


@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_are_their_formulas(schedule, warmup):
    def rate(i):
        if i < warmup:
            return (i + 1) / (warmup + 1)
        u = min(1, (i - warmup) / (STEPS - warmup))
        return {"constant": 1, "linear": 1 - u, "cosine": (1 + np.cos(np.pi * u)) / 2}[schedule]

    factor = aj.ScheduledOptimizer("sgd", schedule, STEPS, warmup).factor()
    found = jax.jit(jax.vmap(factor))(jnp.arange(STEPS + 3))
    np.testing.assert_allclose(found, [rate(i) for i in range(STEPS + 3)], atol=1e-6)


def test_a_sweep_with_a_schedule_trains_by_it_and_says_so(data, promote):
    """Loss against a loop with the rates written out; equal settings compile once."""
    made = [aj.ScheduledOptimizer("sgd", "linear", np.int64(4), jnp.int32(1)) for _ in range(2)]
    assert made[0] == made[1]
    assert hash(made[0]) == hash(made[1])
    arguments = {"num_layers": 1, "seeds": [0], "steps": 4, "theories": ["leading"]}
    dataset = aj.sweep(data, learning_rates=[0.5], optimizer=made[0], **arguments)
    params, losses = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=1), []
    for rate in (0.25, 0.5, 0.5 * 2 / 3, 0.5 / 3, 0.0):
        value, gradient = aj.exact_loss_and_gradient(params, data.tokens, data.mask)
        losses.append(value)
        params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params, gradient)
    np.testing.assert_allclose(dataset["loss"].values.ravel(), losses, rtol=1e-5)
    config, name = json.loads(dataset.attrs["config"]), "sgd, linear over 4 steps, 1 of warm-up"
    assert config["optimizer"] == name
    settings = {"optimizer": "sgd", "schedule": "linear", "steps": 4, "warmup_steps": 1}
    assert config["settings"][name] == settings
    check_resumable(made[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sgdd", "cosine", 4), "optimizer must be the name .* 'sgdd'"),
        (("sgd", "exponential", 4), "schedule must be one of 'constant', 'linear', 'cosine'"),
        (("sgd", "cosine", 0), "steps must be at least 1; got 0"),
        (("sgd", "cosine", 4, 4), "warmup_steps must be less than steps, 4; got 4"),
        ((optax.sgd, "cosine", 4), "optimizer must be of class str"),
        (("sgd", "cosine", 4.5), "steps must be an integer"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(arguments, message):
    with pytest.raises((aj.InputError, aj.InputTypeError), match=message):
        aj.ScheduledOptimizer(*arguments)


def test_names_are_told_as_well():
    assert aj.is_linear("sgd")
    assert not aj.is_linear("lion")


@pytest.mark.parametrize("name", BY_SHAPE)
def test_a_theory_is_a_run_by_its_gradient_whatever_the_optimizer_looks_at(
    x64, promote, data, name
):
    """Trained by the leading gradient itself, a run is the leading theory, in every layer."""
    assert not aj.is_linear(
        BY_SHAPE[name], aj.get_model("attention-only").shapes(aj.Sizes(V, T, L))
    )
    config = aj.RunConfig(
        steps=5, num_layers=L, theories=LEADING, gradient="leading", optimizer=BY_SHAPE[name]
    )
    found = jax.jit(aj.run_comparison, static_argnums=0)(
        config, aj.Corpus.of(data, config), 0.3, 0, 0.0
    )
    error = np.asarray(found["relative_error"])[0]
    there = np.isfinite(error[..., 5])
    assert there[:, :-1].all()
    assert there[:, -1].tolist() == [[False] * (L - 1) + [True]] * 2  # output has no layers
    np.testing.assert_allclose(np.nan_to_num(error), 0, atol=1e-12)


def test_coefficients_of_what_is_not_linear_are_refused(promote):
    for made in (by_rank(0.1), optax.centralize(), optax.adam(0.1), optax.clip(1.0)):
        with pytest.raises(aj.InputError, match="optimizer must be linear in the gradients"):
            aj.optimizer_coefficients(made, 3)
    with pytest.raises(aj.InputTypeError, match="optimizer must be an optax transformation"):
        aj.optimizer_coefficients("sgd", 3)
    traced = jax.jit(lambda rate: aj.optimizer_coefficients(optax.sgd(rate), 3))(0.1)
    assert_trees_close(traced, aj.optimizer_coefficients(optax.sgd(0.1), 3), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 3.0])
def test_recursion_of_plain_descent_is_the_closed_form(x64, rate):
    found = aj.optimizer_coefficients(optax.sgd(rate), 50)
    for step in (0, 1, 2, 3, 7, 50):
        at_step = jax.tree.map(lambda path, step=step: path[step], found)
        assert_trees_close(at_step, aj.descent_coefficients(rate, step), rtol=1e-13)


@pytest.mark.parametrize("name", LINEAR)
def test_recursion_is_the_optimizer_run_along_the_leading_gradient(x64, promote, data, name):
    statistics = aj.corpus_statistics(data.tokens, V, data.mask)
    made = LINEAR[name](0.3)
    coefficients = aj.optimizer_coefficients(made, STEPS)
    params = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=L)
    state = made.init(params)
    for step in range(STEPS + 1):
        now = jax.tree.map(lambda path, step=step: path[step], coefficients)
        gradient = aj.leading_gradient(params, statistics, data.tokens, data.mask)
        weights = aj.weights_from_coefficients(statistics, L, now)
        assert_trees_close(weights, params, rtol=1e-11)
        assert_trees_close(aj.gradient_from_coefficients(statistics, L, now), gradient, rtol=1e-11)
        updates, state = made.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    assert np.all(np.array([c[-1] for c in coefficients]) > 0)


def test_flow_is_the_limit_of_the_recursion(x64):
    for duration in (0.5, 3.0):
        fine = aj.descent_coefficients(duration / 1e5, 100_000)
        assert_trees_close(fine, aj.flow_coefficients(duration), rtol=1e-4)


# Largest relative errors after STEPS updates that move the weights about as far, of the leading
# terms and of the effective theory: some times what is measured. Adam and its like divide by the
# gradient's size: where an entry's gradient is nearly zero, any error of it counts in full.
TOLERANCES = {
    **dict.fromkeys(LINEAR, (0.3, 1e-3)),
    "adam": (0.9, 0.05),
    "adamw": (0.9, 0.05),
    "rmsprop": (0.9, 0.05),
}
RATES = {"momentum": 0.04, "nesterov": 0.04, "adam": 0.003, "adamw": 0.003, "rmsprop": 0.001}


@pytest.mark.parametrize("name", [*LINEAR, *OTHERS])
def test_theories_follow_exact_training_by_any_optimizer(x64, promote, data, name):
    statistics = aj.corpus_statistics(data.tokens, V, data.mask)
    effective = aj.effective_statistics(data, depth=L)
    gradients = (
        lambda p: aj.exact_gradient(p, data.tokens, data.mask),
        lambda p: aj.leading_gradient(p, statistics, data.tokens, data.mask),
        lambda p: aj.effective_gradient(p, effective, data.tokens, data.mask),
    )
    made = (LINEAR | OTHERS)[name](RATES.get(name, 0.2))
    trained = []
    for gradient in gradients:
        params = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=L)
        state = made.init(params)

        @jax.jit
        def advance(params, state, gradient=gradient):
            updates, state = made.update(gradient(params), state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(STEPS):
            params, state = advance(params, state)
        trained.append(params)
    exact, *theories = trained
    for theory, tolerance in zip(theories, TOLERANCES[name], strict=True):
        for weight, measures in aj.compare_params(exact, theory).items():
            assert 0 < np.max(measures.relative_error) < tolerance, weight


def loss_by_rate(optimizer, data, steps=3):
    """The loss after some steps from zero, where most gradients are zero at first."""
    config = aj.RunConfig(steps=steps, num_layers=1, theories=LEADING, optimizer=optimizer)
    corpus = aj.Corpus.of(data, config)
    return jax.jit(lambda rate: aj.run_comparison(config, corpus, rate, 0, 0.0)["loss"][-1])


@pytest.mark.parametrize("name", ["adam", "amsgrad", "lamb", "nadamw"])
def test_derivatives_through_named_optimizers_are_differences(x64, promote, data, name):
    loss, h = loss_by_rate(name, data), 1e-6
    difference = (loss(0.05 + h) - loss(0.05 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(loss)(0.05), difference, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(loss, (0.05,), (1.0,))[1], difference, rtol=1e-6)


@pytest.mark.parametrize("optimizer", [lambda rate: optax.adam(rate), "radam"])
def test_a_derivative_that_is_nan_says_which_option_to_set(promote, data, optimizer):
    loss = loss_by_rate(optimizer, data)
    assert np.isfinite(loss(0.05))
    with pytest.warns(UserWarning, match="may be NaN, as .*: set optax's option eps_root"):
        assert np.isnan(jax.grad(loss)(0.05))


def test_named_adam_trains_to_the_bit_as_optax_has_it(promote, tolerance, data):
    def trained(optimizer):
        config = aj.RunConfig(steps=6, num_layers=L, theories=LEADING, optimizer=optimizer)
        return jax.jit(aj.run_comparison, static_argnums=0)(
            config, aj.Corpus.of(data, config), 0.01, 0, 0.0
        )

    chex.assert_trees_all_equal(trained("adam"), trained(lambda rate: optax.adam(rate)))


def test_sampling_and_truncation_split_the_disagreement(x64, data):
    """Within the triangle inequality; of half the corpus at a time, which half says most."""
    dataset = aj.sweep(
        data,
        learning_rates=[0.2],
        steps=12,
        num_layers=L,
        theories=["leading", "effective"],
        batch_size=4,
    ).isel(step=-1)
    for weight in aj.WEIGHTS:
        of_weight = dataset.sel(weight=weight, quantity="weights")
        of_weight = of_weight.isel(layer=slice(-1 if weight == "output" else 0, None))
        total, sampling, truncation = (
            of_weight[name] for name in ("relative_error", "sampling_error", "truncation_error")
        )
        assert (total <= (sampling + truncation) * (1 + 1e-12)).all()
        assert (total >= abs(sampling - truncation) * (1 - 1e-12)).all()
        effective = {"theory": "effective"}
        assert (sampling.sel(effective) > 20 * truncation.sel(effective)).all()
        assert (truncation > 0).all()


def test_a_schedule_that_needs_a_number_is_refused_in_one_line(data, promote):
    def warm_up(rate):
        return optax.sgd(optax.warmup_cosine_decay_schedule(0.0, rate, 5, 20))

    with pytest.raises(aj.InputError, match="cannot train by gradients at a traced learning rate"):
        aj.sweep(data, learning_rates=[0.1], steps=1, num_layers=1, optimizer=warm_up)


def test_bad_arguments():
    with pytest.raises(aj.InputError, match="steps must be at least 0; got -1"):
        aj.optimizer_coefficients(optax.sgd(0.1), -1)
    with pytest.raises(aj.InputError, match="duration must be finite and at least 0; got -1"):
        aj.flow_coefficients(-1.0)
    with pytest.raises(aj.InputError, match="optimizer must be the name of an optax optimizer"):
        make_optimizer("nosuch", jnp.float32(0.1))


def test_every_name_of_optax_makes_an_optimizer_or_is_refused_in_a_line(promote):
    """Also those that expect weights of some shape (sm3), a schedule, or other arguments."""
    made, refused = [], {}
    for name in dir(optax):
        try:
            check_optimizer(name, aj.get_model("attention-only").shapes(aj.Sizes(4, 3, 1)))
            made.append(name)
        except (aj.InputError, aj.InputTypeError) as error:
            refused[name] = str(error)
    assert {"sgd", "adam", "sm3", "lion"} <= set(made)
    assert [name for name, text in refused.items() if "\n" in text] == []
