"""How objects are shown in a console and in Jupyter: shapes and names, never arrays."""

import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_mask, random_tokens, token_data

import assocjax as aj
from assocjax.arguments import check_flag, check_integer
from assocjax.checks import check_number, check_positive

N, T, V, L = 3, 4, 5, 2


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    data = token_data(random_tokens(0, N, T, V), V, random_mask(1, N, T))
    folder = tmp_path_factory.mktemp("tokens")
    aj.write_tokens(["a b c d e f"] * N, folder / "tokens", seq_len=T, vocab_size=V)
    params = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=L)
    contexts = aj.context_statistics(data)
    return {
        "TokenData": data,
        "TokenFile": aj.open_tokens(folder / "tokens"),
        "Statistics": aj.corpus_statistics(data),
        "SparseStatistics": aj.sparse_statistics(data),
        "EffectiveStatistics": aj.effective_statistics(data, depth=1),
        "ContextStatistics": contexts,
        "TwinStatistics": aj.prepare_twin(contexts),
        "Params": params,
        "Flow": aj.Flow(params, np.int32(3)),
    }


EXPECTED = {
    "TokenData": [f"N = {N}, T = {T}, V = {V}", f"int32 [{N}, {T + 1}]", "most frequent"],
    "TokenFile": ["N = ", f", T = {T}, V = {V}"],
    "Statistics": [f"bigram              float32 [{V}, {V}]"],
    "SparseStatistics": [f"float64 [{V}, {V}]"],
    "EffectiveStatistics": [f"float32 [2, {V}, {V}]"],
    "ContextStatistics": [f"int64 [{V}, {V}], ", "stored entries"],
    "TwinStatistics": ["pairs.own", f"float32 [{V}, {V}]"],
    "Params": [f"query_key  float32 [{L}, {V}, {V}]"],
    "Flow": [f"params.output     float32 [{V}, {V}]", "num_steps         3"],
}


def test_models_and_theories_say_their_names():
    assert repr(aj.get_model("attention-only")) == "AttentionOnly('attention-only')"
    assert repr(aj.get_theory("effective")) == "Effective('effective')"


@pytest.mark.parametrize("name", EXPECTED)
def test_a_table_of_shapes(shown, name):
    text, page = repr(shown[name]), shown[name]._repr_html_()
    assert text.splitlines()[0] == name
    for part in EXPECTED[name]:
        assert part in text
    for line in text.splitlines():
        assert len(line) <= 100
        assert "[[" not in line
        assert "array(" not in line
    assert page.count("<tr>") == len(text.splitlines()) - 1
    assert f"<caption>{name}</caption>" in page


def test_names_cannot_be_markup():
    made = token_data(np.zeros((1, 3), np.int32), 2)
    data = aj.TokenData(made.tokens, made.mask, ("<b>", "x\ny"), "<script>", made.sha256)
    assert "<script>" not in data._repr_html_()
    assert "<b>" not in data._repr_html_()
    assert "&lt;script&gt;" in data._repr_html_()


def test_a_traced_tree_is_shown_too():
    texts = []
    jax.make_jaxpr(lambda x: texts.append(repr(aj.Flow({"w": x}, x[0]))) or x)(np.ones(2, "f4"))
    assert texts == ["Flow\n  params.w   float32 [2]\n  num_steps  float32"]


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert aj.__version__ == project["project"]["version"]


def test_numbers_of_numpy_and_jax_are_numbers():
    for three in (np.int64(3), np.array(3), jnp.int32(3)):
        assert check_integer("x", three, minimum=1) == 3
        assert check_number("x", three) == 3
    for half in (np.float16(0.5), np.array(0.5), jnp.bfloat16(0.5)):
        assert check_number("x", half) == check_positive("x", half) == 0.5
    for true in (True, np.bool_(True), np.array(True), jnp.array(True)):
        assert check_flag("x", true) is True
    for other in (1, np.int8(1), "yes", np.array([True])):
        with pytest.raises(aj.InputTypeError, match="x must be True or False"):
            check_flag("x", other)
