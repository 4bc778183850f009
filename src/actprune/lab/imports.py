"""L5: objects named on the command line as ``package.module:attribute``."""

from __future__ import annotations

import importlib
import os
import re
import sys
from functools import reduce

from actprune.errors import ActpruneError, ModelError, unknown_name

_PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_import_string(text: str) -> bool:
    """Whether ``text`` has the form ``package.module:attribute``."""
    return _PATTERN.fullmatch(text) is not None


def import_object(text: str, error: type[ActpruneError] = ModelError) -> object:
    """The object that ``"package.module:attribute"`` names; dotted attributes are followed.

    The current directory is put on ``sys.path`` (and stays there), as ``python -m`` does, because a script installed
    by pip does not have it. Raises ``error`` when the text, module or attribute is wrong, or the import itself fails.
    """
    if not is_import_string(text):
        raise error(f"{text!r} is not an import string; expected package.module:attribute, such as mynet.models:build")
    name, _, attribute = text.partition(":")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{name}.".startswith(f"{missing.name}."):
            raise error(f"importing {name!r} for {text!r} failed: {missing}") from missing
        raise error(
            f"{text!r}: no module named {missing.name!r}; looked in the current directory ({os.getcwd()}) and in the "
            f"installed packages; run from the folder that holds it, or install it"
        ) from missing
    except Exception as failure:
        raise error(f"importing {name!r} for {text!r} failed: {type(failure).__name__}: {failure}") from failure
    try:
        found: object = reduce(getattr, attribute.split("."), module)
    except AttributeError as missing:
        public = [known for known in vars(module) if not known.startswith("_")]
        raise error(f"{text!r}: {unknown_name(f'attribute of {name}', attribute, public)}") from missing
    return found
