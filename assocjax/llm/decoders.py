"""Decoders in Hugging Face's format: `config.json` and safetensors, without torch or transformers.

There, vectors are columns: matrices of linear layers are stored [outputs, inputs], except for those
of GPT-2. GPT-NeoX and GPT-2 store queries, keys and values as one matrix.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from assocjax.arguments import check_choice, check_flag, check_integer, check_is
from assocjax.checks import check_number, check_positive
from assocjax.errors import InputError, InputTypeError
from assocjax.llm._architectures import COMPUTED
from assocjax.llm._formats import ACTIVATIONS, FORMATS, Format
from assocjax.llm.files import ModelFiles, find_model
from assocjax.llm.libraries import reason
from assocjax.llm.tensors import check_complete, read_tensors
from assocjax.models.decoder import DecoderConfig, DecoderModel
from assocjax.models.model import Sizes
from assocjax.storage import claim

WEIGHTS = "model.safetensors"

_FLAGS = ("parallel", "biases", "tied")
_CAPS = ("qkv_clip", "score_cap", "logit_cap")
_NUMBERS = ("norm_eps", "rotary_fraction", "rotary_base")
_OPTIONAL = (*_CAPS, "window")  # null in a file is None, not the default
_ROTARY = ("rope_theta", "partial_rotary_factor", "rope_type")


def load_decoder(
    name_or_path: str | os.PathLike[str], revision: str | None = None
) -> tuple[DecoderModel, dict[str, Any]]:
    """Loads a model of Hugging Face's format as a model of assocjax.

    Its `model_type` is gpt_neox (Pythia), llama (SmolLM2, tinyllamas), gpt2, qwen2 (also Qwen2.5),
    mistral, gemma2, olmo, olmo2 or phi.

    Args:
        name_or_path: A folder with `config.json` and weights in safetensors (one file, or several
            with their index), or a model of the hub: see `assocjax.llm.files`.
        revision: The subfolder, or the branch or commit on the hub.

    Returns:
        The model, and its weights in float32: a nested dict of NumPy arrays.

    Raises:
        InputError: If there is no such model, a field of its configuration is missing or not
            supported, or weights are in another format, corrupt, missing, superfluous, or of
            another shape. The error is one line that names the file.

    Cost: reading the weights once; eight bytes of memory for each.
    """
    files = find_model(name_or_path, revision)
    if not files.weights[0].endswith(".safetensors"):
        raise InputError(
            f"model: the weights {files.weights[0]} in {str(files.folder)!r} are not in safetensors"
        )
    config, form = _read_config(files.folder / "config.json")
    return DecoderModel(form.name, config), _read_params(files, config, form)


def save_decoder(
    folder: str | os.PathLike[str],
    model: DecoderModel,
    params: dict[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Saves a decoder as a folder that `load_decoder` and transformers' AutoModelForCausalLM read.

    Args:
        folder: The folder; without a tokenizer.
        model: A decoder of the architecture of a family that `load_decoder` reads. If several have
            it (a Mistral without a sliding window is a Llama), it is saved as the first of them.
        params: Its weights, saved in float32.
        overwrite: Replace another model that assocjax wrote there.

    Raises:
        InputError: If none of these families has the architecture, or the folder cannot be written:
            see `storage.claim`.
        InputTypeError: If `model` is no decoder.
    """
    check_is("model", model, DecoderModel)
    config = model.decoder(params).config
    digest = hashlib.sha256(json.dumps(_write_config(config)).encode())
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf, np.float32).data)
    identity = {"sha256": digest.hexdigest()}
    with claim(folder, "decoder", identity, result=WEIGHTS, overwrite=overwrite) as claimed:
        if not claimed.complete:
            for name, write in files_of(config, params).items():
                with claimed.file(name) as part:
                    write(part)
            claimed.finish()


def files_of(config: DecoderConfig, params: dict[str, Any]) -> dict[str, Callable[[Path], object]]:
    """Name of each file of a saved decoder -> a function that writes it to a path.

    Raises:
        InputError: If no family has the architecture.
    """
    text = json.dumps(_write_config(config), indent=1) + "\n"
    return {
        "config.json": lambda path: path.write_text(text, "utf-8"),
        WEIGHTS: lambda path: save_file(_tensors(config, params), path, {"format": "pt"}),
    }


# Configurations


def _read_config(path: Path) -> tuple[DecoderConfig, Format]:
    try:
        raw = json.loads(path.read_text("utf-8"))
        kind = raw.get("model_type")
        if raw.get("rope_scaling") or raw.get("rope_parameters"):
            raw |= raw.get("rope_scaling") or raw["rope_parameters"]
            raw["rope_type"] = raw.get("rope_type", raw.get("type"))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"model: {str(path)!r} is no configuration ({reason(error)})") from None
    try:
        form = FORMATS[check_choice("model_type", kind, FORMATS)]
        values = {ours: _field(raw, ours, *where) for ours, where in form.fields.items()}
        if values["mlp_width"] is None:
            values["mlp_width"] = 4 * values["width"]
        if values.get("head_width") == values["width"] // values["num_heads"]:
            values["head_width"] = None
        config = DecoderConfig(**values, **form.fixed)
        for name, expected in form.implied(config).items():
            if raw.get(name) not in (None, expected):
                raise InputError(f"{name} must be {expected!r}; got {raw[name]!r}")
    except (InputError, InputTypeError) as error:
        raise InputError(f"model: {str(path)!r}: {error}") from None
    return config, form


def _field(raw: dict[str, Any], ours: str, names: tuple[str, ...], default: Any) -> Any:
    """A field of `config.json`, checked."""
    name = next((name for name in names if raw.get(name) is not None), names[0])
    value = raw.get(name)
    if value is None and name in raw and ours in _OPTIONAL:
        return None
    if value is None:
        if default is ...:
            raise InputError(f"{name} is missing")
        return default if ours != "activation" else ACTIVATIONS[default]
    if ours == "activation":
        return ACTIVATIONS[check_choice(name, value, ACTIVATIONS)]
    if ours in _FLAGS:
        return check_flag(name, value)
    if ours in _CAPS:
        return check_positive(name, value)
    if ours in _NUMBERS:
        return check_number(name, value, minimum=0)
    return check_integer(name, value, minimum=1)


def _write_config(config: DecoderConfig) -> dict[str, Any]:
    """The content of `config.json`."""
    kind, form = _format_of(config)
    values = {names[0]: getattr(config, ours) for ours, (names, _) in form.fields.items()}
    activations = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    values[form.fields["activation"][0][0]] = activations[config.activation]
    for name, value in (("num_kv_heads", config.kv_heads), ("head_width", config.head_size)):
        if name in form.fields:
            values[form.fields[name][0][0]] = value
    values |= form.implied(config)
    if rotary := {name: values.pop(name) for name in _ROTARY if name in values}:
        values["rope_parameters"] = rotary
    return {
        "architectures": [form.architecture],
        "model_type": kind,
        "dtype": "float32",
        "bos_token_id": 0,
        "eos_token_id": 0,
        **values,
    }


def _format_of(config: DecoderConfig) -> tuple[str, Format]:
    """The family of an architecture, with its `model_type`."""
    for kind, form in FORMATS.items():
        stored = {ours: getattr(config, ours) for ours in form.fields}
        if DecoderConfig(**stored, **form.fixed) == config:
            return kind, form
    raise InputError(
        f"model: none of {', '.join(map(repr, FORMATS))} has this architecture: {config}"
    )


# Weights


def _layout(config: DecoderConfig, form: Format) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    """Path of each weight in params, its name in files, and whether it is stored transposed.

    The paths "query_key_value" and "query_key_value_bias" stand for three weights each.
    """
    modules: list[tuple[tuple[str, ...], str]]
    modules = [((ours,), theirs) for ours, theirs in form.outside.items()]
    for i in range(config.num_layers):
        for ours, theirs in form.inside.items():
            modules.append(((f"blocks_{i}", ours), f"{form.layer}.{i}.{theirs}"))
    for path, theirs in modules:
        *above, ours = path
        if ours.endswith("norm"):
            yield (*path, "gain"), f"{theirs}.weight", False
            if config.norm == "layer":
                yield (*path, "bias"), f"{theirs}.bias", False
        elif above:
            yield path, f"{theirs}.weight", form.columns
            if config.has_bias(ours):
                yield (*above, f"{ours}_bias"), f"{theirs}.bias", False
        elif not (ours == "unembedding" and config.tied):
            yield path, f"{theirs}.weight", ours == "unembedding"
        if ours == "unembedding" and config.output_bias:
            yield ("unembedding_bias",), f"{theirs}.bias", False


def _parts(path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The weights that a path of `_layout` stands for."""
    *above, last = path
    if not last.startswith("query_key_value"):
        return [path]
    bias = last.removeprefix("query_key_value")
    return [(*above, f"{name}{bias}") for name in ("query", "key", "value")]


def _read_params(files: ModelFiles, config: DecoderConfig, form: Format) -> dict[str, Any]:
    found = {
        name: tensor for name, tensor in read_tensors(files, "flax") if not name.endswith(COMPUTED)
    }
    head = f"{form.outside['unembedding']}.weight"
    if not any(name.startswith(form.prefix) for name in found):
        found = {name if name == head else form.prefix + name: found[name] for name in found}
    if config.tied:
        found.pop(head, None)
    if config.num_layers > len(found):
        raise InputError(
            f"model: the configuration in {str(files.folder)!r} is of {config.num_layers:,} layers,"
            f" far more than the {len(found):,} weights of {', '.join(files.weights)}"
        )
    sizes = Sizes(config.vocab_size, config.seq_len, config.num_layers)
    shapes = DecoderModel(form.name, config).shapes(sizes)
    expected, params = {}, jax.tree.map(lambda leaf: None, shapes)
    layout = list(_layout(config, form))
    for path, name, transposed in layout:
        *rows, _ = _at(shapes, _parts(path)[0]).shape
        shape = *rows, sum(_at(shapes, part).shape[-1] for part in _parts(path))
        expected[name] = shape[::-1] if transposed else shape
    check_complete(
        files,
        lacking=[name for name in expected if name not in found],
        mismatched=[n for n, shape in expected.items() if n in found and found[n].shape != shape],
        superfluous=[name for name in found if name not in expected],
    )
    for path, name, transposed in layout:
        whole = np.asarray(found[name]).astype(np.float32)
        whole = whole.T if transposed else whole
        parts = _parts(path)
        if form.name == "neox" and parts[1:]:  # by head, and within it query, key and value
            by_head = whole.reshape(*whole.shape[:-1], config.num_heads, 3, config.head_size)
            whole = np.moveaxis(by_head, -2, -3).reshape(whole.shape)
        for part, array in zip(parts, np.split(whole, len(parts), axis=-1), strict=True):
            _at(params, part[:-1])[part[-1]] = np.ascontiguousarray(array)
    return params


def _tensors(config: DecoderConfig, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weights by their names in files; the inverse of `_read_params`."""
    _, form = _format_of(config)
    tensors = {}
    for path, name, transposed in _layout(config, form):
        parts = [np.asarray(_at(params, part), np.float32) for part in _parts(path)]
        whole = np.concatenate(parts, axis=-1)
        if form.name == "neox" and parts[1:]:
            by_part = whole.reshape(*whole.shape[:-1], 3, config.num_heads, config.head_size)
            whole = np.moveaxis(by_part, -3, -2).reshape(whole.shape)
        tensors[name] = np.ascontiguousarray(whole.T if transposed else whole)
    return tensors


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree
