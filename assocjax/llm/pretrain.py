"""Pretraining of a small Pythia, with a folder for every checkpoint.

It is for machines where no model can be downloaded. Pythia's checkpoints `step0`, `step1`, `step2`,
`step4`, ... are revisions on the hub; here they are folders, which `load_model(out, "step16")` and
transformers can read.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from assocjax.corpora import Documents, train_bpe
from assocjax.errors import InputError
from assocjax.llm.files import find_model, hash_files
from assocjax.llm.libraries import quiet, reason, require
from assocjax.llm.recipe import (
    PretrainConfig,
    initial_model,
    make_optimizer,
    rate_factor,
    revisions,
    update,
)
from assocjax.storage import Folder, claim, deferred_interrupts, results

END_OF_TEXT = "<|endoftext|>"
"""Token 0, after every document; in a text, these characters are tokenised like other text."""

RECORD = "pretraining.json"
_STATE = "state.pt"
_SAVE_EVERY = 16


def pretrain_tiny(
    documents: Documents,
    out: str | os.PathLike[str],
    config: PretrainConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Trains a small GPT-NeoX on a corpus, or resumes an interrupted training.

    Args:
        documents: A corpus, from `assocjax.corpora.read_documents`.
        out: A folder for `step0`, `step1`, ... (weights as safetensors, configuration,
            tokenizer), `pretraining.json` and, until the end, the state from which to resume.
        config: See `PretrainConfig`.
        overwrite: Replace another model in the folder, or train this one again.
        progress: Called with (steps done, steps in total).

    Returns:
        The contents of `pretraining.json`: configuration, corpus with its hash, versions, device,
        the hashes of each revision's weights, and for every step the loss of its batch before the
        update, in nats.

    Raises:
        InputError: If an argument is out of range, the corpus is shorter than a batch, the folder
            has another configuration (the error names the difference), holds files that assocjax
            did not write, is being written by another process or cannot be written, the loss is no
            longer finite, or the extra `llm` is not installed.
        KeyboardInterrupt: After Ctrl-C, when the current step is saved; its text gives the number
            of saved steps.

    On a CPU the same arguments, versions and number of threads give the same bits, interrupted or
    not. The order of sequences is a function of seed and step, and there is no dropout, so that the
    state consists of the weights and AdamW's moments only.

    Cost: 6 (12 L d^2 + V d) operations for each token. A revision takes 4 bytes for each weight on
    disk.
    """
    require("torch")
    require("transformers")
    config = config or PretrainConfig()
    configuration = dataclasses.asdict(config) | {
        "corpus": documents.name,
        "corpus_sha256": documents.sha256,
    }
    libraries = ("assocjax", "torch", "transformers", "tokenizers")
    decides = configuration | {name: importlib.metadata.version(name) for name in libraries}
    with claim(out, "pretrain-tiny", decides, result=RECORD, overwrite=overwrite) as folder:
        if not folder.complete:
            _train(documents, folder, config, configuration, progress)
        return json.loads((folder.path / RECORD).read_text("utf-8"))


def _train(
    documents: Documents,
    folder: Folder,
    config: PretrainConfig,
    configuration: dict[str, Any],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Trains from the last saved state to the end."""
    torch = require("torch")
    tokenizer, sequences = _tokenize(documents, config)
    vocab_size = tokenizer.get_vocab_size()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = initial_model(config, vocab_size).to(device)
    optimizer = make_optimizer(model)
    done, losses = _restore(folder, model, optimizer)
    header = {
        "config": configuration,
        "corpus": {
            "name": documents.name,
            "sha256": documents.sha256,
            "documents": len(documents.documents),
            "sequences": len(sequences),
            "vocab_size": vocab_size,
        },
        "versions": results.versions()
        | {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "device": str(device),
        "threads": torch.get_num_threads(),
        "complete": False,
    }
    kept = revisions(config.steps)

    def save() -> None:
        """Saves the state last, so that the revision of its step is complete even after a kill."""
        with _disk_errors(folder):
            if done in kept:
                _save_revision(folder, done, model, tokenizer)
            results.save_json_to(folder, RECORD, header | {"losses": losses})
            state = {"done": done, "losses": losses, "model": model.state_dict()}
            with folder.file(folder.work_name(_STATE)) as part:
                torch.save(state | {"optimizer": optimizer.state_dict()}, part)

    if not done:
        save()
    with deferred_interrupts() as interrupts:
        while done < config.steps:
            if progress is not None:
                progress(done, config.steps)
            batch = torch.from_numpy(sequences[_order(config, len(sequences), done)]).to(device)
            rate = config.learning_rate * rate_factor(done + 1, config.steps)
            loss = update(model, optimizer, batch, rate)
            done += 1
            losses.append(loss)
            if not math.isfinite(loss):
                raise InputError(f"learning_rate: the loss of step {done} is {loss}; try a smaller")
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
    folder.finish()


def _tokenize(documents: Documents, config: PretrainConfig) -> tuple[Any, np.ndarray]:
    """The tokeniser, and sequences [N, T+1], int64, of all documents one after another."""
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
    return tokenizer, stream[starts[:, None] + np.arange(T + 1)]


def _order(config: PretrainConfig, number: int, step: int) -> np.ndarray:
    """The sequences of a batch: every epoch has its own order, divided into full batches."""
    epoch, at = divmod(step, number // config.batch_size)
    order = np.random.default_rng([config.seed, epoch]).permutation(number)
    return order[at * config.batch_size : (at + 1) * config.batch_size]


def _restore(folder: Folder, model: Any, optimizer: Any) -> tuple[int, list[float]]:
    torch = require("torch")
    if not folder.has_work(_STATE):
        return 0, []
    path = folder.path / folder.work_name(_STATE)
    try:
        # On the CPU, since the state may come from a machine with a GPU.
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return state["done"], state["losses"]
    except Exception as error:  # of many kinds
        raise InputError(
            f"out: {path} cannot be read here ({reason(error)}), though another machine or version "
            "of torch may be able to; choose another folder to start again"
        ) from None


def _save_revision(folder: Folder, step: int, model: Any, tokenizer: Any) -> None:
    """Saves a revision atomically."""
    wrapped = require("transformers").PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )
    with folder.directory(f"step{step}") as part, quiet():
        model.save_pretrained(part)
        wrapped.save_pretrained(part)


@contextlib.contextmanager
def _disk_errors(folder: Folder) -> Iterator[None]:
    """Adds to errors of writing that everything saved before is intact."""
    try:
        with folder.writing():
            yield
    except (InputError, require("safetensors").SafetensorError) as error:
        raise InputError(
            f"{reason(error)}; everything saved before is intact: free some space, and run the "
            "same again to resume"
        ) from None
