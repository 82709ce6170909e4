"""Any flax module, of linen or nnx, as a `Model`."""

import re
from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from assocjax.errors import InputError, InputTypeError
from assocjax.models.attention_only import count_valid, position_nll
from assocjax.models.model import Model, Sizes, Weights

_NUMBERED = re.compile(r"(.*?)_?(\d+)")


class FlaxModel(Model):
    """A flax module as a `Model`: see `flax_model`."""

    def __init__(self, module: Any, name: str):
        self._module, self.name = module, name

    def init(self, key, sizes: Sizes, scale, dtype=None) -> dict[str, Any]:
        if isinstance(self._module, linen.Module):
            variables = self._module.init(key, jnp.zeros((1, sizes.seq_len), jnp.int32))
            others = variables.keys() - {"params"}
            if others:
                raise InputError(f"module must have params only; it also has {sorted(others)}")
            params = variables["params"]
        else:
            params = nnx.to_pure_dict(nnx.state(self._module(nnx.Rngs(key)), nnx.Param))
        dtype = jnp.result_type(float) if dtype is None else dtype
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        self._check(params, sizes)
        return jax.tree.map(lambda leaf: leaf * scale if leaf.ndim > 1 else leaf, params)

    def logits(self, params: dict[str, Any], tokens) -> jax.Array:
        """Next-token logits [N,T,V] of inputs [N,T]."""
        if isinstance(self._module, linen.Module):
            return self._module.apply({"params": params}, tokens)  # type: ignore[return-value]
        module = self._module(nnx.Rngs(0))  # these weights are replaced, so XLA omits them
        state = nnx.state(module, nnx.Param)
        nnx.replace_by_pure_dict(state, params)
        nnx.update(module, state)
        return module(tokens)

    def loss(self, params, tokens, mask):
        logits = self.logits(params, tokens[:, :-1])
        nll = jax.vmap(position_nll)(logits, tokens[:, 1:], mask)
        return jnp.sum(nll) / count_valid(mask, nll.dtype)

    def weights(self, params: dict[str, Any]) -> Weights:
        leaves = {
            tuple(str(part.key) for part in path): leaf  # type: ignore[attr-defined]
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        }
        groups: dict[tuple[str, ...], dict[int, tuple[str, ...]]] = defaultdict(dict)
        for path in leaves:
            for i, part in enumerate(path):
                if numbered := _NUMBERED.fullmatch(part):
                    name, number = numbered.groups()
                    groups[(*path[:i], *[name] * bool(name), *path[i + 1 :])][int(number)] = path
                    break
        layers = {
            name: [of[number] for number in range(len(of))]
            for name, of in groups.items()
            if set(of) == set(range(len(of)))
            and len({leaves[path].shape for path in of.values()}) == 1
        }
        L = max(map(len, layers.values()), default=1)
        stacked = {paths[0]: (name, paths) for name, paths in layers.items() if len(paths) == L > 1}
        grouped = {path for _, paths in stacked.values() for path in paths}
        found = {}
        for path, leaf in leaves.items():
            if path in stacked:
                name, paths = stacked[path]
                found["/".join(name)] = jnp.stack([leaves[path] for path in paths])
            elif path not in grouped:
                found["/".join(path)] = leaf[None]
        return found

    def _check(self, params: dict[str, Any], sizes: Sizes) -> None:
        tokens = jax.ShapeDtypeStruct((1, sizes.seq_len), jnp.int32)
        shape = jax.eval_shape(self.logits, params, tokens).shape
        if shape != (1, sizes.seq_len, sizes.vocab_size):
            raise InputError(
                f"model {self.name!r} must map tokens [N, T] to logits [N, T, V], here with "
                f"V={sizes.vocab_size}; of tokens {tokens.shape} it makes {shape}"
            )
        L = max(len(weight) for weight in jax.eval_shape(self.weights, params).values())
        if sizes.num_layers != L:
            raise InputError(
                f"num_layers must be {L}, as in the module of model {self.name!r}; "
                f"got {sizes.num_layers}"
            )


def flax_model(module: Any, name: str | None = None) -> FlaxModel:
    """A flax module as a model that can be trained, swept and compared.

        sweep(data, model=flax_model(GPT(vocab_size=256)), num_layers=2, theories=[], ...)

    Args:
      module: a linen module, or a function that makes an nnx module of `nnx.Rngs`. Called with
        tokens int32 [N, T], it returns logits [N, T, V] without random numbers; its only state are
        its params. It must be causal: the logits at a position depend on no later token.
      name: names the model in results; by default the module's class or the function. Changes of
        the module that the name does not tell are not noticed when work is resumed.

    Returns:
      A `Model` whose params are a dict of the module's params. At the start these are the
      module's own, with weights of two or more axes multiplied by the scale, 1 by default. The
      names of its weights are their paths. Weights whose paths differ in one number only, such as
      `Block_0/Dense_0/kernel` and `Block_1/Dense_0/kernel`, are the layers of one weight,
      `Block/Dense_0/kernel`, if their shapes are equal; the first number of a path counts.

    Raises:
      InputTypeError: `module` is neither.
      InputError: at the start, if the module has other state, other logits or another number of
        layers than asked for.
    """
    is_class = isinstance(module, type) and not issubclass(module, nnx.Module)
    if not isinstance(module, linen.Module) and (
        is_class or isinstance(module, nnx.Module) or not callable(module)
    ):
        raise InputTypeError(
            "module must be a linen module or a function of nnx.Rngs that makes an nnx module; "
            f"got {module!r}"
        )
    return FlaxModel(module, name or getattr(module, "__name__", type(module).__name__))
