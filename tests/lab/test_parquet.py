"""Pictures in parquet, as Hugging Face's datasets write them: read as they are, refused where they are not."""

import io
import json

import numpy as np
import pyarrow as arrow
import pytest
from PIL import Image
from pyarrow import parquet

from actprune.errors import DataError
from actprune.lab import RunConfig, run
from actprune.lab.parquet import read_parquet
from actprune.lab.sources import read

PICTURE = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])


def encoded(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return {"bytes": stream.getvalue(), "path": None}


def pictures(count, shape=(6, 5, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write(path, pixels, labels, names=None, **other):
    table = arrow.table({"image": arrow.array([encoded(each) for each in pixels], PICTURE), "label": labels, **other})
    if names is not None:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(table, path)


def folder(tmp_path, count=8, **options):
    write(tmp_path / "train.parquet", pictures(count), [number % 2 for number in range(count)], **options)
    write(tmp_path / "test.parquet", pictures(4, seed=1), [0, 1, 1, 0], **options)
    return tmp_path


def test_pixels_and_labels_are_those_that_were_written(tmp_path):
    raw = read(str(folder(tmp_path)), seed=0)
    assert raw.train[0].dtype == np.uint8
    assert np.array_equal(raw.train[0], pictures(8).transpose(0, 3, 1, 2))
    assert raw.train[1].tolist() == [0, 1] * 4
    assert np.array_equal(raw.test[0], pictures(4, seed=1).transpose(0, 3, 1, 2))
    assert raw.validation is None
    assert raw.classes is None


def test_shards_in_a_subfolder_gray_pictures_and_class_names(tmp_path):
    gray = pictures(6, (4, 4))
    write(tmp_path / "data" / "train-00000-of-00002.parquet", gray[:4], [0, 1, 2, 0], names=["a", "b", "c", "d"])
    write(tmp_path / "data" / "train-00001-of-00002.parquet", gray[4:], [1, 2], names=["a", "b", "c", "d"])
    write(tmp_path / "data" / "test-00000-of-00001.parquet", gray[:2], [0, 1])
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", gray[2:4], [2, 0])
    raw = read_parquet(tmp_path)
    assert np.array_equal(raw.train[0], gray[:, None])
    assert raw.train[1].tolist() == [0, 1, 2, 0, 1, 2]
    assert raw.classes == 4
    assert raw.validation[1].tolist() == [2, 0]


def test_other_names_and_bare_bytes(tmp_path):
    for part in ("train", "test"):
        files = arrow.array([encoded(each)["bytes"] for each in pictures(3)], arrow.binary())
        parquet.write_table(arrow.table({"img": files, "fine_label": [0, 1, 0]}), tmp_path / f"{part}.parquet")
    assert read_parquet(tmp_path).train[1].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: (path / "test.parquet").unlink(), r"has no test\*\.parquet; .*found train\.parquet"),
        (lambda path: (path / "test.parquet").write_bytes(b"PAR1 and so on"), "cannot read .* as parquet"),
        (lambda path: write(path / "test.parquet", pictures(2, (7, 5, 3)), [0, 1]), r"examples have shape \(3, 7, 5\)"),
        (lambda path: write(path / "test.parquet", pictures(2), [0, 1], other=[3, 4]), None),
        (lambda path: write(path / "test.parquet", pictures(2), [0.5, 1.0]), r"label \(double\)"),
        (lambda path: parquet.write_table(arrow.table({
            "image": arrow.array([{"bytes": b"no picture", "path": None}], PICTURE), "label": [1]}),
            path / "test.parquet"), "row 0: the picture cannot be read"),
        (lambda path: parquet.write_table(arrow.table({
            "image": arrow.array([{"bytes": None, "path": "a.png"}], PICTURE), "label": [1]}),
            path / "test.parquet"), "only a path"),
    ],
    ids=["no test", "damaged", "sizes", "another column", "labels", "picture", "path"],
)  # fmt: skip
def test_what_cannot_be_read_is_said(tmp_path, spoil, words):
    place = folder(tmp_path, count=40)
    spoil(place)
    config = RunConfig(
        data=str(place), model="mlp", hidden=(4,), max_epochs=1, pruning_steps=1, schedule="own", threads=1
    )
    if words is None:
        assert read(str(place), 0).test[1].tolist() == [0, 1]
        return
    with pytest.raises(DataError, match=words):
        run(config, tmp_path / "out", plots=False)


def test_more_pixels_than_the_limit_are_not_read(tmp_path):
    with pytest.raises(DataError, match="more than 200 bytes of pixels"):
        read_parquet(folder(tmp_path), limit=200)
