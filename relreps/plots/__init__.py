"""Pictures people look at first. Needs matplotlib: ``pip install 'relreps[plots]'``.

Every function draws into the axes it is given (or new ones), returns them, and saves nothing.
"""

from relreps.plots.curves import plot_proxy, plot_retrieval_curve
from relreps.plots.images import plot_image_rows
from relreps.plots.matrices import plot_layers, plot_stitching_matrix
from relreps.plots.spaces import plot_anchors, plot_spaces
from relreps.plots.topology import plot_barcode, plot_death_times

__all__ = [
    "plot_anchors",
    "plot_barcode",
    "plot_death_times",
    "plot_image_rows",
    "plot_layers",
    "plot_proxy",
    "plot_retrieval_curve",
    "plot_spaces",
    "plot_stitching_matrix",
]
