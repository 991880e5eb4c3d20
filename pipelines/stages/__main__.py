"""Run one stage in the current folder: `python -m pipelines.stages STAGE [NAME]`."""

import sys

from btx_core.problems import BtxError
from pipelines.stages.stages import run
from pipelines.workspace.diagnostics import show_diagnostics
from pipelines.workspace.terminal import visible


def main() -> int:
    """Run the stage that the arguments name. Returns the exit status."""
    try:
        show_diagnostics()
        text = run(*sys.argv[1:])
    except BtxError as error:
        text = str(error)
    except KeyboardInterrupt:
        text = "interrupted"
    if text:
        print(visible(text), file=sys.stderr)
    return 1 if text else 0


if __name__ == "__main__":
    sys.exit(main())
