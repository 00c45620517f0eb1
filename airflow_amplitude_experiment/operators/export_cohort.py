"""Export the users of a behavioral cohort to a file, or into XCom where they are few."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_amplitude_experiment.rollout.durations import in_words

from ._base import ending_what_cannot_heal, is_known
from ._cohort_order import Asked, Order, at_least, ordered
from ._run import SHORTEST_WAIT, now

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.hooks._analytics_errors import CohortRateLimited
    from airflow_amplitude_experiment.hooks.analytics import AmplitudeAnalyticsHook

    from ._export import Taken

DEFAULT_CONNECTION = "amplitude_analytics_default"
IDS = "ids"
SPARE = timedelta(minutes=10)
"""How much later than the trigger itself Airflow ends the wait, for a triggerer that isn't there."""


class AmplitudeExportCohortOperator(BaseOperator):
    """Export the users of a behavioral cohort, as they are now, to a file; or, without ``path``, into XCom.

    Amplitude is asked for an export, which takes it some minutes; the wait holds no worker slot. Then the file is
    streamed to ``path`` in constant memory, and whoever reads the path finds the whole file or the one before. It is
    CSV as Amplitude writes it: a line of names (``amplitude_id``, ``user_id``, and any ``props``), then the users. A
    user whom Amplitude knows by a device only has an empty ``user_id``.

    **Without path the user ids themselves go into XCom**, into Airflow's database and its UI. That is the one place
    where an operator of this package writes them there, and only because you leave ``path`` out; keep it for small
    cohorts. A cohort of more than ``max_in_xcom`` users is refused: before the export where Amplitude's list of cohorts
    tells its size, else while its file arrives.

    **Every export counts** as one of the project's downloads of the month (500 on Growth and Enterprise): an hourly
    schedule doesn't fit. So a try asks for one: not again by a triggerer that takes over, nor because an answer got
    lost, which ends the try. A task that is tried again goes on with the export that its earlier try asked for if that
    was less than a day ago and was answered; Airflow remembers it from 3.3 on. On 3.1 and 3.2 nothing of a task
    outlives its try, and each try that gets as far asks for, and pays for, another export: keep ``retries`` low there.
    To include a cohort's
    people in a variant, prefer ``AmplitudeSyncVariantCohortsOperator``: it copies nobody and costs no download.

    A 429 is told apart by its text. The limit of the month ends the task at once and says what can be done meanwhile;
    those of minutes (60 in 10 minutes, 4 side by side, 5 requests at once) are waited for like the export itself.

    :param cohort_id: the last part of the cohort's address in Amplitude.
    :param path: where the file goes, ``file:///…``, ``s3://…``, ``gs://…``; it ends in ``.csv``. Any file there is
        replaced. A template that renders to nothing is refused: only leaving ``path`` out writes ids into XCom.
    :param path_conn_id: id of the Airflow connection for ``path``.
    :param props: add user properties as columns: ``True`` for all, or a list of names.
    :param column: without ``path``, the column whose values are returned.
    :param max_in_xcom: without ``path``, the most users that are returned.
    :param deferrable: wait in the triggerer. With ``False`` the task waits on its worker.
    :param poll_interval: how often to look whether the export is ready; seconds, a timedelta or ``"30s"``. One
        request each.
    :param timeout: fail when it is not ready after so long, waits for limits included.
    :param amplitude_analytics_conn_id: id of the Airflow connection (type ``amplitude_analytics``).
    :raises AirflowFailException: an argument that can't be meant, no such cohort, too large for XCom, the month's
        downloads are used up, or an error that another try can't heal.
    :raises TimeoutError: it was not ready in time; another try goes on waiting for it where it can.
    :return: a record: ``cohort_id``, ``request_id``, ``requested_at`` (UTC; the users are those of about then),
        ``users`` and ``without_user_id`` (counts), and ``path``. Without ``path`` the distinct ids that are not empty
        are an XCom of their own, under the key ``ids``: ``export.output["ids"]``.

    Source: Behavioral Cohorts API, "Get one cohort", "Get request status", "Download file".
    """

    template_fields: Sequence[str] = (
        "cohort_id",
        "path",
        "path_conn_id",
        "props",
        "column",
        "max_in_xcom",
        "amplitude_analytics_conn_id",
    )
    ui_color = "#d5e4ff"

    def __init__(
        self,
        *,
        cohort_id: str,
        path: str | None = None,
        path_conn_id: str | None = None,
        props: bool | str | Sequence[str] = False,
        column: str = "user_id",
        max_in_xcom: int | str = 5_000,
        deferrable: bool = True,
        poll_interval: float | str | timedelta = timedelta(seconds=30),
        timeout: float | str | timedelta = timedelta(hours=2),
        amplitude_analytics_conn_id: str = DEFAULT_CONNECTION,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cohort_id = cohort_id
        self.path = path
        self._to_file = path is not None  # a template may become nothing, and then no id may go to XCom
        self.path_conn_id = path_conn_id
        self.props = props
        self.column = column
        self.max_in_xcom = max_in_xcom
        self.deferrable = deferrable
        self.poll_interval = at_least("poll_interval", poll_interval, SHORTEST_WAIT)
        self.timeout = at_least("timeout", timeout, SHORTEST_WAIT)
        self.amplitude_analytics_conn_id = amplitude_analytics_conn_id
        if all(map(is_known, (cohort_id, path, path_conn_id, props, column, max_in_xcom))):
            self._order()

    def execute(self, context: Context) -> dict[str, Any]:
        """Go on with the export of an earlier try, or ask for one; wait; take the file."""
        with ending_what_cannot_heal():
            order = self._order()
            self._refuse_what_cannot_end_well(order)
            return self._go_on(context, order, now() + self.timeout, self._recalled(context, order))

    def execute_complete(self, context: Context, event: Any) -> dict[str, Any]:
        """Take what the trigger reports: the export is ready, or an export may be asked for now, or an error."""
        from airflow_amplitude_experiment.api import AmplitudeError
        from airflow_amplitude_experiment.hooks._analytics_errors import COHORT, with_own_advice
        from airflow_amplitude_experiment.triggers._events import validated
        from airflow_amplitude_experiment.triggers.cohort import FIELDS

        with ending_what_cannot_heal():
            order = self._order()
            try:
                told = validated(event, *FIELDS)
            except AmplitudeError as error:
                raise with_own_advice(error, COHORT) from None
            if told["request_id"] is None:
                return self._go_on(context, order, datetime.fromisoformat(told["until"]), None)
            asked = Asked(told["request_id"], told["requested_at"])
            return self._finish(context, order, asked, told["status"])

    @property
    def hook(self) -> AmplitudeAnalyticsHook:
        """The hook of this task's connection."""
        from airflow_amplitude_experiment.hooks.analytics import AmplitudeAnalyticsHook

        return AmplitudeAnalyticsHook(self.amplitude_analytics_conn_id)

    # --- the steps ---------------------------------------------------------------------------------------

    def _go_on(
        self, context: Context, order: Order, until: datetime, found: tuple[Asked, str] | None
    ) -> dict[str, Any]:
        from airflow_amplitude_experiment.hooks._analytics_reading import IN_PROGRESS

        asked, status = found or (self._ask(context, order, until), IN_PROGRESS)
        if status == IN_PROGRESS:
            status = self._wait(asked, until)
        return self._finish(context, order, asked, status)

    def _refuse_what_cannot_end_well(self, order: Order) -> None:
        """Find out before an export is spent that its file has nowhere to go."""
        from airflow_amplitude_experiment.api import AmplitudeError

        from ._export import opened, too_many

        if order.path is not None:
            opened(order)
            return
        try:
            sizes = {each["id"]: each["size"] for each in self.hook.cohorts()}
        except AmplitudeError as error:
            self.log.info("How large the cohort is can't be told before its export: %s", error)
            return
        size = sizes.get(order.cohort_id)
        if isinstance(size, int) and size > order.max_in_xcom:
            raise too_many(order, f"{size:,}")

    def _recalled(self, context: Context, order: Order) -> tuple[Asked, str] | None:
        """Return the export of an earlier try and how it stands, if it is still of use."""
        from airflow_amplitude_experiment.api import errors
        from airflow_amplitude_experiment.hooks._analytics_reading import COMPLETED, IN_PROGRESS
        from airflow_amplitude_experiment.triggers._moments import PASSING

        from ._export import Memory

        memory = Memory(context)
        if (asked := memory.recall(order, now())) is None:
            return None
        try:
            status = self.hook.cohort_status(asked.request_id)
        except (errors.AmplitudeNotFound, errors.AmplitudePermissionError, errors.AmplitudeInvalidRequest):
            status = "gone"
        except PASSING as error:
            self.log.warning("%s The wait goes on.", error)
            status = IN_PROGRESS
        if status in (IN_PROGRESS, COMPLETED):
            self.log.info(
                "Cohort %s: going on with export %s, which an earlier try asked for at %s", order.cohort_id, *asked
            )
            return asked, status
        self.log.info("Cohort %s: export %s of an earlier try is %s", order.cohort_id, asked.request_id, status)
        memory.forget()
        return None

    def _ask(self, context: Context, order: Order, until: datetime) -> Asked:
        """Ask for an export; where a limit of minutes is in the way, wait for it.

        :raises TimeoutError: the time was up before one could be asked for.
        """
        from airflow_amplitude_experiment.hooks._analytics_errors import CohortRateLimited

        from ._export import Memory

        while now() < until:
            try:
                request_id = self.hook.request_cohort(order.cohort_id, props=order.props)
            except CohortRateLimited as error:
                again = now() + self._wait_after(error)
                if again + self.poll_interval > until:
                    raise
                self.log.warning("%s Asking again at %s.", error, f"{again:%Y-%m-%d %H:%M:%SZ}")
                self._pass(again, until)
            else:
                asked = Asked(request_id, now().isoformat(timespec="seconds"))
                Memory(context).keep(order, asked)
                self.log.info(
                    "Cohort %s: export %s was asked for; it counts as one of the month's downloads",
                    order.cohort_id,
                    request_id,
                )
                return asked
        raise TimeoutError(
            f"No export of cohort {order.cohort_id} was asked for within {in_words(self.timeout)}, and nothing was "
            "spent. Another try begins anew."
        )

    def _wait_after(self, error: CohortRateLimited) -> timedelta:
        """Return how long to wait after a 429.

        :raises AirflowFailException: until next month.
        """
        from airflow_amplitude_experiment.api import AmplitudeError
        from airflow_amplitude_experiment.hooks._analytics_errors import MONTH, UNNAMED

        if error.limit is MONTH:
            raise AirflowFailException(f"{type(error).__name__}: {error}") from error
        if error.limit is UNNAMED:
            try:
                used, most, _ = self.hook.cohort_usage()
            except AmplitudeError as unknown:
                self.log.warning("Whether the month's downloads are used up can't be told: %s", unknown)
            else:
                if used >= most:
                    counted = f"{used:,} of {most:,} cohort downloads of this month are used"
                    raise AirflowFailException(f"Amplitude answered 429, and {counted}. {MONTH.words}") from error
        return timedelta(seconds=(error.wait or 0) * random.uniform(1.0, 1.1))

    def _pass(self, moment: datetime, until: datetime) -> None:
        """Let the time pass until a moment: in the triggerer, which then starts ``execute_complete``, or here."""
        if self.deferrable:
            self._leave_to_triggerer(None, moment, until)
        time.sleep(max(0.0, (moment - now()).total_seconds()))

    def _wait(self, asked: Asked, until: datetime) -> str:
        """Wait until the export is no longer in progress, or the time is up; return how it stands."""
        from airflow_amplitude_experiment.triggers._moments import PASSING
        from airflow_amplitude_experiment.triggers.cohort import Wait

        first = now() + self.poll_interval
        if self.deferrable:
            self._leave_to_triggerer(asked, first, until)
        wait = Wait(look_at=first, until=until, interval=self.poll_interval.total_seconds())
        while True:
            time.sleep(max(0.0, wait.left))
            try:
                status = self.hook.cohort_status(asked.request_id)
            except PASSING as error:
                wait.failed(error)
                if wait.failures == 1:
                    self.log.warning("%s The wait goes on.", error)
            else:
                if wait.over(status):
                    return status

    def _leave_to_triggerer(self, asked: Asked | None, look_at: datetime, until: datetime) -> None:
        from airflow_amplitude_experiment.triggers.cohort import AmplitudeCohortTrigger

        until = max(until, now() + SHORTEST_WAIT)  # the trigger fires there at the latest
        self.defer(
            trigger=AmplitudeCohortTrigger(
                amplitude_analytics_conn_id=self.amplitude_analytics_conn_id,
                request_id=asked.request_id if asked else None,
                requested_at=asked.requested_at if asked else None,
                look_at=look_at.isoformat(),
                until=until.isoformat(),
                interval=self.poll_interval.total_seconds(),
            ),
            method_name="execute_complete",
            timeout=until - now() + SPARE,
        )

    def _finish(self, context: Context, order: Order, asked: Asked, status: str) -> dict[str, Any]:
        """Take the file of a complete export."""
        from airflow_amplitude_experiment.api import AmplitudeError
        from airflow_amplitude_experiment.hooks._analytics_reading import COMPLETED, IN_PROGRESS

        from ._export import Memory, to_file, to_list

        memory = Memory(context)
        if status == IN_PROGRESS:
            raise TimeoutError(
                f"Export {asked.request_id} of cohort {order.cohort_id} is still in progress after "
                f"{in_words(self.timeout)}. Raise timeout=… if Amplitude needs that long."
            )
        if status != COMPLETED:
            memory.forget()
            raise AmplitudeError(
                f"Export {asked.request_id} of cohort {order.cohort_id} ended as {status!r}. Another try asks for "
                "another export, which counts as one of the month's downloads."
            )
        take = to_list(order) if order.path is None else to_file(order, asked)
        taken = self.hook.download_cohort(asked.request_id, take)
        if taken.ids is not None:
            context["ti"].xcom_push(key=IDS, value=taken.ids)
        memory.forget()
        return self._record(order, asked, taken)

    def _record(self, order: Order, asked: Asked, taken: Taken) -> dict[str, Any]:
        from ._export import missing

        where = f"to {order.path}" if order.path is not None else "into XCom"
        self.log.info(
            "Cohort %s: %s users (%s without a user id) %s", order.cohort_id, taken.users, taken.without_user_id, where
        )
        if absent := missing(order, taken):
            self.log.warning("The file has no column for the properties %s", ", ".join(absent))
        return {
            "cohort_id": order.cohort_id,
            "request_id": asked.request_id,
            "requested_at": asked.requested_at,
            "users": taken.users,
            "without_user_id": taken.without_user_id,
            **({"path": order.path} if order.path is not None else {}),
        }

    def _order(self) -> Order:
        return ordered(
            cohort_id=self.cohort_id,
            path=self.path or "" if self._to_file else None,
            path_conn_id=self.path_conn_id,
            props=self.props,
            column=self.column,
            max_in_xcom=self.max_in_xcom,
        )
