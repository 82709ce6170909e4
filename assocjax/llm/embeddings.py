"""A model's embedding, read from its weights without loading the model.

For grids of hundreds of checkpoints: of sharded weights, only the shard with the embedding is read.
"""

import numpy as np

from assocjax.errors import InputError
from assocjax.llm._formats import FORMATS
from assocjax.llm.files import ModelFiles, is_embedding
from assocjax.llm.models import model_type
from assocjax.llm.tensors import read_tensors


def embedding_stream(files: ModelFiles, token_ids: np.ndarray) -> np.ndarray:
    """The input of the first layer for tokens that are fed alone, at position 0.

    Args:
        files: From `find_model`, whole or with `only="embeddings"`.
        token_ids: Integers [n].

    Returns:
        float32 [n, d], as `single_token_streams(...).before[0]`: rows of the embedding, with that
        of position 0 (GPT-2) or times sqrt(d) (Gemma-2).

    Raises:
        InputError: If the architecture is not supported, weights are corrupt, or there is no
            embedding, or none of a token.

    Cost: reading the embedding; four bytes of memory for each of its entries.
    """
    form = FORMATS[model_type(files)]
    tables = dict(read_tensors(files, wanted=is_embedding))
    found = {}
    for ours in ("embedding", "positions"):
        if ours in form.outside:
            name = f"{form.outside[ours]}.weight"
            tensor = tables.get(name, tables.get(name.removeprefix(form.prefix)))
            if tensor is None:
                raise InputError(
                    f"model: the weights {', '.join(files.weights)} in {str(files.folder)!r} have "
                    f"no {name!r}"
                )
            found[ours] = tensor.float().numpy()
    E = found["embedding"]
    largest = int(np.max(token_ids, initial=0))
    if largest >= len(E):
        raise InputError(
            f"corpus: it has token {largest}, but model {str(files.folder)!r} has embeddings of "
            f"{len(E)} tokens only"
        )
    rows = E[token_ids]
    if "positions" in found:
        rows = rows + found["positions"][0]
    if form.fixed.get("scaled_embedding"):
        rows = rows * np.float32(np.sqrt(E.shape[1]))
    return rows
