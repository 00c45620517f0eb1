"""What parsing a staged rollout costs, against the same graph of tasks that do nothing.

100 DAG files with a five-stage rollout and two guardrails each, as a typical user writes them, and 100 files with the
same task groups, task ids, edges, retries and trigger rules of ``EmptyOperator``. Airflow parses every file again and
again, so both are read as its DAG processor does it:

* ``parse``: a ``DagBag`` of the whole folder, in a process that has loaded Airflow and nothing of ours;
* ``serialize``: what is then written to the database, the same DAGs as JSON;
* ``one file``: both for one file in a process of its own, forked from one that has imported what the file names of
  Airflow (the DAG processor forks for every file, so imports are paid each time); the rest, such as reading Airflow's
  plugins, is paid by both.

Milliseconds of the processor for each file, in fresh processes that take turns. The ratio is the median of those of the
rounds. Bytecode is cached first, as on every installed Airflow. The command fails where the graphs differ.

Run it with ``make bench``, or on its own; ``--rounds`` says how many processes each kind of file gets.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

from import_time import contained, machine

FILES = 100
ALONE = 9
BUDGET = 1.3
PHASES = {"parse": "parse", "serialize": "serialize", "both": "both", "alone": "one file, a process of its own"}

OURS = '''
from airflow.sdk import DAG

from airflow_amplitude_experiment.rollout import RolloutPlan, SampleRatioGuardrail, SqlGuardrail, staged_rollout

RATE = """
select variant, count(*) as n, sum(bought) as sum, max(seen_at) as as_of from exposures
where key = %(key)s and seen_at between %(stage_start)s and %(stage_end)s group by variant
"""
UNITS = """
select variant, count(*) as n, max(seen_at) as as_of from exposures
where key = %(key)s and seen_at between %(stage_start)s and %(stage_end)s group by variant
"""

with DAG("rollout_{number}", schedule=None, catchup=False, max_active_runs=1, tags=["rollout"]):
    staged_rollout(
        experiment_key="checkout-{number}",
        plan=RolloutPlan.parse("1% 1h, 5% 6h, 25% 1d, 50% 1d, 100%"),
        guardrails=[
            SqlGuardrail("checkout rate", sql=RATE, conn_id="warehouse", harm="decrease", mde="10%"),
            SampleRatioGuardrail(sql=UNITS, conn_id="warehouse"),
        ],
        rollback_to=0,
        reason="the redesigned checkout",
    )
'''
EMPTY = """
from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TaskGroup

PATIENT = {{
    "retries": 3,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=15),
}}
URGENT = {{
    "retries": 60,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": False,
    "max_retry_delay": None,
    "priority_weight": 10_000,
    "weight_rule": "absolute",
}}

with DAG("rollout_{number}", schedule=None, catchup=False, max_active_runs=1, tags=["rollout"]):
    with TaskGroup("rollout", default_args=PATIENT):
        last, acting = EmptyOperator(task_id="begin"), []
        for percentage in (1, 5, 25, 50, 100):
            with TaskGroup(f"to_{{percentage}}"):
                ramp, watch = EmptyOperator(task_id="ramp"), EmptyOperator(task_id="watch")
            last >> ramp >> watch
            last = watch
            acting += [ramp, watch]
        acting >> EmptyOperator(task_id="rollback", **URGENT).as_teardown()
"""
KINDS = {"ours": OURS, "empty": EMPTY}


def main() -> None:
    """Parse both folders in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print("MEASURED" + json.dumps(measure(Path(options.measure))))
        return
    with contained() as environment:
        for kind, text in KINDS.items():
            folder = Path(environment["AIRFLOW_HOME"]) / kind
            folder.mkdir()
            for number in range(FILES):
                (folder / f"rollout_{number:03}.py").write_text(text.format(number=f"{number:03}"))
        graphs = [measured(kind, environment)["graph"] for kind in KINDS]  # writes the bytecode
        if graphs[0] != graphs[1]:
            raise SystemExit(f"The graphs differ:\n{json.dumps(graphs, indent=1)}")
        rounds = [{kind: measured(kind, environment) for kind in KINDS} for _ in range(options.rounds)]
    show(rounds)


def measured(kind: str, environment: dict[str, str]) -> dict[str, Any]:
    """Parse one folder in a fresh process."""
    run = subprocess.run(
        [sys.executable, __file__, "--measure", str(Path(environment["AIRFLOW_HOME"]) / kind)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if run.returncode:
        raise SystemExit(f"{kind}\n{run.stderr}")
    found: dict[str, Any] = json.loads(run.stdout.rpartition("MEASURED")[2])
    return found


def measure(folder: Path) -> dict[str, Any]:
    """In the fresh process: single files in forks, then the whole folder."""
    import structlog
    from airflow import settings
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.utils.file import iter_airflow_imports

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    policies = settings.get_policy_plugin_manager()
    for name, plugin in policies.list_name_plugin():
        if name != "DefaultPolicy":  # that of a peer of import_time.py, which every task would pay for
            policies.unregister(plugin)
    files = sorted(folder.glob("*.py"))
    for module in iter_airflow_imports(str(files[0])):
        import_module(module)

    def parse(path: Path) -> tuple[list[float], Any, list[str]]:
        began = process_time()
        bag = DagBag(path, bundle_path=folder, load_op_links=False)
        parsed = process_time()
        written = [json.dumps(DagSerialization.to_dict(dag)) for dag in bag.dags.values()]
        spent = [parsed - began, process_time() - parsed]
        if bag.import_errors or not bag.dags:
            raise SystemExit(f"{folder}: {bag.import_errors}")
        return [seconds * 1000 for seconds in spent], bag, written

    alone = median(sum(in_a_fork(lambda path=path: parse(path)[0])) for path in files[:ALONE])
    spent, bag, written = parse(folder)
    parsing, serializing = (each / len(files) for each in spent)
    return {
        "parse": parsing,
        "serialize": serializing,
        "both": parsing + serializing,
        "alone": alone,
        "bytes": len(written[0]),
        "graph": graph(bag.dags["rollout_000"]),
    }


def in_a_fork(work: Any) -> list[float]:
    """Do the work in a process forked from this one; return what it returns."""
    receiving, sending = os.pipe()
    if (child := os.fork()) == 0:
        os.write(sending, json.dumps(work()).encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as answer:
        found: list[float] = json.loads(answer.read())
    os.waitpid(child, 0)
    return found


def graph(dag: Any) -> dict[str, Any]:
    """Return what makes two DAGs the same to the scheduler: ids in their groups, edges, and how tasks are run."""
    return {
        task.task_id: [
            sorted(task.downstream_task_ids),
            str(task.trigger_rule),
            task.is_teardown,
            task.retries,
            str(task.retry_delay),
            str(task.max_retry_delay),
            task.pool,
            task.priority_weight,
            list(task.params),
        ]
        for task in dag.tasks
    }


def show(rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Print the table and the verdict."""
    tasks = len(rounds[0]["ours"]["graph"])
    print(f"{FILES} DAG files, each a five-stage rollout of {tasks} tasks, against the same graph of EmptyOperators;")
    print(f"ms of the processor per file, medians of {len(rounds)} rounds.")
    print(f"Airflow {version('apache-airflow')}, {machine()}.\n")
    print("| | empty operators | ours | ratio |\n| --- | ---: | ---: | ---: |")
    ratios = {}
    for phase, words in PHASES.items():
        empty, ours = (median(each[kind][phase] for each in rounds) for kind in ("empty", "ours"))
        ratios[phase] = median(each["ours"][phase] / each["empty"][phase] for each in rounds)
        print(f"| {words} | {empty:.1f} | {ours:.1f} | {ratios[phase]:.2f} |")
    empty, ours = (rounds[0][kind]["bytes"] / 1000 for kind in ("empty", "ours"))
    print(f"| kB in the database | {empty:.1f} | {ours:.1f} | {ours / empty:.2f} |")
    verdict = "within" if ratios["parse"] <= BUDGET else "OVER"
    print(f"\nParsing takes {ratios['parse']:.2f} times as long, {verdict} the budget of {BUDGET}.")


if __name__ == "__main__":
    main()
