"""``amplitude-emulator``, or ``python -m airflow_amplitude_experiment.emulator``."""

from __future__ import annotations

import argparse
import ipaddress
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import documents


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the emulator until SIGINT or SIGTERM."""
    options = _parser().parse_args(arguments)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    # FastAPI is imported here, after --help and after the signals are ours.
    from .handle import Emulator

    try:
        seed = documents.read(options.seed) if options.seed else None
        emulator = Emulator(seed, host=options.host, port=options.port)
        if options.state and options.state.exists():
            emulator.load_state(documents.read(options.state))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"amplitude-emulator: {error}", file=sys.stderr)
        return 2
    if options.log_requests:
        emulator.world.log.listener = _print_request
    if not _is_loopback(options.host):
        print("amplitude-emulator: listening beyond this machine, with keys that anybody knows", file=sys.stderr)
    with emulator:
        print(f"Amplitude emulator is ready at {emulator.url}", flush=True)
        stopped.wait()
    if options.state:
        documents.write(options.state, emulator.state(keys=True))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="amplitude-emulator", description="A local server that speaks Amplitude's Experiment Management API."
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: this machine only)")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--seed", type=Path, metavar="FILE", help="JSON or YAML: what it holds at the start")
    parser.add_argument("--state", type=Path, metavar="FILE", help="loaded if it exists, saved at the end")
    parser.add_argument("--log-requests", action="store_true", help="one line per request, on standard error")
    return parser


def _print_request(entry: dict[str, Any]) -> None:
    print(f"{entry['time']} {entry['method']} {entry['path']} {entry['status'] or 'cut'}", file=sys.stderr)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
