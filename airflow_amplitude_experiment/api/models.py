"""What Amplitude answers, as typed objects.

Models read and write the API's camelCase, keep fields that they don't know, and hold every id as text,
whether the API sent it as text or as a number. Lists and details show different fields, so all but ``id``
and ``key`` may be missing (``None``): read :meth:`Model.has` before deciding on an absence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

T = TypeVar("T")


def _id_text(value: Any) -> Any:
    """Read an id as text (A1, A3, A5); ids are numbers or texts, never true or false."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _whole_if_whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Id = Annotated[str, BeforeValidator(_id_text)]
Number = Annotated[int | Annotated[float, AfterValidator(_whole_if_whole)], Field(union_mode="left_to_right")]
Ids = list[Id]


class Model(BaseModel):
    """An object of the API. Unknown fields are kept and written back; a known one of a wrong type is an error."""

    model_config = ConfigDict(
        extra="allow", alias_generator=to_camel, populate_by_name=True, frozen=True, strict=True, allow_inf_nan=False
    )

    def has(self, field: str) -> bool:
        """Whether the answer held this field (given in snake_case)."""
        return field in self.model_fields_set

    def as_json(self) -> dict[str, Any]:
        """Return the object as the API wrote it: camelCase, only the fields that were there."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Condition(Model):
    """One condition of a segment. ``type`` other than ``property`` can be read but not written back."""

    type: str | None = None
    prop: str | None = None
    op: str | None = None
    values: list[Any] | None = None


class TargetSegment(Model):
    """Users who match all conditions; ``percentage`` of them get a variant. No condition matches everyone."""

    name: str | None = None
    conditions: list[Condition] | None = None
    percentage: Number | None = None
    bucketing_key: str | None = None
    rollout_weights: dict[str, Number] | None = None


class ParentDependencies(Model):
    """The gates before an object: mutex slots, holdouts, prerequisites, by the parent's id."""

    flags: dict[str, list[str]] | None = None
    operator: str | None = None


class Variant(Model):
    """A variant. ``payload`` and ``rollout_weight`` are shown by the variants call only."""

    key: str
    name: str | None = None
    description: str | None = None
    payload: Any = None
    rollout_weight: Number | None = None

    @property
    def value(self) -> Any:
        """The payload, where one is set; ``{}``, null and a missing one all mean none (A11)."""
        return None if self.payload == {} else self.payload


class Flag(Model):
    """A flag. ``rollout_percentage`` (0 to 100) is the share of users who match no segment."""

    id: Id
    key: str
    project_id: Id | None = None
    deployments: Ids | None = None
    name: str | None = None
    description: str | None = None
    enabled: bool | None = None
    evaluation_mode: str | None = None
    bucketing_key: str | None = None
    bucketing_salt: str | None = None
    bucketing_unit: str | None = None
    variants: list[Variant] | None = None
    rollout_percentage: Number | None = None
    rollout_weights: dict[str, Number] | None = None
    target_segments: list[TargetSegment] | None = None
    parent_dependencies: ParentDependencies | None = None
    deleted: bool | None = None
    tags: list[str] | None = None
    created_by: Id | None = None
    last_modified_by: Id | None = None
    created_at: str | None = None
    last_modified_at: str | None = None


class Experiment(Flag):
    """An experiment: a flag with a lifecycle. ``state`` is a label, ``enabled`` is the switch."""

    decision: str | None = None
    decision_reason: str | None = None
    rolled_out_variant: str | None = None
    sticky_bucketing: bool | None = None
    state: str | None = None
    start_date: str | None = None
    end_date: str | None = None
    experiment_type: str | None = None
    exposure_event: dict[str, Any] | None = None

    @property
    def ends_at(self) -> datetime | None:
        """The moment the experiment ends, in UTC. A date alone ends with that day."""
        if not self.end_date:
            return None
        moment = datetime.fromisoformat(self.end_date)
        if len(self.end_date) == len("2026-01-31"):
            day = moment.date()
            return datetime.combine(day if day == date.max else day + timedelta(days=1), time.min, UTC)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class FlagConfig(Model):
    """An object as one of its versions holds it; experiments show no percentage there."""

    id: Id | None = None
    key: str | None = None
    project_id: Id | None = None
    enabled: bool | None = None
    rollout_percentage: Number | None = None
    target_segments: list[TargetSegment] | None = None


class Version(Model):
    """One version of an object; ``version`` counts from 1 per object and serves as its id."""

    version: Annotated[int, BeforeValidator(_whole_if_whole)]
    flag_config: FlagConfig
    created_at: str | None = None
    created_by: Id | None = None


class Deployment(Model):
    """A deployment. ``key`` is left out of ``repr``: server keys are secret."""

    id: Id
    project_id: Id | None = None
    label: str | None = None
    key: str | None = None
    deleted: bool | None = None
    type: str | None = None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        return ((name, "***" if name == "key" and value else value) for name, value in super().__repr_args__())

    def __str__(self) -> str:
        return repr(self)


class MutexSlot(Model):
    """One slot of a mutex group; ``index`` is what ``update_slot`` takes."""

    name: str | None = None
    index: Annotated[int, BeforeValidator(_whole_if_whole)] | None = None
    variant_key: str | None = None
    percentage: Number | None = None
    experiments: Ids | None = None
    holdouts: Ids | None = None
    individuals: Ids | None = None
    cohorts: Ids | None = None


class Mutex(Model):
    """A mutex group."""

    id: Id
    project_id: Id | None = None
    name: str | None = None
    key: str | None = None
    description: str | None = None
    evaluation_mode: str | None = None
    bucketing_key: str | None = None
    bucketing_salt: str | None = None
    slots: list[MutexSlot] | None = None
    deleted: bool | None = None


class Holdout(Model):
    """A holdout group; ``holdout_percentage`` of users are kept out of all members."""

    id: Id
    project_id: Id | None = None
    name: str | None = None
    key: str | None = None
    description: str | None = None
    holdout_percentage: Number | None = None
    evaluation_mode: str | None = None
    bucketing_key: str | None = None
    bucketing_salt: str | None = None
    variant_name: str | None = None
    experiments: Ids | None = None
    individual_inclusion: Ids | None = None
    individual_exclusion: Ids | None = None
    deleted: bool | None = None
    created_by: Id | None = None
    last_modified_by: Id | None = None
    created_at: str | None = None
    last_modified_at: str | None = None


class Created(Model):
    """What a create answers: the new id, and for most objects a link into Amplitude's app."""

    id: Id
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; ``next_cursor`` is ``None`` on the last one.

    ``nothing_sent``: the server's page was empty before our own filters.
    """

    items: Sequence[T]
    next_cursor: str | None = None
    nothing_sent: bool = field(default=False, repr=False, compare=False)

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
