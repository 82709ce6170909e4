"""The paper's tables and figures, each beside its numbers, its controls and what differs.

`paper`           what the paper reports: constants, in one place
`scales`          sizes: the paper's, small and tiny
`following`       one run, compared at each epoch with all theories and controls
`work`            tokens, runs and files that artefacts share, and when a file is reused
`records`         what an artefact hands over: a table, settings, figures
`drawing`         cosines and loss against epoch
`tables_1_and_2`, `table_3`, `figure_4`, `lists` (Figures 3 and 5), `figures_6_to_8`
`report`          one HTML file, whose prose is in `report.html`
`artefacts`       `reproduce`: all of them, resumed where they were stopped
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
