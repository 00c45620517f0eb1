"""Errors travel: through pickles, trigger events and logs."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from airflow_amplitude_experiment import api
from airflow_amplitude_experiment.api import (
    AmplitudeError,
    AmplitudeRateLimited,
    AmplitudeReadOnly,
    RolloutRefused,
    errors,
)
from airflow_amplitude_experiment.api.errors import cut, error_class, error_from_dict

CLASSES = [AmplitudeError, *AmplitudeError.__subclasses__()]
FULL = {"status": 503, "method": "PATCH", "path": "/api/1/flags/1", "maybe_applied": True, "retry_after": 2.5}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("facts", [{}, FULL], ids=["bare", "full"])
@pytest.mark.parametrize("text", ["", "oops", "x" * 5000, "two\nlines ü🎉"], ids=lambda text: text[:4])
def test_an_error_comes_whole_out_of_a_pickle_a_copy_and_plain_json(cls, facts, text):
    error = cls(text, **facts)
    for again in (
        pickle.loads(pickle.dumps(error)),
        copy.copy(error),
        copy.deepcopy(error),
        error_from_dict(json.loads(json.dumps(error.as_dict(), allow_nan=False))),
    ):
        assert type(again) is cls
        assert again.as_dict() == error.as_dict()
        assert str(again) == str(error)


def test_every_error_of_the_tree_is_exported():
    names = {cls.__name__ for cls in (*CLASSES, RolloutRefused, AmplitudeReadOnly)}
    assert names <= set(api.__all__)
    assert all(getattr(api, name) is getattr(errors, name) for name in names)
    assert set(errors._BY_NAME) == {cls.__name__ for cls in CLASSES}


def test_a_refusal_by_us_is_no_amplitude_error():
    assert not issubclass(RolloutRefused, AmplitudeError)
    assert issubclass(AmplitudeReadOnly, RolloutRefused)


@pytest.mark.parametrize(
    ("status", "name"),
    [(401, "AmplitudeAuthError"), (403, "AmplitudePermissionError"), (400, "AmplitudeInvalidRequest"),
     (404, "AmplitudeNotFound"), (405, "AmplitudeNotEditable"), (501, "AmplitudeNotEditable"),
     (429, "AmplitudeRateLimited"), (500, "AmplitudeServerError"), (418, "AmplitudeInvalidRequest"),
     (599, "AmplitudeServerError"), (307, "AmplitudeUnexpectedAnswer")],
)  # fmt: skip
def test_each_status_has_one_class(status, name):
    assert error_class(status).__name__ == name


def test_a_long_text_is_cut_once():
    assert cut("x" * 500) == "x" * 500
    assert cut("x" * 501).endswith("[cut, 501 characters]")
    assert len(cut("x" * 501)) == 500
    assert cut(cut("x" * 9000)) == cut("x" * 9000)


def test_a_text_has_one_line_and_no_control_characters():
    assert cut(" a\r\n\tb\x00\x1b[0m\u202ec\ud800d ") == "a b [0m c d"


def test_a_bare_error_reads_well():
    assert str(AmplitudeError("something happened")) == "something happened"
    assert str(AmplitudeRateLimited("slow", maybe_applied=True)).endswith("read the object before writing again.")
