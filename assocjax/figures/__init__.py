"""Every plot, drawn from a Dataset or a study's table.

`style`     colours, panels and titles that all figures share, and `save`
`sweeps`    cosines, errors and loss of a sweep against step
`limits`    limits of a theory: horizons, and the theorem's bounds
`matrices`  heat maps of the statistics
`ablation`  the loss after edits of trained weights, and of controls
`associations`  when associations form, and a token's context
`twins`     statistics twins beside real runs
`ngrams`    predictions of language models, beside n-grams of a text
`language_models`  similarity of layers, heads and checkpoints with the theory, and controls
"""

from assocjax.figures.ablation import plot_ablation as plot_ablation
from assocjax.figures.associations import plot_context_graph as plot_context_graph
from assocjax.figures.associations import plot_overlap as plot_overlap
from assocjax.figures.associations import plot_precision as plot_precision
from assocjax.figures.associations import save_track as save_track
from assocjax.figures.language_models import plot_by_layer as plot_by_layer
from assocjax.figures.language_models import plot_heads as plot_heads
from assocjax.figures.language_models import plot_layers_by_step as plot_layers_by_step
from assocjax.figures.limits import plot_bounds as plot_bounds
from assocjax.figures.limits import plot_horizon_study as plot_horizon_study
from assocjax.figures.limits import plot_horizons as plot_horizons
from assocjax.figures.matrices import plot_statistics as plot_statistics
from assocjax.figures.ngrams import plot_ngrams as plot_ngrams
from assocjax.figures.style import LABELS as LABELS
from assocjax.figures.style import figure_files as figure_files
from assocjax.figures.style import save as save
from assocjax.figures.sweeps import plot_cosines as plot_cosines
from assocjax.figures.sweeps import plot_disagreement as plot_disagreement
from assocjax.figures.sweeps import plot_errors as plot_errors
from assocjax.figures.sweeps import plot_loss as plot_loss
from assocjax.figures.sweeps import save_sweep as save_sweep
from assocjax.figures.twins import plot_predictions as plot_predictions
from assocjax.figures.twins import plot_shares as plot_shares
from assocjax.figures.twins import plot_twins as plot_twins
from assocjax.figures.twins import plot_twins_by_step as plot_twins_by_step
