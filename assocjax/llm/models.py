"""Loading language models in float32, with a one-line error if that is impossible."""

import copy
import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from assocjax.arguments import check_string
from assocjax.corpora.tokenizers import without_dropout
from assocjax.errors import InputError
from assocjax.llm._architectures import COMPUTED, FAMILIES
from assocjax.llm.files import SINGLE, ModelFiles, find_model, hash_files
from assocjax.llm.libraries import quiet, reason, require
from assocjax.llm.tensors import check_complete, read_tensors

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Bounds for plausibility checks: a layer has more bytes, and a byte holds fewer weights.
_LAYER_BYTES, _WEIGHTS_A_BYTE = 100, 100


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model and its origin.

    Attributes:
        name: Its name on the hub, or that of its folder or file.
        revision: The requested revision.
        family: Its `model_type`, such as `"gpt_neox"`: see `assocjax.llm._architectures`.
        num_layers: Number of layers.
        num_heads: Number of query heads of a layer.
        width: Dimension of the residual stream, d.
        vocab_size: Rows of the embedding; the last ones of Pythia's are padding without a token.
        tokenizer: Its transformers tokeniser; None if there is none with the weights.
        file_hashes: Name of each weight file -> SHA-256.
        module: The model of transformers, in float32, without dropout or gradients.
    """

    name: str
    revision: str | None
    family: str
    num_layers: int
    num_heads: int
    width: int
    vocab_size: int
    tokenizer: Any
    file_hashes: Mapping[str, str]
    module: Any

    def tokenize(self, text: str) -> np.ndarray:
        """The text as token ids, int32 [T], without special tokens: none is added, and the name of
        one in the text ("<|endoftext|>") is tokenised like other text.

        Raises:
            InputError: If the model has no tokeniser.
        """
        if self.tokenizer is None:
            raise InputError(f"tokenizer: model {self.name!r} has none")
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return np.array(self.tokenizer(text, **options)["input_ids"], np.int32)


def load_model(
    name_or_path: str | os.PathLike[str],
    revision: str | None = None,
    *,
    device: str | None = None,
) -> LanguageModel:
    """Loads a language model with transformers.

    Its `model_type` is gpt_neox (Pythia), llama (SmolLM2, tinyllamas), gpt2, qwen2 (also Qwen2.5),
    mistral, gemma2, olmo, olmo2 or phi.

    Args:
        name_or_path: A folder with weights in safetensors or PyTorch's format, a folder with such a
            subfolder for each revision, a `.gguf` file, or `owner/name` on the Hugging Face hub.
        revision: The subfolder, or the branch or commit on the hub (Pythia: `step16`).
        device: The device of torch; by default a CUDA device, if there is one.

    Returns:
        The model. Weights that are stored in another precision, or quantised, become float32.

    Raises:
        InputError: If there is no such model or revision, the hub cannot be reached, the
            architecture is not supported, weights are corrupt, truncated, missing or superfluous
            for the configuration, the tokeniser has tokens without an embedding, or the extra `llm`
            is not installed. The error is one line.

    Cost: reading the weights twice, once for their hashes; four bytes of memory for each weight.
    """
    for library in ("torch", "transformers"):
        require(library)
    return load_files(find_model(name_or_path, revision), device=device)


def load_files(files: ModelFiles, *, device: str | None = None) -> LanguageModel:
    """As `load_model`, from the files that `find_model` has found."""
    where = _where(device)
    config = _config(files)
    module = _load_module(files, config).to(where)
    module.eval().requires_grad_(False)
    tokenizer = load_tokenizer(files)
    vocab_size = module.get_input_embeddings().weight.shape[0]
    if tokenizer is not None:
        largest = max(tokenizer.get_vocab().values(), default=-1)
        if largest >= vocab_size:
            raise InputError(
                f"tokenizer: its tokens go up to id {largest}, but model {str(files.folder)!r} has "
                f"embeddings of {vocab_size} tokens only: it is another model's"
            )
    return LanguageModel(
        name=files.name,
        revision=files.revision,
        family=config.model_type,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        width=config.hidden_size,
        vocab_size=vocab_size,
        tokenizer=tokenizer,
        file_hashes=hash_files(files),
        module=module,
    )


def _where(device: str | None) -> Any:
    torch = require("torch")
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=check_string("device", device)).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: torch cannot use {device!r} ({reason(error)})") from None


def _source(files: ModelFiles) -> dict[str, Any]:
    """Arguments of every `from_pretrained`, which must not contact the hub again."""
    gguf = {"gguf_file": files.weights[0]} if files.is_gguf else {}
    path = str(files.folder)
    return {"pretrained_model_name_or_path": path, "local_files_only": True, **gguf}


def _config(files: ModelFiles) -> Any:
    if files.is_gguf:
        for library in ("gguf", "accelerate"):  # used by transformers
            require(library)
        path = files.folder / files.weights[0]
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise InputError(f"model: {str(path)!r} is no GGUF file")
    else:
        path = files.folder / "config.json"
        model_type(files)
    try:
        with quiet():
            config = require("transformers").AutoConfig.from_pretrained(**_source(files))
    except Exception as error:  # of many kinds
        cut = ", or is cut short" if files.is_gguf else ""
        raise InputError(f"model: {str(path)!r} cannot be read{cut} ({reason(error)})") from None
    _check_family(config.model_type, str(path))
    return config


def model_type(files: ModelFiles) -> str:
    """The `model_type` in a model's configuration, one of `FAMILIES`.

    Raises:
        InputError: If it is another, or the file cannot be read.
    """
    path = files.folder / "config.json"
    try:
        kind = json.loads(path.read_text("utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"model: {str(path)!r} is no configuration ({reason(error)})") from None
    _check_family(kind, str(path))
    return kind


def _check_family(kind: Any, path: str) -> None:
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(
            f"model: {path!r} has the unsupported architecture {kind!r}; expected one of "
            f"{', '.join(map(repr, FAMILIES))}"
        )


def _load_module(files: ModelFiles, config: Any) -> Any:
    torch, transformers = require("torch"), require("transformers")
    source = _source(files)
    if not files.is_gguf:
        source["use_safetensors"] = files.weights[0].endswith(".safetensors")
    try:
        with quiet(stderr=files.is_gguf):
            _check_size(files, config)
            if any((files.folder / file).exists() for file in SINGLE if file not in files.weights):
                # transformers would read that file, and not the shards of the index.
                tensors = dict(read_tensors(files))
                source = {"pretrained_model_name_or_path": None, "state_dict": tensors}
            module, report = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
                **source,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # of many kinds
        for _ in read_tensors(files):  # raises an error that names the unreadable file
            pass
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"model: the weights {', '.join(files.weights)} in {str(files.folder)!r} cannot be "
            f"loaded, or are cut short ({reason(error)})"
        ) from None
    # transformers fills missing or mismatched weights at random, and ignores superfluous ones.
    check_complete(
        files,
        lacking=list(report["missing_keys"]),
        mismatched=[name for name, *_ in report["mismatched_keys"]],
        superfluous=[name for name in report["unexpected_keys"] if not name.endswith(COMPUTED)],
    )
    return module


def _check_size(files: ModelFiles, config: Any) -> None:
    """Checks that the files can hold such a model, before memory for it is allocated."""
    size = sum((files.folder / name).stat().st_size for name in files.weights)
    number = 0
    if config.num_hidden_layers <= size / _LAYER_BYTES:
        with require("torch").device("meta"):  # shapes only
            model = require("transformers").AutoModelForCausalLM.from_config(copy.deepcopy(config))
        number = sum(weight.numel() for weight in model.parameters())
        if number <= _WEIGHTS_A_BYTE * size:
            return
    what = f"{number:,} weights" if number else f"{config.num_hidden_layers:,} layers"
    raise InputError(
        f"model: the configuration in {str(files.folder)!r} is of {what}, far more than the "
        f"{size:,} bytes of {', '.join(files.weights)} can hold"
    )


def load_tokenizer(files: ModelFiles) -> Any:
    """A model's transformers tokeniser; None if there is none with its weights.

    The dropout of BPE, which tokenises at random, is switched off.

    Raises:
        InputError: If it cannot be read.
    """
    if not files.is_gguf and not any((files.folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    try:
        with quiet(stderr=files.is_gguf):
            tokenizer = require("transformers").AutoTokenizer.from_pretrained(**_source(files))
    except Exception as error:  # of many kinds
        raise InputError(
            f"tokenizer: that of {str(files.folder)!r} cannot be read ({reason(error)})"
        ) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        without_dropout(backend)
    return tokenizer
