"""The command `attribute`: the passages that an association comes from."""

import argparse

from assocjax.arguments import check_integer
from assocjax.cli._corpus import configure_jax, load_corpus
from assocjax.cli._terminal import show, show_table, show_written, status
from assocjax.storage import check_claimable, claim

_MEANINGS = {
    "bigram": "{column} follows {row}",
    "context": "{column} stands anywhere before {row}",
    "interchangeability": "{row} and {column} follow the same tokens",
    "value": "{row}, anywhere before, announces what follows {column}",
    "composed": "{row}, anywhere before, predicts {column}",
    "query_key": "{row} should attend to {column}",
}


def attribute(options: argparse.Namespace) -> None:
    """Print the passages that an association of two tokens comes from, and their shares of it."""
    from assocjax.analysis.passages import find_passages, listing
    from assocjax.storage import results

    check_integer("--top", options.top, minimum=1)
    if options.out is not None:
        check_claimable(options.out, "attribute")
    configure_jax(options)
    data = load_corpus(options)
    row, column = options.tokens
    for token in options.tokens:
        data.token_id(token)  # fails before the work
    with status("attributing"):
        dataset = find_passages(data, row, column, matrices=options.weight, top=options.top)
    content = {}
    for matrix in options.weight:
        of_matrix = dataset.sel(matrix=matrix)
        rows, shares = listing(dataset, matrix), of_matrix["share"].values
        entry, degree = float(of_matrix["entry"]), int(of_matrix["degree"])
        content[matrix] = {
            "entry": entry,
            "degree": degree,
            "sum_of_shares": float(shares.sum()),
            "documents_for": int((shares > 0).sum()),
            "documents_against": int((shares < 0).sum()),
            "listed": rows,
        }
        meaning = _MEANINGS[matrix].format(row=repr(row), column=repr(column))
        less = ", less than chance, as of most rare tokens" if entry < 0 else ""
        show(f"\n{matrix} [{row}, {column}] = {entry:.4g}: {meaning}{less}")
        show(
            f"the sum of {content[matrix]['documents_for']} positive shares and "
            f"{content[matrix]['documents_against']} negative ones, of {len(shares)} documents; "
            f"listed are {sum(row['share'] for row in rows) / entry if entry else 0:.1%} of it"
        )
        if rows:
            products = f": of products of {degree}, all that it is in" if degree > 1 else ""
            title = f"change: what the entry loses without the document{products}"
            show_table(title, rows)
    show(
        "« »: the key and the target with the largest share in that document. Documents are "
        "counted from 0"
    )
    if options.out is not None:
        config = {name: getattr(options, name) for name in ("tokens", "weight", "top")}
        decides = results.identity(data, config)
        with claim(options.out, "attribute", decides, overwrite=options.overwrite) as folder:
            results.save_to(folder, "attribution.nc", dataset)
            attributes = results.decode(dataset.attrs)
            results.save_json_to(folder, "attribution.json", {**attributes, "attribution": content})
            folder.finish()
        show_written(options.out, ["attribution.nc", "attribution.json"])
