"""What is asked of the Behavioral Cohorts API: the list, and the first two of an export's three steps.

The third step, the file, has a module of its own: it is not read whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from airflow_amplitude_experiment.api._call import Endpoint
from airflow_amplitude_experiment.api._checks import Check
from airflow_amplitude_experiment.api._checks import name as a_name

from ._analytics_client import Question
from ._analytics_errors import COHORT, EXPORT
from ._analytics_reading import COMPLETED as COMPLETED
from ._analytics_reading import IN_PROGRESS as IN_PROGRESS
from ._analytics_reading import Unreadable, checked_id

_ID = {"id": Check("a cohort's id", lambda given: checked_id("cohort", given))}
_REQUEST_ID = r"[A-Za-z0-9._~-]{1,200}"


def _request_id(given: Any) -> str:
    text = str(given)
    if isinstance(given, bool) or not isinstance(given, str | int) or not re.fullmatch(_REQUEST_ID, text):
        raise ValueError
    return text


_OF_EXPORT = {"request_id": Check("the id of an export", _request_id)}
_LIST = Endpoint("cohorts.list", "GET", "/api/3/cohorts", "anything")
_USAGE = Endpoint("cohorts.usage", "GET", "/api/3/cohorts/usage", "anything")
_EXPORT = Endpoint("cohorts.export", "GET", "/api/5/cohorts/request/{id}", "anything", fields=_ID)
_STATUS = Endpoint("cohorts.status", "GET", "/api/5/cohorts/request-status/{request_id}", "anything", fields=_OF_EXPORT)
_FILE = Endpoint("cohorts.file", "GET", "/api/5/cohorts/request/{request_id}/file", "anything", fields=_OF_EXPORT)


class Usage(NamedTuple):
    """How much of the month's downloads is used up.

    :param resets_at: when they are counted anew, as Amplitude writes it; empty where it doesn't say.
    """

    used: int
    limit: int
    resets_at: str


def listed() -> Question[list[dict[str, Any]]]:
    """Ask for the project's discoverable cohorts: of each ``id``, ``name`` and ``size`` (``None``: not computed)."""
    return Question(_LIST, _cohorts, words=COHORT)


def usage() -> Question[Usage]:
    """Ask how many of the month's downloads are used up."""
    return Question(_USAGE, _usage, words=COHORT)


def export(cohort_id: str, *, props: bool | Sequence[str] = False) -> Question[str]:
    """Ask for an export, which counts as one of the month's downloads, and get its id.

    :param props: with all properties of each user, or with those of these names.
    """
    query: dict[str, str | list[str]] = {"props": "1" if props else "0"}
    if not isinstance(props, bool) and props:
        query["propKeys"] = [a_name("props", each) for each in props]

    def request_id(content: bytes) -> str:
        answer = _object(content)
        of = answer.get("cohort_id", cohort_id)
        if of != cohort_id:
            raise Unreadable("the export of another cohort than the one that was asked for")
        try:
            return _request_id(answer.get("request_id"))
        except ValueError:
            raise Unreadable("JSON without the id of an export") from None

    return Question(_EXPORT, request_id, {"id": cohort_id}, query, words=EXPORT, counts=True)


def status(request_id: str) -> Question[str]:
    """Ask how far an export is: :data:`IN_PROGRESS`, :data:`COMPLETED`, or what nobody documents."""
    return Question(_STATUS, _async_status, {"request_id": request_id}, words=COHORT)


def file(request_id: str) -> Question[None]:
    """Ask for the file of an export; see :mod:`._cohort_file`, which reads it as it comes."""
    return Question(_FILE, _no_file, {"request_id": request_id}, words=COHORT)


# --- reading ---------------------------------------------------------------------------------------------


def _object(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        raise Unreadable(f"{len(content)} bytes that are not JSON, or cut off") from None
    if not isinstance(answer, dict):
        raise Unreadable(f"a JSON {type(answer).__name__} instead of an object")
    return answer


def _cohorts(content: bytes) -> list[dict[str, Any]]:
    found = _object(content).get("cohorts")
    if not isinstance(found, list) or not all(isinstance(each, dict) and each.get("id") for each in found):
        raise Unreadable("JSON without a list of cohorts")
    return [{"id": str(each["id"]), "name": each.get("name"), "size": each.get("size")} for each in found]


def _async_status(content: bytes) -> str:
    said = _object(content).get("async_status")
    if not isinstance(said, str) or not said.strip():
        raise Unreadable("JSON without the status of an export")
    return " ".join(said.upper().replace("_", " ").split()).replace("IN PROGRESS", "INPROGRESS")


def _usage(content: bytes) -> Usage:
    answer = _object(content)
    counted = answer.get("rest_download", answer)
    try:
        used, limit = counted.get("usage", counted.get("count")), counted["limit"]
        return Usage(int(used), int(limit), str(counted.get("resets_at", "")))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unreadable("JSON without the count of downloads") from None


def _no_file(content: bytes) -> None:
    raise Unreadable("no file, although the export is said to be complete")
