"""A folder for the Hugging Face Hub: model.safetensors, config.json, and a model card.

Nothing is sent anywhere; ``hf upload ORG/NAME FOLDER`` does that.  The safetensors file is ours,
so ``thrifty.resolve(folder)`` gives the network back, and the card holds only figures that are
known: counts of the weights as written, and what the caller's metadata say was measured.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thrifty.pack.card import card, config
from thrifty.pack.contents import Contents
from thrifty.pack.formats.safetensors import encoded
from thrifty.pack.saving import FORMATS, Format

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def _write(held: Contents, folder: Path) -> Mapping[str, Any]:
    # transformers and others refuse a safetensors file that does not say it is torch's.
    said = held._replace(metadata={"format": "pt", **held.metadata})
    content = encoded(said)
    (folder / WEIGHTS).write_bytes(content)
    about = config(held)
    (folder / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card(held, about, content), encoding="utf-8")
    return {"files": f"{WEIGHTS}, {CONFIG}, {CARD}"}


FORMATS.add(
    "hf",
    Format(
        about="A folder to push to the Hugging Face Hub: safetensors, config, model card",
        suffix="",
        write=_write,
        read=None,
        instead="thrifty.resolve(folder) gives the network back",
    ),
)
