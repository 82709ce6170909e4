"""The options of the command line: their defaults are the library's, and bad ones cost nothing."""

import inspect
import re

import pytest
from cyclopts import Argument

import assocjax as aj
from assocjax import cli, corpora, llm, reproduce
from assocjax.analysis import passages, strengths
from assocjax.llm import texts

LIBRARY = {
    "sweep": [aj.sweep, aj.load_tokens],
    "horizon": [aj.horizon_study, aj.load_tokens],
    "statistics": [aj.load_tokens],
    "associations": [aj.top_associations, aj.sparse_statistics, aj.load_tokens],
    "tokenize": [aj.write_tokens],
    "merge": [],
    "track": [aj.track, aj.load_tokens],
    "explore": [aj.write_explorer, aj.write_comparison, aj.load_tokens],
    "predict": [
        aj.predict_formation,
        aj.formation_steps,
        strengths.strong_associations,
        aj.remove_bigrams,
        aj.load_tokens,
    ],
    "ablate": [aj.ablate, aj.load_tokens],
    "attribute": [passages.find_passages, aj.load_tokens],
    "pretrain-tiny": [llm.PretrainConfig, llm.pretrain_tiny, corpora.read_documents],
    "compare": [
        llm.compare_revisions,
        llm.compare_with_twins,
        texts.tokens_of_model,
        corpora.read_documents,
    ],
    "ngrams": [llm.compare_ngrams, texts.tokens_of_model, corpora.read_documents],
    "reproduce": [reproduce.reproduce],
}
"""The functions that a command hands its options to."""

RENAMED = {
    "k": "top",
    "matrices": "weight",
    "num_shuffles": "shuffles",
    "num_bins": "bins",
    "corpora": "corpus",
}
READERS = (aj.load_tokens, aj.write_tokens, corpora.read_documents)
"""Their seed is that of the fables, --corpus-seed."""

DEMONSTRATED = {"num_sequences"}
"""A library reads all that there is; a command that trains, what takes a minute on two cores."""


def options(command: str) -> dict[str, Argument]:
    arguments = cli.make_app(command)[command].assemble_argument_collection()
    return {argument.name.lstrip("-").replace("-", "_"): argument for argument in arguments}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_defaults_are_those_of_the_library(command):
    offered, compared = options(command), []
    for function in LIBRARY[command]:
        for name, parameter in inspect.signature(function).parameters.items():
            name = "corpus_seed" if name == "seed" and function in READERS else name
            name = RENAMED.get(name, name) if name not in offered else name
            if name not in offered or name in DEMONSTRATED:
                continue
            default = offered[name].field_info.default
            if inspect.Parameter.empty not in (parameter.default, default):
                assert default == parameter.default, f"{name} of {function.__name__}"
                compared.append(name)
    assert len(compared) >= (0 if command == "merge" else 2), compared


NAMES = {"--optimizer", "--model", "--theory", "--theories", "--gradient", "--plugins"}
NAMES |= {"--twin", "--recipe"}
"""Options whose values are checked when the command runs, since users can add to them."""


def bad_values(option: Argument) -> list[list[str]]:
    hint = str(option.hint)
    if re.search(r"\b(int|float)\b", hint):
        bad = ["-1", "x", "nan", "inf"]
        bad += ["1.5"] * ("int" in hint and option.name != "--memory-limit")  # of GiB
    else:
        bad = ["nosuch"] * bool(option.get_choices() or option.name in NAMES)
    repeated = ["1", "1"] if "tuple[" in hint and bad and option.name != "--record-at" else []
    return [[value] for value in bad] + [repeated] * bool(repeated)


POSITIONAL = {
    "associations": ["bird"],
    "attribute": ["bird", "flew"],
    "compare": ["model"],
    "ngrams": ["model"],
    "explore": ["track.nc"],
    "merge": ["counts-1-of-1.nc"],
    "reproduce": ["figure3"],
}
TOGETHER = {
    "sweep": [
        ["--model", "factored", "--theories", "leading"],
        ["--batch-size", "129"],
        ["--process-id", "0"],
    ],
    "horizon": [["--learning-rates", "1e-30"]],
    "statistics": [["--shard", "5/4"], ["--shard", "x"], ["--shard", "0/1"]],
    "track": [["--record-at", "65"], ["--record-at", "4", "--steps", "3"], ["--batch-size", "999"]],
    "ablate": [["--model", "factored"], ["--batch-size", "999"]],
    "compare": [
        ["--revisions", "step0,step0"],
        ["--twin", "pretrain-tiny"],
        ["--twin", "smollm2-135m", "--revisions", "step0,step1"],
        ["--revisions", "step1,step2", "--twin", "pretrain-tiny"],
        ["--recipe", "pretrain-tiny", "--twin", "pretrain-tiny"],
        ["--over", "summed_rate"],
    ],
    "ngrams": [["--revisions", "step0,step0"], ["--over", "summed_rate"]],
    "pretrain-tiny": [["--width", "20"]],
    "predict": [
        ["--width", "15"],
        ["--without", "bird"],
        ["--order", "3", "--without", "bird:flew"],
    ],
    "associations": [["--statistics", "none"]],
}
"""What only several options tell."""


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_bad_values_are_refused_before_anything_is_read(command, tmp_path, monkeypatch, capsys):
    def read(*arguments, **options):
        raise AssertionError("the corpus is read")

    for name in (
        "corpora.load_tokens",
        "corpora.open_tokens",
        "corpora.write_tokens",
        "corpora.read_documents",
        "llm.texts.tokens_of_model",
        "llm.files.check_revisions",
        "storage.results.load",
        "statistics.shards.merge",
        "reproduce.reproduce",
    ):
        monkeypatch.setattr(f"assocjax.{name}", read)
    monkeypatch.setattr("assocjax.llm.libraries.require", lambda name: None)
    monkeypatch.chdir(tmp_path)
    tried = [
        [option.name, *values]
        for option in options(command).values()
        if option.field_info.kind is inspect.Parameter.KEYWORD_ONLY
        for values in bad_values(option)
    ]
    tried += [*TOGETHER.get(command, []), ["--nosuch"], ["--out", "out", "--out"]]
    for arguments in tried:
        with pytest.raises(SystemExit) as stop:
            cli.main([command, *POSITIONAL.get(command, []), *arguments])
        err = capsys.readouterr().err
        assert stop.value.code == 2
        assert re.fullmatch(r"assocjax: [^\n]+\n", err), err
        assert arguments[0].strip("-").replace("-", "_") in err.replace("-", "_"), (arguments, err)
        assert not list(tmp_path.iterdir()), arguments


OF_RESULTS = {"merge", "explore", "compare", "ngrams"}
"""Commands of results and models that there must be, which are looked for first."""


@pytest.mark.parametrize("command", sorted(set(cli.COMMANDS) - OF_RESULTS))
def test_a_command_that_is_refused_later_leaves_no_folder(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("assocjax.llm.libraries.require", lambda name: None)
    (tmp_path / "short.txt").write_text("three little words")
    later = [["--corpus", "none.txt"], ["--corpus", "short.txt"]]
    later += [["--memory-limit", "1e-4", "--num-documents", "60"]] * (command == "sweep")
    later += [["--graph", "nosuch", "--num-documents", "300"]] * (command == "track")
    for arguments in later:
        with pytest.raises(SystemExit) as stop:
            cli.main([command, *POSITIONAL.get(command, []), *arguments])
        assert stop.value.code == 2
        assert re.fullmatch(r"assocjax: [^\n]+\n", capsys.readouterr().err)
        assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]
