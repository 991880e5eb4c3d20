"""The entry point of `btx`, and of `python -m pipelines.cli`.

It answers Ctrl-C from the first moment, while the rest of the command line is still being loaded.
"""

from collections.abc import Callable

from pipelines.workspace.interruption import answered


def main() -> None:
    """Run the command line."""
    answered(_load)


def _load() -> Callable[[], None]:
    from pipelines.cli import app

    return app.main


if __name__ == "__main__":
    main()
