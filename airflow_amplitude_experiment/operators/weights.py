"""Set how the users who get a variant are split over the variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_amplitude_experiment.api._checks import name, weights

from ._base import AmplitudeEditOperator
from ._described import check_what_is_known, checked

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from ._edit import Edit
    from ._weights import Order

FIELDS = {"weights": weights, "reshuffle": name}


class AmplitudeSetVariantWeightsOperator(AmplitudeEditOperator):
    """Set the weights by which the users of one flag or experiment are split over its variants.

    New weights move the borders between the variants, and everybody who stands in between: the log says how many of
    the allocated users that are. So they are set while nobody can notice: on an object that was never enabled, or with
    ``reshuffle="<why>"`` on one that is disabled or at 0 %. Amplitude takes the weights one variant at a time, which
    passes through splits that nobody asked for; on an object that serves people this is always refused, and so is a
    running bandit, whose weights Amplitude moves itself. A run of the past is skipped.

    These are the weights of the users who match no target segment. Segments keep their own: at 0 % of all other users
    they may go on serving theirs, who don't move; the log names those that are split otherwise, and
    ``AmplitudeUpdateOperator(segment=…)`` changes them. With sticky bucketing, users who have a variant keep it.

    Weights in the same proportion are the same; where they stand already, nothing is written and it costs one read.
    Otherwise only what differs is sent, and the variants are read back. A task that died half-way goes on where it was.

    :param weights: mapping of each variant's key to a whole number, all variants named, not all 0; only their
        proportion counts, and 0 gives a variant nobody.
    :param reshuffle: why users may move between variants.
    :param experiment_key, experiment_id, flag_key, flag_id: the object; exactly one.
    :param project_id: its project, where the connection names none.
    :param reason: why, for the log and the record.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, not confirmed by reading back, or an error that another try can't heal.
    :return: a record: ``kind``, ``key``, ``id``, ``project_id``, ``weights_before``, ``weights`` (with a read-only
        connection what would have been written), ``moved`` (share of the allocated users who get another variant, 0
        to 1), ``segments_apart`` (names of target segments that are split otherwise), ``reshuffle``, ``written``,
        ``at`` (UTC), ``reason``, and where it came from: ``environment``, ``dag_id``, ``run_id``, ``task_id``,
        ``map_index``, ``try_number``.

    Source: Management API, "Edit variant" (``rolloutWeight``); beta, "Set rollout weights".
    """

    template_fields: Sequence[str] = (*AmplitudeEditOperator.template_fields, "weights", "reshuffle")
    template_fields_renderers: ClassVar[dict[str, str]] = {"weights": "json"}

    def __init__(self, *, weights: Mapping[str, int | str] | str, reshuffle: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weights = weights
        self.reshuffle = reshuffle
        check_what_is_known(self._values(), FIELDS)

    def order(self, context: Context) -> Order:
        """Return what is asked for, once templates are rendered."""
        from ._weights import Order

        read = checked(self._values(), FIELDS)
        if "weights" not in read:
            raise ValueError("weights is empty; name each variant with its weight")
        return Order(read["weights"], read.get("reshuffle"))

    def edit(self, edit: Edit, order: Order) -> dict[str, Any]:
        """Send what differs, and read back."""
        from ._weights import SetWeights

        return SetWeights(edit, order).run()

    def _values(self) -> dict[str, Any]:
        return {"weights": self.weights, "reshuffle": self.reshuffle}
