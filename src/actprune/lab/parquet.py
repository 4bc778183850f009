"""L5: folders of images as Hugging Face's ``datasets`` stores them: ``train*.parquet``, ``test*.parquet``, one row a
picture.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from actprune.errors import DataError
from actprune.lab.dataset import Array, Pair, Raw
from actprune.lab.idx import LIMIT

PARTS = ("train", "test", "validation")


def holds_parquet(folder: Path) -> bool:
    """Whether a folder, or its subfolder ``data``, is of this kind."""
    return any(_files(folder, part) for part in PARTS)


def read_parquet(folder: Path, limit: int = LIMIT) -> Raw:
    """Raw arrays of a folder; x uint8 ``(N, C, H, W)`` with C = 1 or 3, y int64.

    The column of pictures holds encoded files (bytes, or a struct with ``bytes``), that of labels whole numbers. Class
    names in the schema's metadata say how many classes there are. limit: bytes of pixels that one part may take.

    Raises DataError for missing parts, columns that are not these, pictures that cannot be read or differ in size.
    """
    found = {part: files for part in PARTS if (files := _files(folder, part))}
    if missing := [part for part in ("train", "test") if part not in found]:
        names = ", ".join(sorted(path.name for files in found.values() for path in files)) or "none"
        raise DataError(
            f"{folder} has no {missing[0]}*.parquet; expected train*.parquet and test*.parquet, found {names}"
        )
    tables = {part: [_table(path) for path in files] for part, files in found.items()}
    pairs = {part: _pair(folder / part, each, limit) for part, each in tables.items()}
    return Raw(pairs["train"], pairs["test"], pairs.get("validation"), _classes(tables["train"][0]))


def _files(folder: Path, part: str) -> list[Path]:
    """Shards in order; ``datasets`` writes them into ``data/`` of a repository."""
    return sorted(folder.glob(f"{part}*.parquet")) or sorted((folder / "data").glob(f"{part}*.parquet"))


def _table(path: Path) -> Any:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"reading {path.name} needs pyarrow; pip install 'actprune[lab]'") from error
    try:
        return parquet.read_table(path)
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"cannot read {path} as parquet: {error}") from error


def _pair(where: Path, tables: list[Any], limit: int) -> Pair:
    images, labels = [], []
    taken = 0
    for table in tables:
        image, label = _columns(where, table)
        labels.append(np.asarray(table.column(label).to_numpy(), dtype=np.int64))
        for row, item in enumerate(table.column(image).to_pylist()):
            images.append(_picture(f"{where} row {row}", item["bytes"] if isinstance(item, dict) else item))
            taken += images[-1].nbytes
            if images[-1].shape != images[0].shape:
                raise DataError(
                    f"{where} row {row}: the picture is {images[-1].shape}, the first is {images[0].shape}; make them "
                    "equal"
                )
            if taken > limit:
                raise DataError(f"{where}: more than {limit} bytes of pixels; give smaller pictures, or a factory")
    if not images:
        raise DataError(f"{where} has no rows; expected at least one picture")
    return np.stack(images), np.concatenate(labels)


def _columns(where: Path, table: Any) -> tuple[str, str]:
    """Names of the column of pictures and of that of labels."""
    import pyarrow.types as kinds

    def encoded(kind: Any) -> bool:
        inner = kind.field("bytes").type if kinds.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        return bool(kinds.is_binary(inner) or kinds.is_large_binary(inner))

    schema = table.schema
    pictures = [field.name for field in schema if encoded(field.type)]
    numbers = [field.name for field in schema if kinds.is_integer(field.type)]
    numbers = [name for name in numbers if name == "label"] or numbers
    if len(pictures) != 1 or len(numbers) != 1:
        found = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise DataError(
            f"{where}: expected one column of pictures (bytes, or a struct with bytes) and one of whole numbers "
            f"(label); found {found}"
        )
    return pictures[0], numbers[0]


def _picture(where: str, content: bytes | None) -> Array:
    """uint8 ``(C, H, W)``."""
    from PIL import Image

    if content is None:
        raise DataError(f"{where}: there are no bytes of the picture, only a path; store the files themselves")
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: the picture cannot be read: {error}") from error
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _classes(table: Any) -> int | None:
    """How many class names the schema has; None: it has none."""
    import json

    stored = (table.schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return None
    features = json.loads(stored).get("info", {}).get("features", {})
    names = [feature.get("names") for feature in features.values() if isinstance(feature, dict)]
    return next((len(each) for each in names if each), None)
