"""The errors of the API, with the advice that fits Amplitude's analytics: one set of words for charts, one for cohorts.

The tree of :mod:`..api.errors` stays what everybody catches; what is added is what to look at, and which of the
analytics' own limits a 429 speaks of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from airflow_amplitude_experiment.api import AmplitudeError, errors

Words = Mapping[type[AmplitudeError], type[AmplitudeError]]


def with_own_advice(error: AmplitudeError, words: Words | None = None) -> AmplitudeError:
    """Return the same error with the advice that fits.

    :param words: which; default is those for charts.
    """
    own = (CHART if words is None else words).get(type(error))
    if own is None:
        return error
    facts = error.as_dict()
    del facts["type"]
    return own(**facts)


class _Advised(AmplitudeError):
    """An error of the tree with other advice. It travels as the one that everybody knows."""

    def as_dict(self) -> dict[str, Any]:
        known = next(cls for cls in type(self).__mro__ if not issubclass(cls, _Advised))
        return {**super().as_dict(), "type": known.__name__}


class AnalyticsAuthError(_Advised, errors.AmplitudeAuthError):
    """401: the keys are unknown, or belong to the other region."""

    advice = (
        "Check the project's API key (login) and secret key (password) in the Airflow connection, and its region: "
        "a project of the EU data center is unknown in the US one. A management key opens another API."
    )


# --- charts ----------------------------------------------------------------------------------------------


class ChartRateLimited(_Advised, errors.AmplitudeRateLimited):
    """429: too many requests at once, or the project's cost is used up. It is no statement on the chart."""

    advice = (
        "The limits of the Dashboard REST API are per project: 5 requests at once (cohort downloads included), and a "
        "cost of 1,000 in five minutes and 108,000 in an hour, where a chart costs its days × its conditions."
    )

    def _message(self) -> str:
        wait = "five minutes" if self.retry_after is None else f"{self.retry_after:.0f} seconds"
        return f"{super()._message()} Try again in {wait}, or let the chart cover fewer days."


class ChartPermissionError(_Advised, errors.AmplitudePermissionError):
    """403: the keys do not open this."""

    advice = "Check that the keys are those of the project that owns the chart, and that its plan has this API."


class ChartNotFound(_Advised, errors.AmplitudeNotFound):
    """404: no such chart."""

    advice = (
        "Check the chart's id (the last part of its address in Amplitude), that the chart is saved and belongs to the "
        "project of these keys, and the region."
    )


class ChartInvalidRequest(_Advised, errors.AmplitudeInvalidRequest):
    """400 or another 4xx: the chart can't be had this way."""

    advice = f"Sending it again does not help. {ChartNotFound.advice}"


class ChartUnexpectedAnswer(_Advised, errors.AmplitudeUnexpectedAnswer):
    """An answer that holds no chart that can be read."""

    advice = "This is not how Amplitude answers for a chart; check the chart, the base URL and any proxy in between."


CHART: Words = {
    errors.AmplitudeRateLimited: ChartRateLimited,
    errors.AmplitudeAuthError: AnalyticsAuthError,
    errors.AmplitudePermissionError: ChartPermissionError,
    errors.AmplitudeNotFound: ChartNotFound,
    errors.AmplitudeInvalidRequest: ChartInvalidRequest,
    errors.AmplitudeUnexpectedAnswer: ChartUnexpectedAnswer,
}


# --- cohorts ---------------------------------------------------------------------------------------------


class Limit(NamedTuple):
    """One of the limits of cohort downloads. A 429 says in words which one it is (H4); no field or code does.

    :param said: how such a text is recognised.
    :param words: the limit, for a person.
    :param wait: seconds after which asking again makes sense; ``None`` where that is next month.
    """

    said: str
    words: str
    wait: float | None


MONTH = Limit(
    r"month|\b500\b",
    "The project's plan has used up its cohort downloads of this month (500 on Growth and Enterprise; every export "
    "counts as one, however small). They are counted anew from the first of next month. Until then: download it in "
    "Amplitude, sync the cohort to a destination, or include the cohort itself in the variant "
    "(AmplitudeSyncVariantCohortsOperator), which costs no download.",
    None,
)
PARALLEL = Limit(
    r"parallel|\b4\b|per minute", "At most 4 exports of a project may be asked for side by side within a minute.", 60.0
)
TEN_MINUTES = Limit(r"\b60\b|10[ -]?min|ten[ -]min", "At most 60 exports of a project in 10 minutes.", 600.0)
AT_ONCE = Limit(
    r"concurren|at once|simultan|\b5\b",
    "At most 5 requests of a project at once, over cohort downloads and the Dashboard REST API (charts).",
    60.0,
)
UNNAMED = Limit(
    "",
    "The answer doesn't say which limit it is: 500 downloads a month, 60 exports in 10 minutes, 4 side by side within "
    "a minute, or 5 requests at once.",
    600.0,
)


def limit_in(text: str) -> Limit:
    """Return the limit that a 429 speaks of."""
    limits = (MONTH, PARALLEL, TEN_MINUTES, AT_ONCE)
    return next((each for each in limits if re.search(each.said, text, re.IGNORECASE)), UNNAMED)


class CohortRateLimited(_Advised, errors.AmplitudeRateLimited):
    """429: one of the limits of cohort downloads; ``limit`` tells which."""

    advice = ""

    @property
    def limit(self) -> Limit:
        """The limit that the answer names."""
        return limit_in(self.text)

    @property
    def wait(self) -> float | None:
        """Seconds until it makes sense to ask again; ``None``: not before next month."""
        return None if self.limit.wait is None else max(self.limit.wait, self.retry_after or 0.0)

    def _message(self) -> str:
        again = f" Try again in {self.wait / 60:.0f} min." if self.wait else ""
        return f"{super()._message()} {self.limit.words}{again}"


class CohortPermissionError(_Advised, errors.AmplitudePermissionError):
    """403: the keys do not open this."""

    advice = "Check that the keys are those of the project that owns the cohort, and that its plan has this API."


class CohortNotFound(_Advised, errors.AmplitudeNotFound):
    """404: no such cohort, or no such export any more."""

    advice = (
        "Check the cohort's id (the last part of its address in Amplitude), that the cohort is discoverable and "
        "belongs to the project of these keys, and the region. An export can be downloaded for 7 days."
    )


class CohortInvalidRequest(_Advised, errors.AmplitudeInvalidRequest):
    """400 or another 4xx: the cohort can't be had this way."""

    advice = f"Sending it again does not help. {CohortNotFound.advice}"


class CohortUnexpectedAnswer(_Advised, errors.AmplitudeUnexpectedAnswer):
    """An answer that is no part of an export."""

    advice = "This is not how Amplitude answers for a cohort; check the base URL and any proxy in between."


COHORT: Words = {
    errors.AmplitudeRateLimited: CohortRateLimited,
    errors.AmplitudeAuthError: AnalyticsAuthError,
    errors.AmplitudePermissionError: CohortPermissionError,
    errors.AmplitudeNotFound: CohortNotFound,
    errors.AmplitudeInvalidRequest: CohortInvalidRequest,
    errors.AmplitudeUnexpectedAnswer: CohortUnexpectedAnswer,
}


class ExportUnanswered(_Advised, errors.AmplitudeConnectionError):
    """No answer to the question for an export arrived."""

    advice = f"It may count as one of the month's downloads. {errors.AmplitudeConnectionError.advice}"


class ExportFailed(_Advised, errors.AmplitudeServerError):
    """5xx to the question for an export."""

    advice = f"It may count as one of the month's downloads. {errors.AmplitudeServerError.advice}"


class ExportUnexpectedAnswer(CohortUnexpectedAnswer):
    """An answer to the question for an export that doesn't hold its id."""

    advice = f"It may count as one of the month's downloads. {CohortUnexpectedAnswer.advice}"


EXPORT: Words = {
    **COHORT,
    errors.AmplitudeUnexpectedAnswer: ExportUnexpectedAnswer,
    errors.AmplitudeConnectionError: ExportUnanswered,
    errors.AmplitudeServerError: ExportFailed,
}
