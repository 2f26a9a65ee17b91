"""Data sets, held in memory and named by a spec: ``digits``, ``mnist:DIR?train=1000``.

A spec is ``NAME[:LOCATION][?key=value&...]``.  To add a data set, put one file in this folder
with a function ``name(location: str, *, ...) -> Data`` marked ``@DATASETS.entry("name")``, and
a fixture in ``tests/conformance/test_every_dataset.py``.  The function may leave ``mean`` and
``std`` empty: ``load_data`` computes them, checks everything, and adds the options that all
data sets have (``train``, ``test``, ``labels``, ``normalize``, ``shift``, ``flip``, ``grey``,
``size``, ``crop``, ``seed``).
"""

from thrifty.data.augmentation import augment
from thrifty.data.load import load_data
from thrifty.data.sets import DATASETS, Data, Split

__all__ = ["DATASETS", "Data", "Split", "augment", "load_data"]
