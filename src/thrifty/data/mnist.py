"""MNIST, from the IDX files as they are published."""

from thrifty.data.idx import read_folder
from thrifty.data.sets import DATASETS, Data


@DATASETS.entry("mnist")
def mnist(location: str) -> Data:
    """Handwritten digits, 28 x 28 grey, 60,000 + 10,000, from a folder of IDX files.

    References:
        LeCun et al., Gradient-based learning applied to document recognition, 1998,
        http://yann.lecun.com/exdb/mnist/
    """
    train, test = read_folder("mnist", location)
    names = tuple(map(str, range(10)))
    return Data("mnist", train, test, 10, (), (), shift=2, class_names=names)
