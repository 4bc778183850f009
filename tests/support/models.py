"""Networks of other packages: asked for where they are installed, and demanded in CI."""

import os
from importlib.util import find_spec

import pytest


def needs(package):
    """Skip a test, with the reason, where a package of models is absent; in CI that is a failure."""
    if find_spec(package) is None:
        stop = pytest.fail if os.environ.get("ACTPRUNE_REQUIRE_DATA") else pytest.skip
        stop(f"{package} is not installed: pip install --no-deps timm torchvision; pip install transformers")
