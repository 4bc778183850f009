"""L5: the same trials over a Ray cluster. Each takes one CPU; what comes back goes to the same file.

The folders of the trials lie below the same path on whichever machine computed them, so they only meet where the
machines share that path; the rows always come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from actprune.errors import RuntimePathError
from actprune.lab.pool import Job, Outcome, attempt


def over(jobs: list[Job], address: str) -> Iterator[Outcome]:
    """Outcomes in the order in which they come. address: of a cluster, ``auto``, or ``local`` to start one here.

    Raises RuntimePathError when Ray is not installed or the cluster cannot be reached.
    """
    if not jobs:
        return
    ray = _ray()
    _connect(ray, address)
    try:
        remote = ray.remote(num_cpus=1, max_retries=0)(attempt)
        pending = {remote.remote(job): job for job in jobs}
        while pending:
            for ready in ray.wait(list(pending), num_returns=1)[0]:
                yield _outcome(ray, ready, pending.pop(ready))
    finally:
        ray.shutdown()


def _outcome(ray: Any, ready: Any, job: Job) -> Outcome:
    try:
        answer = ray.get(ready)
    except ray.exceptions.RayError as error:  # a machine or a process was lost
        return Outcome(job, failed=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return Outcome(job, answer.get("row"), answer.get("failed"))


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise RuntimePathError("--ray needs Ray, which is not installed; pip install 'actprune[ray]'") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    """One thread per trial, as in the processes of one machine."""
    environment = {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}}
    try:
        ray.init(
            address=address,
            runtime_env=environment,
            log_to_driver=False,
            logging_level="warning",
            **({"include_dashboard": False} if address == "local" else {}),
        )
    except Exception as error:  # Ray raises many types for an address nobody answers at
        raise RuntimePathError(
            f"no Ray cluster at {address!r}: {error}; start one with `ray start --head`, or use --ray local"
        ) from error
