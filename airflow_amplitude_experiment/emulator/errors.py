"""The one exception with which an operation refuses a request."""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """A request that is answered with an error status and a message for a person."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def bad_request(message: str) -> ApiError:
    """Missing or invalid input."""
    return ApiError(400, message)


def not_found(message: str) -> ApiError:
    """An unknown id, key or index."""
    return ApiError(404, message)
