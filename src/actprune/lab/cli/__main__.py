"""``python -m actprune.lab.cli`` is the ``actprune`` command."""

from actprune.lab.cli.main import main

main()
