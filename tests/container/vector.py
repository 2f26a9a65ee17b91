"""Makes ``vector.thrifty`` and ``vector.json``, a file and what it holds, for other implementers.

Run:  python tests/container/vector.py

Numbers in the JSON are the bits of every element as an unsigned integer.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from thrifty.container import Reader, write
from thrifty.container.encoding import unsigned
from thrifty.container.header import Header
from thrifty.container.writing import _head, _placed

FOLDER = Path(__file__).parent


def tensors() -> list[tuple[dict, dict, str]]:
    """Groups of tensors, their dtypes, and what their values are stored as."""
    rng = np.random.default_rng(5)

    def some(*shape, share=1.0, dtype=np.float32):
        array = rng.integers(-99, 99, shape).astype(dtype) / 64
        return np.where(rng.random(shape) < share, array, 0).astype(dtype)

    exact = {
        "raw": some(3, 5),
        "mask": some(4, 3, 3, 3, share=0.4),
        "gaps": some(8, 90, share=0.01),
        "signs": np.float32([0.0, -0.0, 1e-45, -3.5]),
        "zeros": np.zeros((2, 2), np.float64),
        "scalar": np.array(7, np.int64),
        "none": np.zeros((0, 3), np.float16),
        "flags": np.array([True, False, True]),
        "bfloat": np.uint16([0x3F80, 0x0000, 0xC049]),
    }
    lossy = {"half": some(4, 40, share=0.3)}
    return [
        (exact, {"bfloat": "BF16"}, "f32"),
        ({f"{n}.bf16": x for n, x in lossy.items()}, {}, "bf16"),
        ({f"{n}.f16": x for n, x in lossy.items()}, {}, "f16"),
        ({f"{n}.int8": x for n, x in lossy.items()}, {}, "int8"),
    ]


def main() -> None:
    """Write both files."""
    metadata = {"thrifty": '{"format": 1}', "note": 'caf\u00e9 "quoted" \n'}
    entries, contents = [], b""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part"
        for group, dtypes, values in tensors():
            report = write(path, group, {}, values, dtypes=dtypes)
            entries += report.tensors
            contents += path.read_bytes()[report.header_bytes :]
    placed = _placed(entries)
    target = FOLDER / "vector.thrifty"
    target.write_bytes(_head(placed, metadata) + contents)
    assert Header(placed, metadata)
    with Reader(target) as file:
        told = [
            {
                "name": name,
                "dtype": e.dtype,
                "shape": list(e.shape),
                "encoding": e.encoding,
                "values": e.values,
                "bits": unsigned(file.read(name)).tolist(),
            }
            for name, e in file.tensors.items()
        ]
    said = {"metadata": metadata, "tensors": told}
    (FOLDER / "vector.json").write_text(json.dumps(said, indent=None) + "\n")


if __name__ == "__main__":
    main()
