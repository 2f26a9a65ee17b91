"""OpenVINO in float32, the fastest dense runtime of most CPUs."""

from thrifty.rivals import RIVALS, Rival
from thrifty.rivals.compiled import compiled, version

RIVALS.add(
    "openvino",
    Rival(
        about="OpenVINO, float32, compiled for latency",
        load=lambda model, example, threads: compiled(model, example, threads, "f32"),
        version=version,
    ),
)
