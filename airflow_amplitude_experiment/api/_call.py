"""A call to the API as data, and the description of the endpoint it goes to.

A :class:`Call` is what the functions in :mod:`.objects` and :mod:`.groups` return: the endpoint's name and
the plain arguments. Nothing is sent, encoded or loaded for it, so a DAG file can hold one at no cost. An
:class:`Endpoint` knows the rest: method, path, fields, what the answer is, what may be repeated.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import quote

from . import _beta
from . import _checks as check
from ._checks import Check, WrongValue, camel, short

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Answer = Literal["object", "page", "array", "ids", "ok", "anything"]
Dialect = Literal["v1", "beta"]
Reach = Literal["nothing", "people"]
Repeat = Literal["always", "never", "gone is done", "unless it reaches people", "unless it moves people"]
FILTERS = frozenset({"key", "project_id", "include_archived"})
LONGEST_PART = 2000
"""Characters of one part of a URL; Amplitude's longest keys are far from it, and URLs have a limit."""


@dataclass(frozen=True, slots=True, repr=False)
class Call(Generic[T]):
    """One request to the Management API, not yet sent. ``T`` is what sending it returns.

    :param endpoint: name of the endpoint, such as ``"flags.update"``.
    :param arguments: what the caller gave, as plain values.
    :raises TypeError: an argument that the endpoint doesn't take, or one that it needs and that is missing.
    """

    endpoint: str
    arguments: dict[str, Any]

    def __post_init__(self) -> None:
        endpoint = find_endpoint(self.endpoint)
        plain = {name: _plain(name, value) for name, value in self.arguments.items()}
        if unknown := [name for name in plain if name not in endpoint.fields]:
            raise TypeError(
                f"{self.endpoint} takes no argument {unknown[0]!r}; it takes {', '.join(endpoint.fields) or 'none'}"
            )
        if missing := [name for name in endpoint.required if name not in plain]:
            raise TypeError(f"{self.endpoint} needs the argument {missing[0]!r}")
        object.__setattr__(self, "arguments", plain)

    def __repr__(self) -> str:
        fields = find_endpoint(self.endpoint).fields
        shown = (f"{name}={_shown(fields[name], value)}" for name, value in self.arguments.items())
        return f"{self.endpoint}({', '.join(shown)})"

    @property
    def writes(self) -> bool:
        """Whether sending it changes something."""
        return find_endpoint(self.endpoint).method != "GET"


class Prepared(NamedTuple):
    """A call as it goes over the wire; ``values`` are its arguments, checked.

    ``endpoint`` is the one that it goes to: another than the call's where v1 has a twin for a call of the beta.
    """

    endpoint: Endpoint
    method: str
    path: str
    query: dict[str, str]
    body: dict[str, Any] | None
    may_repeat: bool
    values: dict[str, Any]


class Endpoint(NamedTuple):
    """How one endpoint is spoken to. (A tuple, because a dataclass of this size takes a millisecond to define.)

    :param name: namespace and function, ``"flags.update"``.
    :param path: path template below the API's prefix.
    :param fields: every argument with its check; those named in ``path`` go there, the others into the query
        of a GET and into the body otherwise.
    :param answer: what a success holds.
    :param model: name of the model of one object in the answer.
    :param items: name of the list in a page.
    :param repeat: when a request whose fate is unknown may be sent again.
    :param reach: whether it can change what people get.
    :param beta: path in the beta API, ``None`` where the beta has no such call.
    :param beta_lacks: arguments that the beta doesn't know.
    :param local: filters of a list that v1 doesn't have; they are applied here, to all pages.
    :param wrap: body field that takes the call's one list, ``ids``.
    :param settle: looks at the whole body once every field is checked.
    :param on_v1: for a call of the beta's own: the endpoint and the arguments that do the same on v1.
    :param v1_advice: for a call of the beta's own without such a twin: what to use instead.
    """

    name: str
    method: str
    path: str
    answer: Answer
    fields: Mapping[str, Check] = MappingProxyType({})
    required: frozenset[str] = frozenset()
    model: str = ""
    items: str = ""
    repeat: Repeat = "always"
    reach: Reach = "nothing"
    beta: str | None = None
    beta_lacks: frozenset[str] = frozenset()
    local: frozenset[str] = frozenset()
    wrap: str = ""
    settle: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    on_v1: tuple[str, Mapping[str, Any]] | None = None
    v1_advice: str = ""

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as the API takes them.

        :raises ValueError: names the endpoint, the argument, what was given and what is allowed.
        """
        try:
            values = {name: self.fields[name](name, value) for name, value in arguments.items()}
            return self.settle(values) if self.settle else values
        except WrongValue as error:
            raise ValueError(f"{self.name}: {error}") from None

    def prepare(self, arguments: Mapping[str, Any], *, dialect: Dialect) -> Prepared:
        """Return the request for these arguments.

        :raises ValueError: an argument that is wrong in itself, or that the dialect doesn't know.
        """
        if dialect == "v1" and self.v1_advice:
            raise ValueError(f"{self.name} exists in the beta API only; {self.v1_advice}")
        if dialect == "v1" and self.on_v1:
            twin, more = self.on_v1
            return find_endpoint(twin).prepare({**arguments, **more}, dialect=dialect)
        if dialect == "beta":
            self._refuse_what_beta_lacks(arguments)
        if self.answer == "page":
            arguments = {"limit": check.MOST_PER_PAGE, **arguments}  # the default is nowhere documented (B6)
        values = self.checked(arguments)
        template = self.path if dialect == "v1" else str(self.beta)
        parts = _parts(template)
        try:
            path = template.format_map({name: _path_part(name, values[name]) for name in parts})
            rest = {name: value for name, value in values.items() if name not in parts}
            if self.method == "GET":
                return Prepared(self, self.method, path, self._query(rest, dialect), None, True, values)
            body = self._body(rest, dialect)
        except WrongValue as error:
            raise ValueError(f"{self.name}: {error}") from None
        if self.method == "PATCH" and not body:
            changeable = [name for name in self.fields if name not in parts]
            raise ValueError(f"{self.name}: nothing to change; give at least one of {', '.join(changeable)}")
        return Prepared(self, self.method, path, {}, body, self._may_repeat(body or {}), values)

    def filters_here(self, dialect: Dialect) -> frozenset[str]:
        """Return the filters that this API doesn't have: they are applied to the answers."""
        if self.answer != "page":
            return frozenset()
        return FILTERS if dialect == "beta" else self.local

    def people_in(self, values: Mapping[str, Any]) -> set[str]:
        """Return the user and device ids among checked arguments: they are repeated in no text."""
        lists = [value for name, value in values.items() if self.fields[name].private and name != "slots"]
        lists += [slot.get("individuals", []) for slot in values.get("slots", ())]
        return {person for people in lists for person in people}

    def _query(self, values: Mapping[str, Any], dialect: Dialect) -> dict[str, str]:
        here = self.filters_here(dialect)
        return {camel(name): _query_text(name, value) for name, value in values.items() if name not in here}

    def _body(self, values: dict[str, Any], dialect: Dialect) -> dict[str, Any] | None:
        if self.wrap:
            return {self.wrap: values["ids"]}
        body = {camel(name): value for name, value in values.items()}
        return (_beta.body(body) if dialect == "beta" else body) or None

    def _may_repeat(self, body: Mapping[str, Any]) -> bool:
        if self.repeat == "unless it reaches people":
            raises = body.get("enabled") is True or body.get("rolloutPercentage", 0) > 0
            raises = raises or body.get("archive") is False  # what is restored while enabled serves at once
            return not raises and not body.keys() & {"targetSegments", "rolloutWeights"}
        if self.repeat == "unless it moves people":
            return not body.keys() & {"key", "rolloutWeight"}
        return self.repeat != "never"

    def _refuse_what_beta_lacks(self, arguments: Mapping[str, Any]) -> None:
        if self.beta is None:
            raise ValueError(f"{self.name} doesn't exist in the beta API; use dialect='v1'")
        if lacking := sorted(self.beta_lacks & arguments.keys()):
            raise ValueError(f"{self.name}: the beta API doesn't know {lacking[0]!r}; use dialect='v1'")


ENDPOINTS: dict[str, Endpoint] = {}
PATH_CHECKS: dict[str, Check] = {
    "id": check.identifier,
    "variant_key": check.name,
    "version": check.identifier,
    "deployment_id": check.identifier,
    "user_index": check.index,
    "slot_index": check.index,
}


def find_endpoint(name: str) -> Endpoint:
    """Return the endpoint of this name.

    :raises ValueError: there is none.
    """
    if name not in ENDPOINTS:
        from . import groups, objects  # noqa: F401  their import fills the table

    try:
        return ENDPOINTS[name]
    except KeyError:
        raise ValueError(f"There is no endpoint {name!r}; known: {', '.join(sorted(ENDPOINTS))}") from None


def _shown(check: Check, value: Any) -> str:
    """Return what a log may show of an argument: of a list its length, of people nothing."""
    if isinstance(value, list):
        return f"<{len(value)}>"
    return "***" if check.private else short(value)


def _plain(name: str, value: Any) -> Any:
    """Return the value as Airflow can serialise it; XComArgs and other lazy values pass as they are."""
    if isinstance(value, str):
        return str.__str__(value)  # an enum's text, not its name
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError(f"{name} is {value.isoformat()}, a moment without a time zone; give an aware datetime")
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if isinstance(value, Mapping):
        return {str(key): _plain(name, each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        ordered = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_plain(name, each) for each in ordered]
    return value


def _parts(template: str) -> list[str]:
    return [part[1:-1] for part in template.split("/") if part.startswith("{")]


def _path_part(name: str, value: Any) -> str:
    given = str(value)
    if given in (".", ".."):
        raise WrongValue(f"{name} is {given!r}, which would lead to another path")
    return quote(_short_enough(name, given), safe="")


def _query_text(name: str, value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else _short_enough(name, str(value))


def _short_enough(name: str, value: str) -> str:
    if len(value) > LONGEST_PART:
        raise WrongValue(f"{name} has {len(value)} characters, but must have at most {LONGEST_PART}")
    return value


def endpoint(method: str, path: str, answer: Answer, **facts: Any) -> Callable[[F], F]:
    """Describe the endpoint that the decorated function calls.

    ``fields`` is a TypedDict whose annotations carry the checks of everything that is not in the path; ``ids`` is
    the check of a list that is positional. The beta's path is the same unless ``beta`` says another or ``None``.
    """

    def describe(function: F) -> F:
        function.__endpoint__ = {"method": method, "path": path, "answer": answer, "beta": path, **facts}  # type: ignore[attr-defined]
        return function

    return describe


class Calls:
    """A namespace of calls: its functions, decorated with :func:`endpoint`, build :class:`Call` objects."""

    def __init__(self, kind: str, *, model: str = "") -> None:
        self._kind = kind
        for name in dir(type(self)):
            facts = getattr(getattr(type(self), name), "__endpoint__", None)
            if facts:
                ENDPOINTS[f"{kind}.{name}"] = _described(f"{kind}.{name}", kind, model, dict(facts))

    def __repr__(self) -> str:
        return self._kind

    def _call(self, function: str, **arguments: Any) -> Call[Any]:
        return Call(f"{self._kind}.{function}", arguments)


def _described(name: str, kind: str, model: str, facts: dict[str, Any]) -> Endpoint:
    fields = facts.pop("fields", None)
    checks = {part: PATH_CHECKS[part] for part in _parts(facts["path"]) if part != "kind"}
    required = frozenset(checks) | (fields.__required_keys__ if fields else frozenset())
    checks |= _checks_of(fields) if fields else {}
    if ids := facts.pop("ids", None):
        checks["ids"], required = ids, required | {"ids"}
    for path in ("path", "beta"):
        facts[path] = facts[path] and facts[path].replace("{kind}", kind)
    facts["model"] = facts.get("model") or model
    facts["items"] = kind if facts["answer"] == "page" else ""
    return Endpoint(name, fields=checks, required=required, **facts)


def _checks_of(fields: Any) -> dict[str, Check]:
    """Return the checks that a TypedDict's annotations carry, by field."""
    checks = {}
    for name, hint in typing.get_type_hints(fields, include_extras=True).items():
        annotated = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Required else hint
        checks[name] = annotated.__metadata__[0]
    return checks
