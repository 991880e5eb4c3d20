"""How far a run has come, and the checkpoint from which it goes on after it died.

In:  what fixes a run: its recipe, its model's weights and its text.  Out: a hidden folder beside
the run's output, whole at any time, which only the very same run takes up.
When a checkpoint is due is left to `btx_core.training.loop`.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator

from btx_core.batches import Mixture
from btx_core.training.recipes import Optimisation

# How many points a run's curve has at most, one more where the last step falls between two.
POINTS = 50


@dataclass
class RunState:
    """How far a run has come.

    Attributes:
        step: steps done.
        curve: (step, mean loss since the point before), nats per token.
        losses: the loss of every step since the curve's last point.
    """

    step: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def record(self, loss: float, steps: int) -> bool:
        """Count one step.

        Args:
            loss: its loss.
            steps: how many steps the run has.

        Returns:
            Whether the curve has a new point.
        """
        self.step += 1
        self.losses.append(loss)
        if self.step % max(1, steps // POINTS) and self.step != steps:
            return False
        self.curve.append((self.step, sum(self.losses) / len(self.losses)))
        self.losses = []
        return True


@dataclass(frozen=True)
class RunCheckpoints:
    """Where a run leaves its state.

    Attributes:
        folder: of the newest checkpoint. Beside it may be the one before (.old) and one that is
            being written (.new).
        key: a JSON text of all that fixes the run.
    """

    folder: Path
    key: str

    @classmethod
    def beside(
        cls, out: Path, recipe: Optimisation, model: Path, mixture: Mixture
    ) -> "RunCheckpoints":
        """Keep a run's checkpoints in a hidden folder beside its output.

        Args:
            out: the run's output.
            recipe: with another recipe the run begins anew.
            model: the folder of the model that is trained; with other weights the run begins anew.
            mixture: the text; with other text the run begins anew.

        Returns:
            The checkpoints of exactly this run.
        """
        weights = {}
        for file in sorted(model.glob("*.safetensors")):
            with file.open("rb") as stream:
                weights[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        fixed = {
            "recipe": asdict(recipe),
            "model": weights,
            "data": {name: corpus.digest for name, corpus in mixture.corpora.items()},
        }
        return cls(out.with_name(f".{out.name}.training"), json.dumps(fixed, sort_keys=True))

    def save(self, accelerator: Accelerator, state: RunState) -> None:
        """Replace the newest checkpoint.

        Args:
            accelerator: holds model, optimiser and random states.
            state: how far the run has come.
        """
        new, old = self._beside("new"), self._beside("old")
        shutil.rmtree(new, ignore_errors=True)
        # accelerate warns of every tied embedding, which it restores.
        logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
        accelerator.save_state(new)
        run = {"key": self.key, "step": state.step, "curve": state.curve, "since": state.losses}
        (new / "run.json").write_text(json.dumps(run))
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old)
        new.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def load(self, accelerator: Accelerator) -> RunState:
        """Take up the newest checkpoint of this very run.

        Args:
            accelerator: its model, optimiser and random states become the checkpoint's.

        Returns:
            How far the run had come; step 0 where there is no checkpoint of it.
        """
        # The older one counts where death came between the two renames of `save`.
        for folder in (self.folder, self._beside("old")):
            if not (folder / "run.json").is_file():
                continue
            run = json.loads((folder / "run.json").read_text())
            if run["key"] == self.key:
                accelerator.load_state(folder)
                curve = [(step, loss) for step, loss in run["curve"]]
                return RunState(run["step"], curve, run["since"])
        return RunState()

    def clear(self) -> None:
        """Remove every checkpoint of the run."""
        for folder in (self.folder, self._beside("old"), self._beside("new")):
            shutil.rmtree(folder, ignore_errors=True)

    def _beside(self, ending: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{ending}")
