"""Commands about language models: `pretrain-tiny`."""

import argparse

from assocjax.cli._terminal import progress_bar, show, show_table, show_written, status
from assocjax.storage import check_claimable


def pretrain_tiny(options: argparse.Namespace) -> None:
    """Train a small GPT-NeoX by Pythia's recipe, and keep its checkpoints as folders."""
    import dataclasses

    from assocjax import llm
    from assocjax.corpora import read_documents
    from assocjax.llm.libraries import require

    for library in ("torch", "transformers"):  # before the corpus is read
        require(library)
    check_claimable(options.out, "pretrain-tiny")
    names = [field.name for field in dataclasses.fields(llm.PretrainConfig)]
    config = llm.PretrainConfig(**{name: getattr(options, name) for name in names})
    with status("reading"):
        documents = read_documents(
            options.corpus,
            seed=options.corpus_seed,
            num_documents=options.num_documents,
            separator=options.separator,
            text_field=options.text_field,
        )
    show(f"{documents.name}: {len(documents.documents)} documents")
    with progress_bar("training") as progress:
        record = llm.pretrain_tiny(
            documents, options.out, config, overwrite=options.overwrite, progress=progress
        )
    losses = [*record["losses"], None]
    rows = [
        {"revision": name, "loss of its next batch": losses[int(name.removeprefix("step"))]}
        for name in record["revisions"]
    ]
    show_table("Loss in nats", rows)
    show_written(options.out, ["pretraining.json", *record["revisions"]])
