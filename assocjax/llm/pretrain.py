"""Pretraining of a small language model, with a folder for every checkpoint.

It is for machines where no model can be downloaded. Pythia's checkpoints `step0`, `step1`, `step2`,
`step4`, ... are revisions on the hub; here they are folders, which `load_model(out, "step16")` and
transformers can read.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from assocjax.corpora import Documents, train_bpe
from assocjax.errors import InputError
from assocjax.llm.configuration import PretrainConfig
from assocjax.llm.decoders import files_of
from assocjax.llm.files import find_model, hash_files
from assocjax.llm.recipe import initial_model, make_update, pretrain_recipe, revisions
from assocjax.models.decoder import DecoderConfig
from assocjax.storage import Folder, claim, deferred_interrupts, results
from assocjax.storage.checkpoints import Checkpoints

END_OF_TEXT = "<|endoftext|>"
"""Token 0, after every document; in a text, these characters are tokenised like other text."""

RECORD = "pretraining.json"
_SAVE_EVERY = 16


def pretrain_tiny(
    documents: Documents,
    out: str | os.PathLike[str],
    config: PretrainConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Trains a small language model on a corpus, or resumes an interrupted training; in JAX.

    Args:
        documents: A corpus, from `assocjax.corpora.read_documents`.
        out: A folder for `step0`, `step1`, ... (weights as safetensors, configuration,
            tokenizer), `pretraining.json` and, until the end, the state from which to resume.
        config: See `PretrainConfig`.
        overwrite: Replace another model in the folder, or train this one again.
        progress: Called with (steps done, steps in total).

    Returns:
        The contents of `pretraining.json`: configuration, recipe (`find_recipe` reads it), corpus
        with its hash, versions, device, the hashes of each revision's weights, and for every step
        the loss of its batch before the update, in nats.

    Raises:
        InputError: If an argument is out of range, the corpus is shorter than a batch, the folder
            has another configuration (the error names the difference), holds files that assocjax
            did not write, is being written by another process or cannot be written, or the loss is
            no longer finite.
        KeyboardInterrupt: After Ctrl-C, when the current step is saved; its text gives the number
            of saved steps.

    On one CPU the same arguments and versions give the same bits, interrupted or not. The order of
    sequences is a function of seed and step, and there is no dropout, so that the state consists of
    the weights and AdamW's moments only.

    Cost: 6 (12 L d^2 + V d) operations for each token. A revision takes 4 bytes for each weight on
    disk.
    """
    config = config or PretrainConfig()
    configuration = dataclasses.asdict(config) | {
        "corpus": documents.name,
        "corpus_sha256": documents.sha256,
    }
    libraries = (*results.DECIDING, "flax", "tokenizers")
    identity = configuration | {name: importlib.metadata.version(name) for name in libraries}
    with claim(out, "pretrain-tiny", identity, result=RECORD, overwrite=overwrite) as folder:
        if not folder.complete:
            corpus = tokenize_corpus(documents, config)  # refuses a short one before it writes
            saved = Checkpoints(folder, identity)
            try:
                _train(documents, *corpus, folder, saved, config, configuration, progress)
            finally:
                saved.close()
            folder.finish()
        return json.loads((folder.path / RECORD).read_text("utf-8"))


def _train(
    documents: Documents,
    tokenizer: Any,
    sequences: np.ndarray,
    folder: Folder,
    saved: Checkpoints,
    config: PretrainConfig,
    configuration: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Trains from the last saved state to the end."""
    vocab_size = tokenizer.get_vocab_size()
    model, params = initial_model(config, vocab_size)
    recipe = pretrain_recipe(config)
    optimizer = recipe.optimizer()
    update = make_update(model, optimizer)
    carry, losses = (params, optimizer.init(params)), []
    if done := saved.done():
        carry, observed = saved.load(carry)
        losses = observed["losses"].tolist()
    header = {
        "config": configuration,
        "recipe": dataclasses.asdict(recipe),
        "corpus": {
            "name": documents.name,
            "sha256": documents.sha256,
            "documents": len(documents.documents),
            "sequences": len(sequences),
            "vocab_size": vocab_size,
        },
        "versions": results.versions() | {"tokenizers": importlib.metadata.version("tokenizers")},
        "device": jax.devices()[0].device_kind,
        "complete": False,
    }
    kept = revisions(config.steps)

    def save() -> None:
        """Saves the state last, so that the revision of its step is complete even after a kill."""
        if done in kept:
            _save_revision(folder, done, model.decoder(carry[0]).config, carry[0], tokenizer)
        results.save_json_to(folder, RECORD, header | {"losses": losses})
        if done:
            saved.save(done, carry, {"losses": np.array(losses)})

    if not done:
        save()
    with deferred_interrupts() as interrupts:
        while done < config.steps:
            if progress is not None:
                progress(done, config.steps)
            *carry, loss = update(*carry, sequences[_order(config, len(sequences), done)])
            done += 1
            losses.append(float(loss))
            if not math.isfinite(losses[-1]):
                raise InputError(
                    f"learning_rate: the loss of step {done} is {losses[-1]}; try a smaller"
                )
            if done in kept or done % _SAVE_EVERY == 0 or interrupts.count:
                save()
            if interrupts.count:
                raise KeyboardInterrupt(
                    f"stopped; {done} of {config.steps} steps are saved in {folder.path}: run the "
                    "same again to resume"
                )
    if progress is not None:
        progress(done, config.steps)
    record = header | {
        "complete": True,
        "revisions": {f"step{s}": hash_files(find_model(folder.path, f"step{s}")) for s in kept},
        "losses": losses,
    }
    results.save_json_to(folder, RECORD, record)


def tokenize_corpus(documents: Documents, config: PretrainConfig) -> tuple[Any, np.ndarray]:
    """The tokeniser, and sequences [N, T+1], int32, of all documents one after another."""
    tokenizer = train_bpe(documents.documents, config.vocab_size, special_tokens=[END_OF_TEXT])
    tokenizer.encode_special_tokens = True  # names of special tokens in a text are ordinary text
    end = np.array([tokenizer.token_to_id(END_OF_TEXT)])
    encodings = tokenizer.encode_batch_fast(documents.documents, add_special_tokens=False)
    stream = np.concatenate([part for e in encodings for part in (np.array(e.ids, int), end)])
    T = config.seq_len
    number = (len(stream) - 1) // T
    if number < config.batch_size:
        raise InputError(
            f"corpus: {documents.name} gives {number} sequences of {T} positions, fewer than the "
            f"{config.batch_size} of a batch (batch_size)"
        )
    starts = T * np.arange(number)
    return tokenizer, stream[starts[:, None] + np.arange(T + 1)].astype(np.int32)


def _order(config: PretrainConfig, number: int, step: int) -> np.ndarray:
    """The sequences of a batch: every epoch has its own order, divided into full batches."""
    epoch, at = divmod(step, number // config.batch_size)
    seed = config.seed if config.order_seed is None else config.order_seed
    order = np.random.default_rng([seed, epoch]).permutation(number)
    return order[at * config.batch_size : (at + 1) * config.batch_size]


def _save_revision(
    folder: Folder, step: int, config: DecoderConfig, params: dict[str, Any], tokenizer: Any
) -> None:
    """Saves a revision atomically, as transformers does."""
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    with folder.directory(f"step{step}") as part:
        for name, write in files_of(config, params).items():
            write(part / name)
        tokenizer.save(str(part / "tokenizer.json"))
        (part / "tokenizer_config.json").write_text(json.dumps(described, indent=1) + "\n", "utf-8")
