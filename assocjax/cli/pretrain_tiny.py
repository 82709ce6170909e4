"""The command `pretrain-tiny`: a small language model and its checkpoints."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assocjax.cli._corpus import Reading, configure_jax
from assocjax.cli._kinds import Count, Layers, Length, Rate, Seed, Steps, VocabSize, unless_given
from assocjax.cli._options import Device, Results, arguments_of, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import note, progress_bar
from assocjax.llm.configuration import Models, Optimizers, PretrainConfig


@options("Model and training")
class PretrainTiny(Results, Device, Reading):
    """Train a small language model with Pythia's recipe, and save its checkpoints as folders."""

    model: Models = PretrainConfig.model
    """architecture of the language model"""
    optimizer: Optimizers = PretrainConfig.optimizer
    """AdamW; the same with a second moment that all tokens of an embedding share; or plain descent,
    which needs a far larger --learning-rate, such as 0.5"""
    vocab_size: VocabSize = PretrainConfig.vocab_size
    """size of the byte-pair vocabulary, which is trained on the corpus"""
    seq_len: Length = PretrainConfig.seq_len
    """number of positions of a sequence"""
    batch_size: Count = PretrainConfig.batch_size
    """number of sequences in a minibatch"""
    steps: Steps = PretrainConfig.steps
    """number of updates; checkpoints are saved after 0, 1, 2, 4, ... of them"""
    num_layers: Layers = PretrainConfig.num_layers
    """number of layers"""
    width: Annotated[Count, Parameter(metavar="D")] = PretrainConfig.width
    """dimension of the residual stream"""
    num_heads: Annotated[Count, Parameter(metavar="H")] = PretrainConfig.num_heads
    """number of attention heads"""
    learning_rate: Rate = PretrainConfig.learning_rate
    """largest learning rate, reached after the warmup"""
    seed: Seed = PretrainConfig.seed
    """seed of the initial weights, and of the order of sequences"""
    order_seed: Annotated[Seed | None, unless_given("that of --seed")] = None
    """seed of the order of sequences, for runs that differ in it only"""
    out: Path = Path("assocjax-pretrained")
    """folder for step0, step1, step2, ...; after an interruption the same command resumes"""

    def run(self, finish: Finish) -> Report:
        from assocjax import llm
        from assocjax.corpora import read_documents
        from assocjax.storage import claim, hold

        configure_jax(self.device)
        config = PretrainConfig(**arguments_of(self, PretrainConfig))
        documents = self.read(read_documents)
        note(f"{documents.name}: {len(documents.documents)} documents")
        with hold(self.out):
            with progress_bar("training") as progress:
                record = llm.pretrain_tiny(
                    documents, self.out, config, overwrite=self.overwrite, progress=progress
                )
            losses = [*record["losses"], None]
            rows = [
                {"revision": name, "loss of the next batch": losses[int(name.removeprefix("step"))]}
                for name in record["revisions"]
            ]
            report = Report()
            first, last = record["losses"][:1], record["losses"][-1:]
            verdict = f"From {first[0]:.4f} to {last[0]:.4f} nats." if first else ""
            report.table("Loss in nats", rows, verdict)
            report.written(["pretraining.json", *record["revisions"]])
            with claim(self.out, "pretrain-tiny", None) as folder:
                finish(folder, report, folder.files)
        return report
