"""The census of weights: what share lies under a threshold, in networks from anywhere.

:func:`look` counts, :func:`compare` sets two networks side by side.  Both stream: a tensor is
read piece by piece, in one pass, and no more is kept than counts.
"""

from thrifty.census.census import Census, Network, Tensor
from thrifty.census.comparing import Comparison, compare
from thrifty.census.looking import look

__all__ = ["Census", "Comparison", "Network", "Tensor", "compare", "look"]
