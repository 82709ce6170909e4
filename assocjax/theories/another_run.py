"""Another real run in the place of a theory: the most that a theory of the text can have."""

import dataclasses

from assocjax.models.model import Model
from assocjax.theories.registry import ANOTHER_RUN, register_theory
from assocjax.theories.theory import Batch, Theory
from assocjax.training.train import batch_indices


@dataclasses.dataclass(frozen=True)
class AnotherRun(Theory):
    """A run from the same start, by the same recipe, on other minibatches of the same text.

    What two such runs have in common comes from the start, the recipe and the text; what they do
    not have in common comes from the order of the batches, which no theory of the text can know.
    Their cosine is therefore the ceiling of a theory's cosine with one run. A theory without noise
    of its own can be a little above it, since here both runs have noise: `compare_twins` compares
    all with the mean of several runs instead.

    With the full batch there is no other run: its gradient is the run's.

    Cost: as the run.
    """

    name: str = ANOTHER_RUN

    from_start = True
    of_batches = False

    def prepare(self, model, sizes, batch):
        return ()

    def gradient(self, model: Model, params, prepared, batch: Batch):
        tokens, mask = batch.tokens, batch.mask
        if batch.size is not None:
            assert batch.key is not None  # it starts where the run does
            # The first batch of an epoch whose order is drawn from the key of this step.
            rows = batch_indices(batch.key, 0, len(tokens), batch.size)
            tokens, mask = tokens[rows], mask[rows]
        return model.loss_and_gradient(params, tokens, mask)[1]


register_theory(AnotherRun())
