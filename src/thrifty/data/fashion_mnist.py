"""Fashion-MNIST, from the IDX files as they are published."""

from thrifty.data.idx import read_folder
from thrifty.data.sets import DATASETS, Data

NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@DATASETS.entry("fashion_mnist")
def fashion_mnist(location: str) -> Data:
    """Articles of clothing, 28 x 28 grey, 60,000 + 10,000, from a folder of IDX files.

    References:
        Xiao et al., Fashion-MNIST, 2017, https://arxiv.org/abs/1708.07747
    """
    train, test = read_folder("fashion_mnist", location)
    return Data("fashion_mnist", train, test, 10, (), (), flip=True, class_names=NAMES)
