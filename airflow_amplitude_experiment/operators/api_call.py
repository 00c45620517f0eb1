"""Send any one call of the Management API as a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._assets import announce
from ._base import AmplitudeOperator, is_known

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.api import Call
    from airflow_amplitude_experiment.hooks.guard import GuardedClient
    from airflow_amplitude_experiment.hooks.write import Write

SHOWN_OF_A_KEY = 10
"""How much of a deployment's key goes into the XCom: its prefix, and enough to recognise it."""

KINDS: dict[str, Any] = {
    "flags": "flag",
    "experiments": "experiment",
    "mutexes": "mutex group",
    "holdouts": "holdout group",
    "deployments": "deployment",
}
RAMP_OR_KILL = "AmplitudeRampRolloutOperator for the percentage, AmplitudeKillSwitchOperator to switch off"
INSTEAD = {
    "flags.update": RAMP_OR_KILL,
    "experiments.update": RAMP_OR_KILL,
    "experiments.activate": "AmplitudeRampRolloutOperator(enable=True)",
    "experiments.deactivate": "AmplitudeKillSwitchOperator",
}


class AmplitudeApiCallOperator(AmplitudeOperator):
    """Send one call of the Management API, for what no other operator does.

    The call is taken apart into its endpoint and its plain arguments, so that templates and upstream results are
    filled in and the serialized DAG stays the same at every parse; it is built and checked again when it runs::

        AmplitudeApiCallOperator(task_id="variants", call=flags.variants("{{ params.flag_id }}"))
        AmplitudeApiCallOperator.partial(task_id="each", endpoint="flags.get").expand(arguments=[{"id": "1"}, …])

    A list follows its pages. A call that can change what people get needs ``unguarded``, because this operator
    keeps none of the other operators' promises but these: a run of the past is skipped, the connection's rules
    and project hold, and a request whose fate is unknown is not repeated blindly. Another try doesn't look whether
    somebody has stopped the object meanwhile; so such a call never waits for the day's quota, but fails, and Airflow
    tries again.

    :param call: the call, from :mod:`airflow_amplitude_experiment.api`; or else
    :param endpoint: name of the endpoint, such as ``"flags.variants"``, with
    :param arguments: its arguments by name.
    :param unguarded: why a call that reaches people is sent without the guards of a dedicated operator.
    :param reason: why, for the log; the connection may require it.
    :param amplitude_conn_id: id of the Airflow connection.
    :raises AirflowFailException: refused, or an error that another try can't heal.
    :return: the answer as plain JSON; ``None`` where the API answers OK. A deployment's key is cut to its first
        10 characters.

    Source: Management API, all 57 operations, and the 34 of the beta.
    """

    writes_objects = True
    template_fields: Sequence[str] = (*AmplitudeOperator.template_fields, "arguments")
    template_fields_renderers = {"arguments": "json"}  # noqa: RUF012  Airflow's own way to declare it

    def __init__(
        self,
        *,
        call: Call[Any] | None = None,
        endpoint: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        unguarded: str | None = None,
        **kwargs: Any,
    ) -> None:
        from airflow_amplitude_experiment.api._call import Call, find_endpoint

        super().__init__(**kwargs)
        if (call is None) == (endpoint is None) or (call is not None and arguments is not None):
            raise ValueError("Give either call=… or endpoint=… with arguments=…")
        self.endpoint = call.endpoint if call is not None else str(endpoint)
        self.arguments = call.arguments if call is not None else (arguments if arguments is not None else {})
        self.unguarded = unguarded
        described = find_endpoint(self.endpoint)
        if described.reach == "people" and not (unguarded or "").strip():
            other = INSTEAD.get(self.endpoint)
            raise ValueError(
                f"{self.endpoint} can change what people get. Say why it is sent without the guards of a dedicated "
                f"operator: unguarded=…{f'; or use {other}' if other else ''}."
            )
        self.defers = described.reach != "people"
        if isinstance(self.arguments, Mapping):
            for name, value in Call(self.endpoint, dict(self.arguments)).arguments.items():
                if is_known(value):
                    described.fields[name](f"{self.endpoint}: {name}", value)

    def act(self, context: Context) -> Any:
        """Build the call from the rendered arguments, and send it."""
        from airflow_amplitude_experiment.api import AmplitudeReadOnly, Call
        from airflow_amplitude_experiment.api._call import find_endpoint

        from ._past import skip_in_the_past

        if not isinstance(self.arguments, Mapping):
            raise ValueError(
                f"arguments rendered to a {type(self.arguments).__name__}, but must be a mapping of argument names to "
                "values; give the mapping itself, with templates inside it"
            )
        call: Call[Any] = Call(self.endpoint, dict(self.arguments))
        described = find_endpoint(self.endpoint)
        described.checked(call.arguments)
        if call.writes:
            skip_in_the_past(context, self.log)
        with self.hook.get_conn() as client:
            if described.answer == "page":
                return self._plain(list(client.iterate(call)))
            if not call.writes:
                return self._plain(client.send(call))
            try:
                return self._plain(self._write(context, client, call))
            except AmplitudeReadOnly:
                return {"endpoint": self.endpoint, "written": False}

    def _write(self, context: Context, client: GuardedClient, call: Call[Any]) -> Any:
        """Send a call that changes something, noted in the audit; announce what it changed."""
        from airflow_amplitude_experiment.hooks.guard import object_of
        from airflow_amplitude_experiment.hooks.write import Write

        from ._audit import Audit

        reason = self.reason or self.unguarded
        audit = Audit.of(context, environment=client.rules.environment, reason=reason, log=self.log)
        write = Write.of(call, dialect=client.dialect)
        found = client.read(object_of(write, client.rules))
        with audit.around(**self._line(write, found)):
            answer = client.send(call, reason=reason, found=found)
        if write.is_on_toggle and (now := self._read_back(client, write, answer)):
            record = self._line(write, found) | {"enabled": now.enabled, "key": now.key, "project_id": now.project_id}
            announce(context, record | {"after": now.rollout_percentage, **audit.facts()})
        return answer

    def _read_back(self, client: GuardedClient, write: Write, answer: Any) -> Any:
        """Return the object as it stands after the write; the write is made, whatever comes of the reading."""
        from airflow_amplitude_experiment.api import AmplitudeError
        from airflow_amplitude_experiment.hooks.lookup import calls_of

        object_id = answer.id if write.creates else write.object_id
        try:
            return client.send(calls_of(KINDS[write.kind]).get(object_id))
        except AmplitudeError as error:
            self.log.warning("%s was accepted, but the object can't be read back: %s", self.endpoint, error)
            return None

    def _line(self, write: Write, found: Any) -> dict[str, Any]:
        """Return what the audit says of a write."""
        from airflow_amplitude_experiment.api._call import find_endpoint
        from airflow_amplitude_experiment.hooks.moves import may_raise

        stands = getattr(found, "rollout_percentage", None)
        reaches = find_endpoint(self.endpoint).reach == "people" or (write.creates and write.is_on_toggle)
        return {
            "kind": KINDS[write.kind],
            "key": next(iter(write.keys(found)), None),
            "id": None if write.creates else write.object_id,
            "project_id": write.project_of(found),
            "before": stands,
            "after": write.arguments.get("rollout_percentage", stands),
            "raises": reaches and may_raise(write, found),
            "call": write.shown(),
            **({"unguarded": self.unguarded} if self.unguarded else {}),
        }

    def _plain(self, answer: Any) -> Any:
        """Return an answer as plain JSON, with deployment keys cut: an XCom can be read by many (law 8)."""
        if isinstance(answer, list):
            return [self._plain(each) for each in answer]
        if not hasattr(answer, "as_json"):
            return answer
        fields = answer.as_json()
        if "deployments" in self.endpoint and fields.get("key"):
            secret = str(fields["key"])
            fields["key"] = f"{secret[: min(SHOWN_OF_A_KEY, len(secret) // 2)]}…"
        return fields
