"""L5: three sentences on a run, computed from its figures: what was asked, what it did to accuracy, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from actprune.lab.report import words as w
from actprune.lab.report.read import Run, dense, short
from actprune.lab.report.read import network as network_of

MISSED, FELL, APART = 0.005, 0.005, 0.015
"""From which on it is said: sparsity below what was asked, accuracy lost, test and validation accuracy apart."""


@dataclass(frozen=True)
class Verdict:
    """Three sentences, a word with its tone (good, warn, bad), and what a reader should keep in mind."""

    sentences: list[str]
    badge: str
    tone: str
    notes: list[str] = field(default_factory=list)


def of_run(run: Run) -> Verdict:
    """The verdict on one run, finished or not."""
    if not run.summary:
        return _unfinished(run)
    cautions = _cautions(run)
    took = w.seconds(run.summary.get("seconds"))
    cost = f"Training took {w.plural(_whole(run.summary, 'epochs'), 'epoch')} and {took}"
    if cautions:
        last = f"{cost}; watch out: {cautions[0]}."
    else:
        last = (
            f"{cost}; next, `actprune compact` removes what is dead and `actprune pack` stores the rest in few bytes."
        )
    badge, tone = _badge(run, bool(cautions))
    return Verdict([_actual(run), _accuracy(run), last], badge, tone, [f"{text}." for text in cautions[1:]])


def _actual(run: Run) -> str:
    found = run.summary
    target, got = w.number(found.get("target")), w.number(found.get("actual"))
    verb = "was asked to remove" if target is None or got is None or got < target - MISSED else "removed"
    of = "of all weights" if found.get("budget_of") == "all" else "of the weights it may prune"
    what = f"{w.share(target)} {of}"
    if verb == "removed":
        what = f"{w.percent(got)} {of}, as asked ({w.share(target)}),"
    elif got is not None:
        what += f" and removed {w.percent(got)},"
    network = found.get("network") or {}
    total, kept = (int(w.number(network.get(key)) or 0) for key in ("weights", "kept"))
    left = f": {kept:,} of all {total:,} weights of the network are left ({w.percent(kept / total)})" if total else ""
    done, planned = _whole(found, "pruning_steps_done"), _whole(found, "pruning_steps_planned")
    many = w.plural(done, "pruning step") if done == planned else f"{done} of {w.plural(planned, 'pruning step')}"
    return (
        f"{found.get('method', run.config.get('method'))} {verb} {what} in {many} of {network_of(run.config)} on "
        f"{run.config.get('data')}{left}."
    )


def _accuracy(run: Run) -> str:
    found, before = run.summary, dense(run)
    test, validation = w.number(found.get("test_accuracy")), w.number(found.get("validation_accuracy"))
    first = before.get("validation_accuracy")
    loss, earlier = w.number(found.get("test_loss")), before.get("validation_loss")
    if test is None and loss is not None:
        was = f"; validation loss was {earlier:.4g} just before the first pruning" if earlier is not None else ""
        return f"The pruned network has a test loss of {loss:.4g}{was}; there is no {run.score} to tell."
    tested = f"The pruned network {_reaches(run, w.percent(test))} test set"
    if validation is None or first is None:
        return f"{tested} and {w.percent(validation)} on the validation set; there is no figure from before pruning."
    return (
        f"{tested}; on the validation set it went from {w.percent(first)} just before the first pruning to "
        f"{w.percent(validation)} ({w.points(validation - first)} points)."
    )


def _reaches(run: Run, figure: str) -> str:
    return f"is right on {figure} of the" if run.score == "accuracy" else f"has an {run.score} of {figure} on the"


def _cautions(run: Run) -> list[str]:
    """What a careful reader would object, most important first; clauses without a full stop."""
    found, before, out = run.summary, dense(run), []
    target, got = w.number(found.get("target")), w.number(found.get("actual"))
    if found.get("remark"):
        out.append(str(found["remark"]))
    elif target is not None and got is not None and got < target - MISSED:
        out.append(f"the target was missed by {w.points(target - got).lstrip('+')} points")
    out += emptied(run)
    test, validation = w.number(found.get("test_accuracy")), w.number(found.get("validation_accuracy"))
    first = before.get("validation_accuracy")
    if validation is not None and first is not None:
        if validation < first - FELL:
            out.append(
                f"validation {run.score} fell by {w.points(first - validation).lstrip('+')} points; more epochs, "
                "more pruning steps or a lower sparsity may keep it"
            )
        elif validation > first + FELL:
            out.append(
                "the gain is no effect of pruning alone: the first pruning came at epoch "
                f"{before.get('epoch', 0):.0f}, when training was not over; `actprune compare` sets it against a dense "
                "network trained as long"
            )
    if test is not None and validation is not None and abs(test - validation) > APART:
        out.append(
            f"test and validation {run.score} differ by {w.points(abs(test - validation)).lstrip('+')} points, which "
            "on small sets may be chance; several seeds (`--seeds 0,1,2`) tell"
        )
    return out


def emptied(run: Run) -> list[str]:
    """Layers that lost every weight."""
    empty = [short(row["name"]) for row in run.layers if w.number(row.get("kept")) == 0]
    return [f"no weight is left in {w.listed(empty)}, so that the output is a constant"] if empty else []


def _badge(run: Run, cautious: bool) -> tuple[str, str]:
    found, before = run.summary, dense(run)
    target, got = w.number(found.get("target")), w.number(found.get("actual"))
    validation, first = w.number(found.get("validation_accuracy")), before.get("validation_accuracy")
    if target is None or got is None or got < target - MISSED:
        return "sparsity not reached", "bad"
    if validation is not None and first is not None and validation < first - FELL:
        return "reached, accuracy fell", "warn"
    return "sparsity reached", "good" if not emptied(run) else "warn"


def _unfinished(run: Run) -> Verdict:
    """A run that is still going on, or was interrupted."""
    limit = run.config.get("max_epochs")
    target = w.share(run.config.get("sparsity"))
    what = f"{run.config.get('method')} was asked to remove {target} of the weights of {network_of(run.config)}"
    if not run.rows:
        where = "no epoch is finished yet"
    else:
        last = run.rows[-1]
        where = (
            f"after epoch {w.whole(last.get('epoch'))} of at most {w.whole(limit)}, with "
            f"{w.plural(len(run.pruned), 'pruning step')} done, {w.percent(last.get('sparsity'))} are removed"
        )
    scores = (
        f"In the last epoch the {run.score} was {w.percent(run.rows[-1].get('train_accuracy'))} in training and "
        f"{w.percent(run.rows[-1].get('validation_accuracy'))} on the validation set; the test set is for the end."
        if run.rows
        else "There are no accuracies yet."
    )
    last_words = "`actprune resume` goes on where the run stood; until then nothing here is a result."
    return Verdict([f"This run is not finished: {what} on {run.config.get('data')}; {where}.", scores, last_words],
                   "not finished", "warn")  # fmt: skip


def _whole(values: dict[str, Any], key: str) -> int:
    return round(w.number(values.get(key)) or 0)


def of_seeds(runs: Sequence[Run], wanted_seeds: int) -> Verdict:
    """The verdict on the same run under several seeds."""
    over = [run for run in runs if run.summary]
    if not over:
        what = f"{wanted_seeds} were asked, {len(runs)} have begun, none is over"
        return Verdict(
            [f"No seed is finished: {what}.", "There are no accuracies yet.", "`actprune resume` goes on with them."],
            "not finished", "warn",
        )  # fmt: skip
    summaries = [run.summary for run in over]
    config, test = over[0].config, w.numbers(summaries, "test_accuracy")
    got, target = w.numbers(summaries, "actual"), w.numbers(summaries, "target")
    of = "of all weights" if summaries[0].get("budget_of") == "all" else "of the weights it may prune"
    reached = sum(a <= b + MISSED for a, b in zip(target, got, strict=False))
    first = (
        f"{config.get('method')} removed {w.with_spread(got)} {of} of {network_of(config)} on "
        f"{config.get('data')} ({w.share(config.get('sparsity'))} asked); {reached} of {w.plural(len(over), 'seed')} "
        f"reached what was asked."
    )
    changes = [c for run in over if (c := change(run)) is not None]
    moved = (
        f"; validation {over[0].score} changed by {_points(changes)} points since the first pruning" if changes else ""
    )
    reached_score = _reaches(over[0], w.with_spread(test)).replace("is right", "are right").replace("has an", "have an")
    second = f"The pruned networks {reached_score} test set{moved}."
    notes = _seed_cautions(over, wanted_seeds, test, changes)
    cost = f"A seed trained for {w.seconds(w.average(w.numbers(summaries, 'seconds')))} on average"
    third = f"{cost}; watch out: {notes[0]}." if notes else f"{cost}; nothing stands out among the seeds."
    tone = "warn" if len(over) < wanted_seeds else "good" if reached == len(over) else "bad"
    badge = {"warn": "not finished", "good": "sparsity reached", "bad": "sparsity not reached"}[tone]
    return Verdict([first, second, third], badge, tone, [f"{text}." for text in notes[1:]])


def change(run: Run) -> float | None:
    """Validation accuracy at the end minus that just before the first pruning."""
    first, last = dense(run).get("validation_accuracy"), w.number(run.summary.get("validation_accuracy"))
    return None if first is None or last is None else last - first


def _points(changes: list[float]) -> str:
    around = w.spread(changes)
    return w.points(w.average(changes)) + (f" ± {100 * around:.2f}" if around is not None else "")


def _seed_cautions(over: Sequence[Run], wanted: int, test: list[float], changes: list[float]) -> list[str]:
    out = []
    if len(over) < wanted:
        out.append(f"{len(over)} of {w.plural(wanted, 'seed')} are finished; `actprune resume` goes on with the others")
    out += [f"{run.name}: {text}" for run in over for text in emptied(run)]
    if len(over) < 3:
        out.append(f"{w.plural(len(over), 'seed')} tell little about the spread; three or more do")
    elif test and max(test) - min(test) > 2 * APART:
        out.append(f"the seeds lie {w.points(max(test) - min(test)).lstrip('+')} points apart on the test set")
    if changes and (w.average(changes) or 0) > FELL:
        out.append(
            "the gain is no effect of pruning alone, since training was not over at the first pruning; `actprune "
            "compare` sets it against dense networks trained as long"
        )
    elif changes and (w.average(changes) or 0) < -FELL:
        out.append("accuracy fell; more epochs, more pruning steps or a lower sparsity may keep it")
    return out
