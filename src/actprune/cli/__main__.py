"""``python -m actprune.cli`` is the ``actprune`` command."""

from actprune.cli.main import main

main()
