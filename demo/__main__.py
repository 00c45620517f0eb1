"""``python -m demo``: the whole demo. Ends with 0 only if the SDK confirmed every stage."""

import sys

from demo.interrupts import end_what_is_left, raise_at_most_once


def main() -> int:
    raise_at_most_once()
    try:
        try:
            from demo.run import run  # after the handler: these imports take a second

            return run()
        finally:
            end_what_is_left()
    except KeyboardInterrupt:
        end_what_is_left()
        print("\nInterrupted; everything is stopped.", flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
