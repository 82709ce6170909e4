"""The command `horizon`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from assocjax import arguments
from assocjax.cli._corpus import Sequences, configure_jax
from assocjax.cli._kinds import (
    Duration,
    Layers,
    Length,
    Precision,
    Rate,
    Theories,
    Threshold,
    VocabSize,
    several,
)
from assocjax.cli._options import Drawn, Seams, arguments_of, check_seams, chosen, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import progress_bar
from assocjax.errors import InputError

if TYPE_CHECKING:
    from assocjax.corpora import TokenData
    from assocjax.storage import Folder

_HORIZONS = "horizons.json"


@options("Settings", "The first value of each list is the base; others are tried one at a time.")
class Horizon(Drawn, Sequences, Seams):
    """Measure at which step each theory ends, and how that depends on the setting."""

    num_sequences: int = 128
    precision: Precision = "float64"
    out: Path = Path("assocjax-horizon")
    learning_rates: Annotated[tuple[Rate, ...], several("ETA")] = (0.4, 0.2, 0.8)
    """learning rates"""
    vocab_sizes: Annotated[tuple[VocabSize, ...], several("V")] = (100, 50, 150)
    """vocabulary sizes; the most frequent tokens are kept"""
    seq_lens: Annotated[tuple[Length, ...], several("T")] = (32, 16, 64)
    """numbers of positions of a sequence"""
    num_layers: Annotated[tuple[Layers, ...], several("L")] = (2, 1, 3)
    """numbers of layers"""
    theories: Theories = None
    """theories that every run is compared with; a wrong name lists those there are"""
    duration: Duration = 24.0
    """training time, learning rate times steps, at which runs end"""
    threshold: Threshold = arguments.THRESHOLD
    """relative error above which a theory has ended"""

    def run(self, finish: Finish) -> Report:
        from assocjax import figures
        from assocjax.experiments import horizons
        from assocjax.storage import claim, results

        configure_jax(self.device, self.precision)
        check_seams(self, theories=self.theories or ())
        study = arguments_of(self, horizons.study_settings)
        horizons.study_settings(**study)
        V, T = self.vocab_sizes[0], self.seq_lens[0]

        def load(vocab_size: int, seq_len: int):
            # The same total number of positions at every sequence length.
            sequences = max(1, round(self.num_sequences * T / max(1, seq_len)))
            return self.load(vocab_size=vocab_size, seq_len=seq_len, num_sequences=sequences)

        # All are loaded first, so that a size that the corpus does not allow fails early.
        sizes = [(size, T) for size in self.vocab_sizes] + [(V, size) for size in self.seq_lens]
        data = {size: load(*size) for size in dict.fromkeys(sizes)}
        config = study | chosen(self, "threshold", "model", "theories", "precision")
        corpora = {"corpora": [of.describe() for of in data.values()]}
        decides = results.identity(data[V, T], config | corpora)
        with claim(
            self.out, "horizon", decides, result=_HORIZONS, overwrite=self.overwrite
        ) as folder:
            if not folder.complete:
                _study(self, data, config, folder)
            content = json.loads((folder.path / _HORIZONS).read_text("utf-8"))
            rows, laws = content["horizons"], content["laws"]
            with self.drawing():
                figure = figures.plot_horizon_study(rows, corpus_name=data[V, T].name)
                paths = figures.save(figure, "horizons", into=folder)
            report, files = Report(), [_HORIZONS, *(path.name for path in paths)]
            report.table(
                f"First step at which a weight's relative error exceeds {self.threshold:g} in any "
                f"layer (-: not within training time {self.duration:g}; 0: the theory never held)",
                [_horizon_row(row) for row in rows],
                _verdict(rows),
                narrow=[_horizon_row(row, of_each=False) for row in rows],
            )
            report.table(
                "Power laws: horizon as training time = prefactor * product of quantity^exponent",
                [_law_row(law) for law in laws],
                f"{sum('none' not in law for law in laws)} of {len(laws)} laws can be fitted.",
            )
            report.written(files)
            finish(folder, report, files)
        return report


def _study(
    options: Horizon,
    data: dict[tuple[int, int], "TokenData"],
    config: dict[str, Any],
    folder: "Folder",
) -> None:
    """Computes `horizons.json`; the sweeps behind it are kept until it is written."""
    from assocjax.experiments import horizons
    from assocjax.storage import results

    with results.stoppable(folder), progress_bar() as progress:
        rows = horizons.horizon_study(
            lambda vocab_size, seq_len: data[vocab_size, seq_len],
            **arguments_of(options, horizons.horizon_study),
            progress=progress,
            part=results.parts_kept_in(folder),
        )
    of_base = data[options.vocab_sizes[0], options.seq_lens[0]]
    attributes = results.provenance(of_base, config)
    content = {**results.decode(attributes), "horizons": rows, "laws": _laws(rows)}
    results.save_json_to(folder, _HORIZONS, content)
    folder.finish()


def _laws(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A power law for each theory and weight, or the reason why there is none."""
    from assocjax.experiments import horizons

    weights = [name.removesuffix("*eta") for name in rows[0] if name.endswith("*eta")]
    laws = []
    for theory in dict.fromkeys(row["theory"] for row in rows):
        of_theory = [row for row in rows if row["theory"] == theory]
        for weight in weights:
            law = {"theory": theory, "weight": weight}
            try:
                law |= horizons.fit_power_law(of_theory, of=f"{weight}*eta")._asdict()
            except InputError as error:
                law["none"] = str(error)
            laws.append(law)
    return laws


def _horizon_row(row: dict[str, Any], of_each: bool = True) -> dict[Any, Any]:
    """A row with short column names; with the horizon of each weight, or of the last."""
    short = {"vocab_size": "V", "seq_len": "T", "num_layers": "L", "learning_rate": "eta"}
    times = [name for name in row if "*" in name]
    weights = [name.removesuffix("*eta") for name in times]
    shown: dict[Any, Any] = {
        short.get(name, name): value
        for name, value in row.items()
        if name not in (*times, *weights)
    }
    if of_each:
        shown |= {("horizon, in steps", name): row[name] for name in weights}
    return shown | {("in time", times[-1]): row[times[-1]]}


def _verdict(rows: list[dict[str, Any]]) -> str:
    """For each theory, the steps at which its first weight ends, over the settings."""
    said = []
    for theory in dict.fromkeys(row["theory"] for row in rows):
        of_theory = [row for row in rows if row["theory"] == theory]
        weights = [name.removesuffix("*eta") for name in rows[0] if name.endswith("*eta")]
        ends = [
            min(known)
            for row in of_theory
            if (known := [row[name] for name in weights if row[name] is not None])
        ]
        steps = " to ".join(dict.fromkeys([f"{min(ends):g}", f"{max(ends):g}"])) if ends else ""
        when = f", first at step {steps}" if ends else ""
        said.append(f"{theory} ends in {len(ends)} of {len(of_theory)} settings{when}")
    return f"{'; '.join(said)}."


def _law_row(law: dict[str, Any]) -> dict[str, Any]:
    row = {"theory": law["theory"], "weight": law["weight"]}
    if "none" in law:
        return row | {"law": "too few horizons for a fit"}
    exponents = (
        f"{name}^{exponent:.2f}({law['standard_errors'][name]:.2f})"
        for name, exponent in law["exponents"].items()
    )
    return row | {
        "law": f"{law['prefactor']:.3g} " + " ".join(exponents),
        "R^2": law["r_squared"],
        "rows": law["num_rows"],
    }
