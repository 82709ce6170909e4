import gc
import os
import shutil
from importlib.metadata import version
from pathlib import Path

# Two devices even on one core, so that sweeps are divided as they are on a larger machine.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
# Nearly all of the suite's time is compilation of tiny programs, which are not optimized. What
# depends on it runs as users run it: tests marked `optimized`, of digits and of memory, in a
# process of `test_optimized.py`; the README's first command; and some of the command line.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0" and version("jaxlib").startswith("0.10."):
    # Half of that time; later releases have no such flag, and die of one that they do not know.
    os.environ.setdefault(
        "XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )
# Nobody reads the lines of Python that compiled programs would remember.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from hypothesis import settings

import assocjax as aj

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Traces make many objects, few of them in cycles; looking for those is a twentieth of the time.
gc.set_threshold(50_000, 20, 50)

# Compilation makes first examples slow; tests say nothing about time.
settings.register_profile("assocjax", deadline=None, derandomize=True)
settings.load_profile("assocjax")


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz-rounds", type=int, default=2, help="how long odd words and values are tried"
    )


def pytest_collection_modifyitems(config, items):
    """Leaves tests marked `optimized` to the process in which programs are."""
    optimized = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "0"
    left = [] if optimized else [item for item in items if item.get_closest_marker("optimized")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


@pytest.fixture(autouse=True, scope="module")
def bounded_programs():
    """Drops compiled programs before Linux runs out of mappings for them, which kills a process.

    A program takes about 20 of the 65,530 that a process may have by default.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()


@pytest.fixture(autouse=True, scope="session")
def large_programs(tmp_path_factory):
    """Compiles a large program once for each worker, though a function may make it again."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real texts, too large for the repository: brown.txt, kjv.txt, ..."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ASSOCJAX_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("real texts are not in the repository: set ASSOCJAX_TEST_DATA to their folder")
    return folder


@pytest.fixture
def x64():
    """Double precision within a test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(params=["float32", "float64"])
def tolerance(request) -> float:
    """Runs a test in both precisions; the relative rounding error to allow in each."""
    double = request.param == "float64"
    jax.config.update("jax_enable_x64", double)
    yield 1e-11 if double else 2e-5
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def promote():
    """optax mixes integers and floats: strict promotion is for our own code."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(params=["zero_init", "gaussian_init"])
def golden(request, x64) -> dict[str, np.ndarray]:
    """A tiny float64 case computed without JAX: tokens, statistics, weights after every step."""
    with np.load(Path(__file__).parent / "golden" / f"{request.param}.npz") as case:
        return dict(case)


def random_tokens(seed: int, N: int, T: int, V: int) -> np.ndarray:
    """Tokens with unequal frequencies, as in text."""
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, V + 1)
    return rng.choice(V, size=(N, T + 1), p=p / p.sum()).astype(np.int32)


def random_mask(seed: int, N: int, T: int) -> np.ndarray:
    """Ragged: every sequence is padded on the right by an amount of its own; one has holes."""
    rng = np.random.default_rng(seed)
    mask = np.arange(T) < rng.integers(1, T + 1, size=(N, 1))
    mask[0] = rng.random(T) < 0.7
    mask[0, -1] = True
    return mask


def count_by_loops(tokens, mask, V):
    """matrix -> occurrences of its pairs, by their definitions, position by position."""
    follows, before, attends = (np.zeros((V, V), int) for _ in range(3))
    for sequence, valid in zip(tokens, mask, strict=True):
        for t in np.flatnonzero(valid):
            follows[sequence[t], sequence[t + 1]] += 1
            for key in sequence[: t + 1][valid[: t + 1]]:
                before[sequence[t + 1], key] += 1
                attends[sequence[t], key] += 1
    seen, has_before = (follows > 0).astype(int), (before > 0).astype(int)
    return {
        "bigram": follows,
        "context": before,
        "composed": before.T,
        "query_key": attends,
        "interchangeability": seen.T @ seen,
        "substitutability": seen @ seen.T,
        "value": has_before.T @ seen.T,
    }


def random_params(seed: int, *, V: int, T: int, L: int, scale: float = 0.3) -> aj.Params:
    return aj.init_params(jax.random.key(seed), vocab_size=V, seq_len=T, num_layers=L, scale=scale)


def token_data(tokens: np.ndarray, V: int, mask: np.ndarray | None = None) -> aj.TokenData:
    if mask is None:
        mask = np.ones((tokens.shape[0], tokens.shape[1] - 1), bool)
    return aj.TokenData(tokens, mask, tuple(f"w{i}" for i in range(V)), "random", "0" * 64)


def assert_trees_close(actual, expected, *, rtol: float) -> None:
    """Every leaf within rtol of its counterpart, relative to that leaf's largest entry."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert jnp.shape(x) == jnp.shape(y)
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * np.max(np.abs(y), initial=1e-300))


def assert_described(dataset: xr.Dataset) -> None:
    """Every coordinate and variable says what it is, and numbers have units."""
    for name, variable in dataset.variables.items():
        assert variable.attrs.get("long_name"), name
        assert variable.dtype.kind != "f" or variable.attrs.get("units"), name
    assert "" not in [value for value in dataset.attrs.values() if isinstance(value, str)]


def planned_memory(lowered):
    """The memory that the compiler plans for a program.

    It is planned before machine code is made, which therefore need not be optimized.
    """
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return lowered.compile(options).memory_analysis()


def equations(jaxpr):
    """All equations of a program, those of its inner programs too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for parameter in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(parameter):
                yield from equations(getattr(parameter, "jaxpr", parameter))


def is_jaxpr(parameter):
    return hasattr(parameter, "eqns") or hasattr(parameter, "jaxpr")


@pytest.fixture(scope="module")
def browser():
    """Closed after each module: its event loop would disturb others."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as runner:
        try:
            found = runner.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """Opens a file, which must end without an error and without a request beyond itself."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(10_000)
    errors, requests, paths = [], [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))

    def open_file(path: Path, address: str = ""):
        paths.append(path)
        page.goto("about:blank")
        page.goto(path.as_uri() + address)
        page.wait_for_function("() => document.body.dataset.shown")
        return page

    yield open_file
    context.close()
    assert errors == []
    # The page itself, and its data: icon.
    asked = {url.partition("#")[0] for url in requests} - {"about:blank"}
    assert {url for url in asked if not url.startswith("data:")} == {of.as_uri() for of in paths}
