"""One stage as it is asked for: its name and, of a training, the branch.

In:  the arguments of `python -m pipelines.stages`.  Out: the same as a value.
"""

from dataclasses import dataclass

from pipelines.workspace.placement import STAGE_NAMES, StageName


@dataclass(frozen=True)
class Task:
    """What an executor runs.

    Attributes:
        stage: train, tune or evaluate.
        branch: the branch that is trained.
    """

    stage: StageName
    branch: str = ""

    @classmethod
    def of(cls, arguments: list[str]) -> "Task | None":
        """Return the task that the arguments name; None for a stage that no executor runs."""
        stage, *branch = arguments
        named = next((name for name in STAGE_NAMES if name == stage), None)
        return cls(named, *branch) if named else None

    @property
    def arguments(self) -> list[str]:
        """The arguments that name it."""
        return [self.stage, self.branch] if self.branch else [self.stage]

    @property
    def label(self) -> str:
        """The name that people know it by."""
        return self.branch or self.stage

    @property
    def run(self) -> str:
        """What its files in `work` are called: as people know it, unless a stage is called so."""
        return f"{self.stage}@{self.branch}" if self.branch in STAGE_NAMES else self.label
