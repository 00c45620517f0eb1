"""One look at a rollout's guardrails, on a worker: queries, charts and callables are asked, and a verdict is gathered.

Apart from ``rollout/verdicts``, which decides, because here is everything that can fail for a while. A source that
fails holds the rollout and never lowers it, and never keeps the other guardrails from being looked at: while one
warehouse is down, a breach that another one shows still stops the rollout.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_amplitude_experiment.api.errors import AmplitudeRateLimited
from airflow_amplitude_experiment.rollout.answers import Absent, Answer, NoData, answered, refuse_fallen, single
from airflow_amplitude_experiment.rollout.guardrails import (
    CALLABLE,
    ChartGuardrail,
    SampleRatioGuardrail,
    SqlGuardrail,
    ThresholdGuardrail,
    defined,
)
from airflow_amplitude_experiment.rollout.verdicts import (
    LEAST_TOLD_AGAIN,
    VERDICTS,
    Circumstances,
    Evidence,
    Record,
    Verdict,
    compared,
    fresh,
    in_numbers,
    is_final,
    limited,
    overall,
    query_hash,
    split,
    unanswered,
)

from ._queries import Queries

ERRORS_TOLERATED_OF_A_CALLABLE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is rolled out.

    :param weights: of each variant, its rollout weight.
    """

    kind: str
    key: str
    id: str
    project_id: str
    segment: str | None
    weights: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRun:
    """A stage as it was run.

    :param start: the read-back of the write that reached it.
    :param end: the next write; ``None`` while the stage runs.
    """

    percentage: int
    previous: int
    start: datetime
    end: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a look has found, as plain JSON but for itself.

    :param guardrails: a record for each, with the numbers that its verdict rests on.
    :param memory: what the next look must be given.
    """

    verdict: Verdict
    reason: str
    guardrails: list[Record]
    memory: dict[str, Any]


def look(
    guardrails: Sequence[Mapping[str, Any]],
    *,
    subject: Subject,
    stages: Sequence[StageRun],
    bake_over: bool,
    comparisons: int,
    alpha: float,
    memory: Mapping[str, Any],
    now: datetime,
    callables: Mapping[str, Callable[..., Any]],
    log: logging.Logger,
) -> Look:
    """Ask every guardrail, and return the verdict of all.

    A guardrail that has breached once stays so, as does a sample ratio alarm: neither is asked again. A callable may
    end the task by ``AirflowFailException`` or ``AirflowSkipException``; that is raised when all were asked, and only
    where none has breached.

    :param stages: in order; the last one is running.
    :param bake_over: this look decides whether the rollout goes on.
    :param comparisons: how many share alpha.
    :param memory: what the look before returned; empty at the first.
    """
    asking = _Asking(
        subject=subject,
        stages=stages,
        now=now,
        callables=callables,
        log=log,
        given=Circumstances(weights=subject.weights, bake_over=bake_over, alpha=alpha / comparisons, now=now),
        memory=copy.deepcopy(dict(memory)),
    )
    found: dict[str, Record] = {}
    # An alarm of the sample ratio makes every comparison doubtful, so it must be known before them.
    for each in sorted(guardrails, key=lambda each: each["type"] != SampleRatioGuardrail.type):
        found[each["name"]] = asking.record(each)
    records = [found[each["name"]] for each in guardrails]
    verdict, reason = overall(records)
    if asking.ending is not None and verdict != "breach":
        raise asking.ending
    return Look(verdict=verdict, reason=reason, guardrails=records, memory=asking.memory)


def lines(seen: Look) -> list[str]:
    """Return what a log and an approval show: one line for each guardrail, with its numbers."""
    if not seen.guardrails:
        return [f"{seen.verdict}: {seen.reason}"]
    return [_line(each) for each in seen.guardrails]


def _line(record: Record) -> str:
    line = f"{record['name']}: {record['verdict']}: {record['reason']}"
    as_of = _complete(record["as_of"]) if record.get("as_of") else ""
    numbers = in_numbers(record) if record.get("comparisons") and record["verdict"] != "breach" else ""
    left_out = f"left out: {'; '.join(record['left_out'])}" if record.get("left_out") else ""
    return ". ".join(filter(None, [line, numbers, as_of, left_out, record.get("note", "")]))


def _complete(as_of: str) -> str:
    return f"source complete up to {datetime.fromisoformat(as_of):%Y-%m-%d %H:%MZ}"


@dataclass(kw_only=True, slots=True)
class _Asking:
    """One look under way."""

    subject: Subject
    stages: Sequence[StageRun]
    now: datetime
    callables: Mapping[str, Callable[..., Any]]
    log: logging.Logger
    given: Circumstances
    memory: dict[str, Any]
    queries: Queries = field(default_factory=Queries)
    ending: AirflowFailException | AirflowSkipException | None = None

    def record(self, guardrail: Mapping[str, Any]) -> Record:
        """Return the record of one guardrail, and remember what must last."""
        own: dict[str, Any] = self.memory.setdefault(guardrail["name"], {})
        if latched := own.get("latched"):
            return dict(latched)
        record = self._tried(guardrail, own)
        if record["verdict"] == "breach" or record.get("alarm"):
            own["latched"] = record
        return record

    def _tried(self, guardrail: Mapping[str, Any], own: dict[str, Any]) -> Record:
        """Ask one guardrail; a source that fails is counted, and holds."""
        try:
            record = self._asked(guardrail, own)
        except NoData as missing:
            record = unanswered(guardrail, "no_data", str(missing))
        except AmplitudeRateLimited as error:
            self.log.warning("Guardrail %r: %s", guardrail["name"], error)
            return unanswered(guardrail, "inconclusive", "Amplitude asks to wait (429)")
        except (AirflowFailException, AirflowSkipException) as error:  # a callable says itself how this task ends
            self.log.warning("Guardrail %r: %s: %s", guardrail["name"], type(error).__name__, error)
            self.ending = self.ending or error
            return unanswered(guardrail, "inconclusive", f"it ended the task itself ({type(error).__name__})")
        except Exception as error:  # noqa: BLE001 - whatever a source raises is logged, counted, and holds
            return self._failed(guardrail, own, error)
        own.pop("errors", None)
        return record

    def _failed(self, guardrail: Mapping[str, Any], own: dict[str, Any], error: Exception) -> Record:
        own["errors"] = times = own.get("errors", 0) + 1
        tolerated = guardrail.get("errors_tolerated", ERRORS_TOLERATED_OF_A_CALLABLE)
        self.log.warning("Guardrail %r could not be asked: %s: %s", guardrail["name"], type(error).__name__, error)
        reason = f"its source failed ({type(error).__name__}; see the log), {times} in a row, tolerated {tolerated}"
        return unanswered(guardrail, "no_data" if times > tolerated else "inconclusive", reason)

    def _asked(self, guardrail: Mapping[str, Any], own: dict[str, Any]) -> Record:
        if guardrail["type"] == CALLABLE:
            return self._called(guardrail)
        try:
            definition = defined(guardrail)
        except ValueError as error:  # what was templated is known by now, and wrong
            raise NoData(str(error)) from error
        if isinstance(definition, ChartGuardrail):
            return self._chart(definition, own)
        if isinstance(definition, ThresholdGuardrail):
            return self._threshold(definition, own)
        evidence, left_out = self._evidence(definition, own)
        if isinstance(definition, SampleRatioGuardrail):
            record = split(definition, evidence, self.given)
        else:
            alarm = next((each["latched"]["alarm"] for each in self.memory.values() if _alarmed(each)), "")
            record = compared(definition, evidence, replace(self.given, alarm=alarm), own["ln_e"])
        return record | ({"left_out": left_out} if left_out else {})

    # --- queries ---

    def _evidence(
        self, guardrail: SqlGuardrail | SampleRatioGuardrail, own: dict[str, Any]
    ) -> tuple[list[Evidence], list[str]]:
        """Ask for the running stage, and for closed ones until nothing can come any more; say which were left out."""
        if own.get("query") != (query := query_hash(guardrail.sql)):  # another query counts something else
            own |= {"query": query, "stages": {}, "ln_e": {}}
        kept: dict[str, Any] = own["stages"]
        found, left_out = [], []
        for stage in self.stages:
            if guardrail.design == "rollout" and stage.percentage == 100:
                continue  # nobody is left to compare with
            start, end = stage.start + guardrail.settle, stage.end or self.now
            if end <= start:
                if stage.end is None:
                    raise NoData(f"units count from {start:%Y-%m-%d %H:%MZ} on, when the write has settled")
                continue
            try:
                found.append(self._of_stage(guardrail, stage, start, end, kept))
            except Absent as absent:
                # A stage that was over before both arms had a unit says nothing, and must not silence the running one.
                if stage.end is None or _name_of(stage) in kept:
                    raise
                left_out.append(str(absent))
        return found, left_out

    def _of_stage(
        self,
        guardrail: SqlGuardrail | SampleRatioGuardrail,
        stage: StageRun,
        start: datetime,
        end: datetime,
        kept: dict[str, Any],
    ) -> Evidence:
        window = guardrail.window if isinstance(guardrail, SqlGuardrail) else None
        name = _name_of(stage)
        if name in kept and datetime.fromisoformat(kept[name]["asked_until"]) > end:
            del kept[name]  # raised by hand: what came after the stage's real end was counted for it
        before = Answer.from_dict(kept[name]) if name in kept else None
        if before and is_final(old := Evidence(stage.percentage, start, stage.end, before), window):
            return old
        columns, rows = self._run(guardrail, self._parameters(stage, start, end, window))
        needs = ("n", "sum") if isinstance(guardrail, SqlGuardrail) else ("n",)
        try:
            answer = answered(columns, rows, arms=guardrail.arms(self.subject.weights), now=self.now, needs=needs)
        except NoData as missing:
            raise type(missing)(f"stage of {stage.percentage} %: {missing}") from missing
        if before and stage.end is not None:
            refuse_fallen(before, answer, stage.percentage)
        kept[name] = {"asked_until": end.isoformat(), **answer.as_dict()}
        return Evidence(stage.percentage, start, stage.end, answer)

    def _threshold(self, guardrail: ThresholdGuardrail, own: dict[str, Any]) -> Record:
        """Ask for the time since the last value, so that no two values count the same events."""
        stage = self.stages[-1]
        begun = start = stage.start + guardrail.settle
        if (until := own.get("until")) and datetime.fromisoformat(until) > start:
            start = datetime.fromisoformat(until)
        if start >= self.now:
            return self._told_again(own, f"nothing to ask for before {start:%Y-%m-%d %H:%M:%SZ}", begun)
        columns, rows = self._run(guardrail, self._parameters(stage, start, self.now, None))
        value, as_of = single(columns, rows, now=self.now)
        if as_of <= start:
            return self._told_again(own, f"the source is complete up to {as_of:%Y-%m-%d %H:%MZ} only", begun)
        own["until"] = as_of.isoformat()
        when = f"from {start:%Y-%m-%d %H:%M} to {as_of:%Y-%m-%d %H:%MZ}"
        record = self._counted(limited(guardrail, value, when=when, before=own.get("in_a_row", 0)), own)
        return fresh(record, self.given, start=begun, until=as_of)

    def _told_again(self, own: Mapping[str, Any], why: str, begun: datetime) -> Record:
        last = self._nothing_new(own, why)
        return fresh(last, self.given, start=begun, until=datetime.fromisoformat(own["until"]), least=LEAST_TOLD_AGAIN)

    def _parameters(self, stage: StageRun, start: datetime, end: datetime, window: timedelta | None) -> dict[str, Any]:
        """Return what is bound: moments as texts, which every driver takes and no driver shifts to a zone."""
        return {
            "stage_start": start.astimezone(UTC).isoformat(timespec="seconds"),
            "stage_end": end.astimezone(UTC).isoformat(timespec="seconds"),
            "percentage": stage.percentage,
            "previous_percentage": stage.previous,
            "window": int(window.total_seconds()) if window else 0,
            "key": self.subject.key,
        }

    def _run(
        self, guardrail: SqlGuardrail | SampleRatioGuardrail | ThresholdGuardrail, values: Mapping[str, Any]
    ) -> tuple[list[str], list[Sequence[Any]]]:
        return self.queries.run(guardrail.sql, conn_id=guardrail.conn_id, values=values)

    # --- charts and callables ---

    def _chart(self, guardrail: ChartGuardrail, own: dict[str, Any]) -> Record:
        from airflow_amplitude_experiment.hooks.analytics import AmplitudeAnalyticsHook

        chart = AmplitudeAnalyticsHook(guardrail.conn_id).chart(guardrail.chart_id)
        try:
            newest = [chart.newest(label, self.now) for label in guardrail.labels]
        except ValueError as error:  # a chart that is not one over time, or has no such series
            raise NoData(str(error)) from error
        points = [point for point in newest if point and point[1] is not None]
        if len(points) < len(newest) or len({x for x, _ in points}) > 1:
            raise NoData(f"chart {guardrail.chart_id} has no complete value for {' and '.join(guardrail.labels)}")
        x, numbers = points[0][0], [float(value or 0) for _, value in points]
        if self._is_from_before(x, chart.timezone):
            raise NoData(
                f"the newest complete value, of {x}, is from before this stage. A chart by day is for stages of two "
                "days and more: Stage(50, '2d', guardrails=[…])"
            )
        if len(numbers) == 2 and numbers[1] == 0:
            raise NoData(f"{guardrail.labels[1]!r} is 0 in {x}, so there is no ratio")
        if own.get("x") == x:
            return self._nothing_new(own, f"no newer value than that of {x}")
        own["x"] = x
        value = numbers[0] / numbers[1] if len(numbers) == 2 else numbers[0]
        return self._counted(limited(guardrail, value, when=f"in {x}", before=own.get("in_a_row", 0)), own)

    def _is_from_before(self, x: str, timezone: str) -> bool:
        """Whether a period began before the day, or for times of day the hour, in which the running stage began."""
        from zoneinfo import ZoneInfo

        zone = ZoneInfo(timezone)
        period, begun = datetime.fromisoformat(x), self.stages[-1].start.astimezone(zone)
        if period.tzinfo:
            period = period.astimezone(zone)
        by_hour = ":" in x
        first = begun.replace(hour=begun.hour if by_hour else 0, minute=0, second=0, microsecond=0, tzinfo=None)
        return period.replace(tzinfo=None) < first

    def _counted(self, record: Record, own: dict[str, Any]) -> Record:
        own |= {"in_a_row": record["in_a_row"], "last": record, "stage": self.stages[-1].start.isoformat()}
        return record

    def _nothing_new(self, own: Mapping[str, Any], why: str) -> Record:
        """Return the verdict on this stage's last value again; it counts once.

        :raises NoData: there is none of this stage.
        """
        if own.get("stage") != self.stages[-1].start.isoformat():
            raise NoData(why)
        return dict(own["last"])

    def _called(self, guardrail: Mapping[str, Any]) -> Record:
        """Call a Python function with what it asks for by name."""
        name, stage = guardrail["name"], self.stages[-1]
        if name not in self.callables:
            raise NoData(f"there is no function {name!r} in this version of the DAG")
        offered = {
            "stage_start": stage.start,
            "stage_end": self.now,
            "percentage": stage.percentage,
            "previous_percentage": stage.previous,
            "key": self.subject.key,
        }
        verdict = self.callables[name](**_asked_for(self.callables[name], offered))
        if verdict not in VERDICTS:
            raise NoData(f"it returned {verdict!r}; a guardrail returns one of {', '.join(map(repr, VERDICTS))}")
        return unanswered(guardrail, verdict, f"{name}() says so")


def _name_of(stage: StageRun) -> str:
    return f"{stage.percentage} % since {stage.start.astimezone(UTC).isoformat()}"


def _asked_for(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    wanted = inspect.signature(function).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in wanted):
        return dict(offered)
    return {each.name: offered[each.name] for each in wanted if each.name in offered}


def _alarmed(own: Any) -> bool:
    return bool((own.get("latched") or {}).get("alarm"))
