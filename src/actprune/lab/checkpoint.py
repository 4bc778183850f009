"""L5: checkpoints: a plain ``torch.save`` file with one line after it that carries format and SHA-256.

``torch.load(path, weights_only=True)`` of any program reads it; ours also notices every flipped bit.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from actprune.errors import CheckpointError
from actprune.lab.atomic import write_bytes

FORMAT = 1
_SEAL = re.compile(rb"\nactprune-checkpoint (\d+) sha256 ([0-9a-f]{64})\n\Z")
_SEAL_BYTES = 128  # more than the longest seal


def packed(values: dict[str, Any]) -> bytes:
    """Tensors, numbers and strings in nested dicts -> the content of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    content = buffer.getvalue()
    return content + f"\nactprune-checkpoint {FORMAT} sha256 {hashlib.sha256(content).hexdigest()}\n".encode()


def save(path: Path, content: bytes) -> None:
    """Write what ``packed`` returned, atomically. Raises CheckpointError when it cannot be written."""
    write_bytes(path, content)


def load(path: Path) -> dict[str, Any]:
    """Inverse of ``packed`` and ``save``; never runs code from the file.

    Raises CheckpointError when the file is missing, truncated, damaged, or of another format.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    seal = _SEAL.search(content, max(0, len(content) - _SEAL_BYTES))
    if seal is None:
        raise CheckpointError(
            f"checkpoint {path} is truncated or damaged: it has {len(content)} bytes and no seal at its end"
        )
    if int(seal[1]) != FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {int(seal[1])}; this actprune reads format {FORMAT}")
    body = content[: seal.start()]
    if hashlib.sha256(body).hexdigest().encode() != seal[2]:
        raise CheckpointError(f"checkpoint {path} is damaged: its checksum does not match its content")
    try:
        values = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types; the checksum holds, so the file was made by something else
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"checkpoint {path} holds a {type(values).__name__}; expected a dictionary")
    return values
