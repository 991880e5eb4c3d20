"""Run one stage in the current folder: `python -m pipelines.stages STAGE [NAME]`."""

import sys

from pipelines.stages.stages import run


def main() -> int:
    """Run the stage that the arguments name. Returns the exit status."""
    try:
        text = run(*sys.argv[1:])
    except KeyboardInterrupt:
        text = "interrupted"
    if text:
        print(text, file=sys.stderr)
    return 1 if text else 0


if __name__ == "__main__":
    sys.exit(main())
