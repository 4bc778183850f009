"""L5: MNIST and Fashion-MNIST: where they are looked for, what they must contain, how they are downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actprune.errors import DataError
from actprune.lab.dataset import Raw
from actprune.lab.idx import read_idx

TRAIN_X, TRAIN_Y = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_X, TEST_Y = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FILES = (TRAIN_X, TRAIN_Y, TEST_X, TEST_Y)
DEBIAN = Path("/usr/share/datasets")


@dataclass(frozen=True)
class Known:
    """A published data set of four idx files.

    content   SHA-256 of the uncompressed files, in the order of ``FILES``: equal for every packaging (Debian and
              other mirrors recompress, so the checksum of a ``.gz`` says nothing about what is in it)
    archives  SHA-256 of the ``.gz`` files as ``url`` serves them
    """

    url: str
    content: tuple[str, str, str, str]
    archives: tuple[str, str, str, str]
    debian: str | None = None


KNOWN = {
    "mnist": Known(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": Known(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        debian="dataset-fashion-mnist",
    ),
}


def read_known(name: str, download: bool = False) -> Raw:
    """The arrays of ``"mnist"`` or ``"fashion-mnist"``, their content verified against the published checksums.

    Raises DataError, listing every place looked at and the remedies, when the files are nowhere (and ``download`` is
    False or fails), and when files are found whose content is not the published one.
    """
    folder, looked = find(name)
    if folder is None:
        if not download:
            raise DataError(_missing(name, looked))
        folder = _download(name)
    try:
        return read_folder(folder, KNOWN[name].content)
    except DataError as error:
        raise DataError(
            f"{name}: {error}. Remove or replace the files in {folder}; "
            f"to use data of your own, give its folder as a path"
        ) from error


def find(name: str) -> tuple[Path | None, tuple[str, ...]]:
    """The first place that holds all four files, and a line for every place that does not.

    Order: $ACTPRUNE_DATA/<name>, $ACTPRUNE_DATA itself, ./data/<name>, /usr/share/datasets/<name> (Debian), user cache.
    """
    looked: list[str] = []
    for place, label in _places(name):
        reason = _lacks(place)
        # A folder that is not named after the data set may well hold the other one: its smallest file tells.
        if not reason and place.name != name and not _holds(place, name):
            reason = "holds another data set"
        if not reason:
            return place, tuple(looked)
        looked.append(f"{label}: {reason}")
    return None, tuple(looked)


def idx_file(folder: Path, name: str) -> Path | None:
    """``name`` or ``name.gz`` in ``folder``."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_folder(folder: Path, content: tuple[str, str, str, str] | None = None) -> Raw:
    """The four standard idx files of a folder; ``content`` are their checksums. Raises DataError if one is missing."""
    if reason := _lacks(folder):
        raise DataError(f"{folder}: {reason}; expected {', '.join(FILES)}, each plain or with .gz")
    paths = [idx_file(folder, name) or folder / name for name in FILES]
    train_x, train_y, test_x, test_y = (
        read_idx(path, sha256) for path, sha256 in zip(paths, content or (None,) * 4, strict=True)
    )
    return Raw((train_x, train_y), (test_x, test_y))


def _places(name: str) -> Iterator[tuple[Path, str]]:
    """Every place looked at, with the words an error message uses for it."""
    if root := os.environ.get("ACTPRUNE_DATA"):
        yield Path(root) / name, f"{Path(root) / name} ($ACTPRUNE_DATA/{name})"
        yield Path(root), f"{root} ($ACTPRUNE_DATA)"
    yield Path("data") / name, f"{Path('data').absolute() / name} (./data/{name})"
    yield DEBIAN / name, f"{DEBIAN / name} (Debian)"
    yield cache(name), f"{cache(name)} (user cache)"


def cache(name: str) -> Path:
    """Where a download goes. Raises DataError when pooch, an optional dependency, is not installed."""
    try:
        import pooch
    except ImportError as error:
        raise DataError(f"{name} needs pooch; pip install 'actprune[lab]'") from error
    return Path(pooch.os_cache("actprune")) / name


def _lacks(folder: Path) -> str:
    """Why the four files cannot be read from ``folder``; empty if they can."""
    if not folder.is_dir():
        return "no such folder"
    missing = [name for name in FILES if idx_file(folder, name) is None]
    return "" if not missing else "no idx files" if len(missing) == len(FILES) else f"lacks {', '.join(missing)}"


def _holds(folder: Path, name: str) -> bool:
    """Whether the test labels, the smallest file, are those of the data set ``name``."""
    try:
        read_idx(idx_file(folder, TEST_Y) or folder / TEST_Y, KNOWN[name].content[3])
    except DataError:
        return False
    return True


def _missing(name: str, looked: tuple[str, ...]) -> str:
    known = KNOWN[name]
    package = f" or install the Debian package {known.debian}," if known.debian else ""
    unset = "" if os.environ.get("ACTPRUNE_DATA") else "  $ACTPRUNE_DATA: not set\n"
    places = unset + "".join(f"  {line}\n" for line in looked)
    return (
        f"data set {name!r} was not found. Looked in\n{places}Set ACTPRUNE_DATA to the folder that holds {name}/ with "
        f"the four idx files,{package} or allow the download with --download (download=True); "
        f"'digits' is built in and needs none of these"
    )


def _download(name: str) -> Path:
    """Fetch the four archives into the cache, each checked. Raises DataError naming the address and the cause."""
    folder, known = cache(name), KNOWN[name]
    import pooch

    archives = {f"{file}.gz": f"sha256:{known}" for file, known in zip(FILES, known.archives, strict=True)}
    fetcher = pooch.create(path=folder, base_url=known.url, registry=archives, retry_if_failed=2)
    for archive in archives:
        try:
            fetcher.fetch(archive)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
            raise DataError(
                f"downloading {known.url}{archive} to {folder} failed: {error}. Check the connection, or fetch "
                f"the four files by hand and set ACTPRUNE_DATA to the folder that holds {name}/"
            ) from error
    return folder
