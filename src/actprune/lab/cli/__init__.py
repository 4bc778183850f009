"""L5: the ``actprune`` command."""
