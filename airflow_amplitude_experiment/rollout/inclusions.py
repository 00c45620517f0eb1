"""What a sync of inclusions means for a variant as it was just read: who is added, who is removed, what is refused.

Pure: nothing is asked, nothing is sent. The decision is the difference between what is there and what is wanted, so
it is the same for a first run, for a re-run after a crash half way (which finds less to do), and for a second task
at the same time. Ids stand in no text and no repr here, only how many they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from airflow_amplitude_experiment.api._checks import BULK_LIMIT, INCLUSIONS_LIMIT, Check, one_of
from airflow_amplitude_experiment.api.errors import RolloutRefused

if TYPE_CHECKING:
    from fractions import Fraction

Mode = Literal["replace", "add", "remove"]
MODE = one_of("replace", "add", "remove")

MOST_TO_REMOVE = 100_000
"""Ids that a source for ``remove`` may hold. Only those that are there can go, but all are kept in memory."""

READABLE = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


class Change(NamedTuple):
    """What is to be sent.

    :param before: how many are there.
    :param kept: how many stay only because ``keep`` names them.
    """

    add: tuple[str, ...]
    remove: tuple[str, ...]
    before: int
    kept: int

    @property
    def after(self) -> int:
        """How many are there in the end."""
        return self.before + len(self.add) - len(self.remove)

    @property
    def size(self) -> int:
        """How many are added plus how many are removed."""
        return len(self.add) + len(self.remove)

    def __repr__(self) -> str:
        return f"{self.before:,} before, {len(self.add):,} added, {len(self.remove):,} removed, {self.after:,} after"


class Limit(NamedTuple):
    """The largest change that is let through: a count, or a share of what is there before, in percent."""

    number: int | None = None
    share: Fraction | None = None

    def allowed(self, before: int) -> int:
        """Return how many may change.

        Of nothing a share is nothing. To let the first fill of an empty variant through would be of no use: where it
        is cut off after a hundred, the rest is many times what is there, and no second try could complete it.
        """
        return int(self.share * before / 100) if self.share is not None else self.number or 0

    def __str__(self) -> str:
        return f"{self.number:,}" if self.share is None else f"{float(self.share):g}%"


def _limit(value: Any) -> Limit:
    from fractions import Fraction

    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    written = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(%?)\s*", str(value))
    if written is None:
        raise ValueError
    if not written[2]:
        return Limit(number=int(written[1]))
    share = Fraction(written[1])
    if share > 100:
        raise ValueError
    return Limit(share=share)


MAX_CHANGE = Check(
    "a count such as 250, or a share of those who are there before, such as '10%' (at most '100%')", _limit
)
"""A share above 100 % is refused: what a crash left half-sent could then count as a larger share of the fewer."""


def difference(present: Collection[str], wanted: Collection[str], *, mode: Mode, keep: Collection[str] = ()) -> Change:
    """Return what has to be sent, so that a variant holds what is wanted.

    ===========  ==========================================================================
    mode         in the end the variant holds
    ===========  ==========================================================================
    ``replace``  exactly what is wanted, and those of ``keep`` who were there
    ``add``      what was there, and what is wanted
    ``remove``   what was there but for what is wanted; those of ``keep`` stay
    ===========  ==========================================================================

    :param present: ids as they were read; a blank one can't be named to Amplitude and is left alone.
    :param wanted: ids of the source.
    :param keep: ids that are never removed; they are not added.
    """
    there = dict.fromkeys(each for each in present if each.strip())
    meant, kept = set(wanted), set(keep)
    add = () if mode == "remove" else tuple(each for each in dict.fromkeys(wanted) if each not in there)
    going = {
        "replace": [each for each in there if each not in meant],
        "add": [],
        "remove": [each for each in there if each in meant],
    }[mode]
    remove = tuple(each for each in going if each not in kept)
    return Change(add, remove, len(there), len(going) - len(remove))


def in_chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield the ids in lists of as many as one request takes."""
    for start in range(0, len(ids), BULK_LIMIT):
        yield list(ids[start : start + BULK_LIMIT])


def is_running_experiment(kind: str, found: Any, variants: Collection[str]) -> bool:
    """Whether an experiment is enabled and compares variants, so that whoever is included is not randomised.

    A flag compares nothing, however many variants it has.
    """
    return kind == "experiment" and bool(found.enabled) and not found.deleted and len(variants) > 1


def refuse_unknown_variant(what: str, variant: str, variants: Collection[str]) -> None:
    """Refuse a variant that the object does not have.

    :raises RolloutRefused: lists those that it has.
    """
    if variant not in variants:
        there = ", ".join(map(repr, variants)) or "none"
        raise RolloutRefused(f"{what} has no variant {variant!r}; there are: {there}. Nothing was written.")


def refuse_elsewhere(what: str, wanted: Collection[str], others: Mapping[str, Collection[str]], *, noun: str) -> None:
    """Refuse to include what another variant of the same object includes: only one of them would count.

    :param others: what each other variant holds.
    :raises RolloutRefused: names each variant and how many; nobody by id.
    """
    meant = set(wanted)
    counts = {variant: len(meant.intersection(ids)) for variant, ids in others.items()}
    if found := [f"{count:,} in {variant!r}" for variant, count in counts.items() if count]:
        raise RolloutRefused(
            f"{what}: of the {len(meant):,} {noun}s of the source some are included in another variant already: "
            f"{', '.join(found)}. Only one of the variants would count for them. Nothing was written. Take them out "
            "of the source or out of that variant (mode='remove'); check_other_variants=False does not look."
        )


def refuse_running(what: str, change: Change, *, noun: str) -> None:
    """Refuse to change who is included in a running experiment.

    :raises RolloutRefused: always.
    """
    raise RolloutRefused(
        f"{what} is a running experiment, and {change.size:,} {noun}s would change. Whoever is included is not "
        "randomised and spoils the sample ratio, and whoever no longer is may get another variant. Nothing was "
        "written. Sync before the experiment starts, or pass into_running_experiment=True; the record then says so."
    )


def refuse_above_cap(what: str, change: Change) -> None:
    """Refuse more users than a variant takes, before anything is written.

    :raises RolloutRefused: with the way out.
    """
    if change.add and change.after > INCLUSIONS_LIMIT:
        raise RolloutRefused(
            f"{what} would hold {change.after:,} users ({change}), but Amplitude takes {INCLUSIONS_LIMIT:,} in a "
            "variant. Nothing was written. The way out is a cohort: collect these people in one in Amplitude and "
            "include it with AmplitudeSyncVariantCohortsOperator, or target a segment by a property that they share."
        )


def refuse_large_change(what: str, change: Change, limit: Limit, *, noun: str) -> None:
    """Refuse a change that is larger than the caller expects.

    :raises RolloutRefused: with the counts.
    """
    allowed = limit.allowed(change.before)
    if change.size <= allowed:
        return
    advice = "Look at the source first; if it is right, run once with a larger max_change."
    if not change.before and limit.share is not None:
        advice = "Of nobody there is no share: fill the variant once without max_change, or with a count."
    raise RolloutRefused(
        f"{what}: {change.size:,} {noun}s would change ({change}), but max_change={limit} allows {allowed:,}. "
        f"Nothing was written. {advice}"
    )


def refuse_readable(what: str, ids: Collection[str], deployments: Sequence[str]) -> None:
    """Refuse ids that look like e-mail addresses where every client can read them.

    :param deployments: labels of the client deployments that serve the object.
    :raises RolloutRefused: says how many.
    """
    if deployments:
        raise RolloutRefused(
            f"{what}: {readable(ids):,} of the {len(ids):,} ids to add look like e-mail addresses. It is evaluated "
            f"locally and served to a client deployment ({', '.join(deployments)}), so everybody who opens the "
            "application can read them. Nothing was written. Include opaque ids, or pass allow_readable_ids=True."
        )


def serves_clients(deployment: Any) -> bool:
    """Whether a deployment's key may be in the hands of everybody: it is not known to be a server's.

    No documented answer shows a deployment's type; the keys of servers begin with ``server-``, and the key of a
    project's default deployment is the project's own, which clients hold too.
    """
    is_server = deployment.type == "server" or str(deployment.key or "").startswith("server-")
    return not deployment.deleted and not is_server


def readable(ids: Collection[str]) -> int:
    """Return how many ids look like e-mail addresses."""
    return sum(1 for each in ids if READABLE.fullmatch(each))
