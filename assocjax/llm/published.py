"""Published recipes of training by name, and recipes in files.

Numbers are those of the configuration files that a recipe's `source` names. What such a file does
not say for certain is left out.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from assocjax.arguments import check_is
from assocjax.errors import InputError, InputTypeError
from assocjax.llm.configuration import PretrainConfig
from assocjax.llm.recipe import Recipe, pretrain_recipe

_PYTHIA_RATES = {
    "14m": 1e-3,
    "31m": 1e-3,
    "70m": 1e-3,
    "160m": 6e-4,
    "410m": 3e-4,
    "1b": 2.5e-4,
    "1.4b": 2e-4,
    "2.8b": 1.6e-4,
    "6.9b": 1.2e-4,
    "12b": 1.2e-4,
}
_SMOLLM2 = {  # learning rate, steps, last updates in which it falls, sequences in a batch
    "135m": (3e-3, 2_000_000, 400_000, 512),
    "360m": (3e-3, 2_600_000, 520_000, 768),
    "1.7b": (5e-4, 5_240_000, 524_000, 1024),
}
_SUFFIXES = (".json", ".yaml", ".yml")


def _pythia(size: str, name: str, source: str, seeds: str) -> Recipe:
    return Recipe(
        name=name,
        source=source,
        learning_rate=_PYTHIA_RATES[size],
        steps=143_000,
        warmup_steps=1430,
        first_update=0,
        schedule="cosine",
        last_rate=0.1,
        beta1=0.9,
        beta2=0.95,
        eps=1e-8,
        weight_decay=0.1,
        decayed="matrices",
        clip=1.0,
        batch_size=1024,
        seq_len=2048,
        seeds=seeds,
        note=(
            "Weights are stored in float16. The code of the time let the cosine fall to 0, and "
            "the rate not below its last: after the warmup, rates differ from these by up to 9 % "
            "of the largest, late in training. Updates that overflowed in float16 were skipped; "
            "which ones is not published."
        ),
    )


def _registry() -> dict[str, Recipe]:
    tiny = pretrain_recipe(PretrainConfig())
    found = [dataclasses.replace(tiny, note="The default settings of the command.")]
    for size in _PYTHIA_RATES:
        file = f"models/{size.upper()}/pythia-{size}.yml of github.com/EleutherAI/pythia"
        found.append(_pythia(size, f"pythia-{size}", f"arXiv 2304.01373; {file}", "1234"))
    for size in ("14m", "31m", "70m", "160m", "410m"):
        seeds = f"pythia-{size}-seed1 to -seed9 (other starts and orders of batches)"
        if size == "160m":
            seeds += "; pythia-160m-data-seed1 to 3 (one start, other orders of batches)"
            seeds += "; pythia-160m-weight-seed1 to 3 (other starts)"
        source = "arXiv 2503.09543, with Pythia's recipe (arXiv 2304.01373) of the size"
        found.append(_pythia(size, f"polypythias-{size}", source, seeds))
    for size, (rate, steps, decay, batch) in _SMOLLM2.items():
        file = {"1.7b": "1B"}.get(size, size.upper())
        found.append(
            Recipe(
                name=f"smollm2-{size}",
                source=(
                    "arXiv 2502.02737; pre-training/smollm2/config_smollm2_"
                    f"{file}.yaml of github.com/huggingface/smollm"
                ),
                learning_rate=rate,
                steps=steps,
                warmup_steps=2000,
                first_update=0,
                schedule="linear",
                decay_steps=decay,
                last_rate=0.0,
                beta1=0.9,
                beta2=0.95,
                eps=1e-8,
                weight_decay=0.01,
                clip=1.0,
                batch_size=batch,
                seq_len=2048,
                note="Which weights decay is not in the file. No checkpoint of step 0 is hosted.",
            )
        )
    found.append(
        Recipe(
            name="olmo2-7b",
            source=(
                "arXiv 2501.00656; configs/official-1124/OLMo2-7B-stage1.yaml of "
                "github.com/allenai/OLMo"
            ),
            learning_rate=3e-4,
            steps=1_192_093,  # 5e12 tokens
            warmup_steps=2000,
            first_update=1,
            schedule="cosine",
            last_rate=0.1,
            beta1=0.9,
            beta2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            decayed="all but the embedding",
            clip=1.0,
            batch_size=1024,
            seq_len=4096,
            seeds="6198",
            note=(
                "The first stage, which was stopped before the end of its schedule. Its loss also "
                "had 1e-5 times the squared logarithm of the softmax's denominator, which twins "
                "do not have."
            ),
        )
    )
    return {recipe.name: recipe for recipe in found}


RECIPES: Mapping[str, Recipe] = MappingProxyType(_registry())
"""Recipes by name."""


def find_recipe(recipe: str | os.PathLike[str] | Recipe) -> Recipe:
    """A recipe by name, or from a file.

    Args:
        recipe: A name of `RECIPES`; a .json, .yaml or .yml file that maps the names of the
            attributes of `Recipe` to values, or has such a mapping under the key "recipe", as
            `pretraining.json` of pretrain-tiny; or a `Recipe`. A file may leave out what is None or
            empty by default.

    Raises:
        InputError, InputTypeError: If there is neither such a name nor such a file, or a key of the
            file is missing, unknown or has a value that cannot be used; the error names it.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str | os.PathLike):
        raise InputTypeError(f"recipe must be a name or a file; got {recipe!r}")
    name = os.fspath(recipe)
    if name in RECIPES:
        return RECIPES[name]
    if not name.lower().endswith(_SUFFIXES):
        raise InputError(
            f"recipe must be one of {', '.join(RECIPES)}, or a {', '.join(_SUFFIXES)} file; "
            f"got {name!r}"
        )
    try:
        return _from(_read(Path(name).expanduser()))
    except (InputError, InputTypeError) as error:
        raise InputError(f"recipe: {name!r}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        # YAML takes long for large files of JSON.
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"it cannot be read ({str(error) or type(error).__name__})") from None
    if isinstance(content, dict) and isinstance(content.get("recipe"), dict):
        content = content["recipe"]
    check_is("its content", content, dict)
    return content


def _from(content: dict[str, Any]) -> Recipe:
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    if unknown := [key for key in content if key not in fields]:
        raise InputError(f"expected the keys {', '.join(fields)}; got {unknown[0]!r}")
    required = [n for n, of in fields.items() if of.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in content]:
        raise InputError(f"expected the keys {', '.join(required)}; {missing[0]!r} is missing")
    return Recipe(**{key: _number(fields[key], value) for key, value in content.items()})


def _number(field: dataclasses.Field, value: Any) -> Any:
    """YAML takes a number such as 1e-3 for text."""
    if "float" in str(field.type) and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    return value
