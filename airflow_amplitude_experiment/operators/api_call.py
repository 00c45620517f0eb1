"""Send any one call of the Management API as a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._base import AmplitudeOperator, is_known

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_amplitude_experiment.api import Call

SHOWN_OF_A_KEY = 10
"""How much of a deployment's key goes into the XCom: its prefix, and enough to recognise it."""

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
    and project hold, and a request whose fate is unknown is not repeated blindly.

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
            try:
                return self._plain(client.send(call, reason=self.reason or self.unguarded))
            except AmplitudeReadOnly:
                return {"endpoint": self.endpoint, "written": False}

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
