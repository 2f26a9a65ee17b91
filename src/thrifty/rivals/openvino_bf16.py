"""OpenVINO in bfloat16, as it runs by itself where the processor has such instructions."""

from thrifty.rivals import RIVALS, Rival
from thrifty.rivals.compiled import compiled, version

RIVALS.add(
    "openvino_bf16",
    Rival(
        about="OpenVINO, bfloat16, compiled for latency",
        load=lambda model, example, threads: compiled(model, example, threads, "bf16"),
        version=version,
        precision="bf16",
    ),
)
