import pytest
import torch

from thrifty.data import Data, Split


@pytest.fixture(scope="session")
def blobs() -> Data:
    """Three classes of 1x8x8 pictures, each bright in a place of its own."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 3
        inputs = torch.randint(0, 120, (count, 1, 8, 8), generator=generator)
        for n, label in enumerate(labels):
            inputs[n, 0, 1 + 2 * int(label) : 3 + 2 * int(label), 2:6] += 100
        return Split(inputs.to(torch.uint8), labels)

    return Data("blobs", split(96), split(48), 3, (0.3,), (0.2,), shift=1, flip=True)
