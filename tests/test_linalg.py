import jax
import jax.numpy as jnp
import pytest

from assocjax.linalg import matmul


def precision(setting):
    with jax.default_matmul_precision(setting):
        jaxpr = jax.make_jaxpr(matmul)(jnp.ones((2, 3)), jnp.ones((3, 2)))
    (product,) = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    return str(product.params["precision"])


@pytest.mark.parametrize("setting", ["tensorfloat32", "bfloat16", "highest"])
def test_less_precision_only_where_it_is_asked_for(setting):
    expected = {"tensorfloat32": "HIGH", "bfloat16": "DEFAULT", "highest": "HIGHEST"}[setting]
    assert expected in precision(setting)
    assert "HIGHEST" in precision(None)
