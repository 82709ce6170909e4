from functools import partial

import jax
import jax.numpy as jnp
import pytest

from assocjax.precision import dot, matmul


def precision(function, setting):
    with jax.default_matmul_precision(setting):
        jaxpr = jax.make_jaxpr(function)(jnp.ones((2, 3)), jnp.ones((3, 2)))
    (product,) = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    return str(product.params["precision"])


@pytest.mark.parametrize("function", [matmul, partial(dot, axes=(1, 0))], ids=["matmul", "dot"])
@pytest.mark.parametrize("setting", ["tensorfloat32", "bfloat16", "highest"])
def test_less_precision_only_where_it_is_asked_for(setting, function):
    expected = {"tensorfloat32": "HIGH", "bfloat16": "DEFAULT", "highest": "HIGHEST"}[setting]
    assert expected in precision(function, setting)
    assert "HIGHEST" in precision(function, None)
