"""Makes the model's weights: make_weights.py VERSION DIRECTORY writes DIRECTORY/weights.bin.

The same bytes on every machine and Python. Laid out as safetensors are: the header's length (u64,
little-endian), a JSON header naming each layer's place, then the layers. Version 1.1 retrains one
layer of the sixteen and adds a small one, so that an upgrade has little to fetch.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

LAYER_BYTES = 256 * 1024
LAYERS = {f"layer.{number:02}": LAYER_BYTES for number in range(16)}
VERSIONS = {
    "1.0": {name: ("1.0", length) for name, length in LAYERS.items()},
    "1.1": {
        name: ("1.1" if name == "layer.07" else "1.0", length) for name, length in LAYERS.items()
    }
    | {"labels": ("1.1", 4096)},
}


def weights(version: str) -> bytes:
    """The content of weights.bin in `version`."""
    header: dict[str, dict[str, object]] = {}
    layers = b""
    for name, (trained, length) in VERSIONS[version].items():
        places = [len(layers), len(layers) + length]
        header[name] = {"dtype": "BF16", "shape": [length // 2], "data_offsets": places}
        layers += random.Random(f"{name} {trained}").randbytes(length)
    described = json.dumps(header).encode()
    return len(described).to_bytes(8, "little") + described + layers


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in VERSIONS:
        sys.exit(f"usage: make_weights.py {{{'|'.join(VERSIONS)}}} DIRECTORY")
    directory = Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "weights.bin").write_bytes(weights(sys.argv[1]))


if __name__ == "__main__":
    main()
