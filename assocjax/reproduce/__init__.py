"""Reproduction of the paper's tables and figures, with its numbers, settings and controls.

`paper`           the numbers of the paper, as constants
`scales`          sizes: the paper's, small and tiny
`following`       one run, compared at each epoch with all theories and controls
`work`            tokens, runs and files that artefacts share, and reuse of files
`records`         the result of an artefact: a table, settings, figures
`_drawing`         cosines and loss against epoch
`tables_1_and_2`, `table_3`, `figure_4`, `lists` (Figures 3 and 5), `figures_6_to_8`
`report`          one HTML file, whose text is in `report.html`
`artefacts`       `reproduce`: all artefacts, resumed after an interruption
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
