"""What `btx.toml` says: typed settings, and the text that `btx init` lays down.

In:  a TOML file.  Out: its settings; an error that names the key, for what is no setting.
The keys of a recipe are the steps' own: `recipe_reader` reads them. What each stage is given of the
machine is `placement`.
"""

import tomllib
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from pipelines.workspace.metrics import TrackerName
from pipelines.workspace.placement import (
    ExecutorName,
    MachineSettings,
    OlderTrainSettings,
    Resources,
    StageName,
    resources_of,
)
from registry.errors import Invalid, NotFound
from registry.records.pages import GpuPrice

SETTINGS = "btx.toml"
DEFAULT_SETTINGS = """\
# Settings of this workspace. The environment variable BTX_REGISTRY_URL goes before [registry] url.
[registry]
url = "sqlite:///.btx/registry.db"   # or postgresql+psycopg://user@host/database

# What each training, tuning and evaluation may use. A table for one of them, such as
# [machine.tune], goes before it. docs/many-machines.md describes every key.
[machine]
executor = "local"   # or ray, slurm
threads = 1          # of each process that computes on the CPU
# gpus = 4           # left out: one for each process, if this machine has any
# processes = 4      # that compute one stage together; left out: one for each GPU

# Recipes: what is not named keeps its default. A key that a step does not know is refused, with
# the keys that it knows; the documentation describes each (Reference, Recipes). steps, batch,
# sequence, learning_rate, warmup_steps and accumulate are chosen by the seed's size, the text and
# the memory, unless they are named; what was chosen is printed and stored.
[recipe.train]
[recipe.mix]
[recipe.tune]
[recipe.evaluate]
# [recipe.expert.legal]   # keys of [recipe.train] for this expert alone
# steps = 500

# Every step's loss, rate, gradient norm, speed and memory are in work/metrics. Trackers are told
# too: trackio, tensorboard, wandb, mlflow.
# [log]
# report_to = ["tensorboard"]

# What a rebuild does is told to a lineage server while it runs, as OpenLineage events. The key, if
# it wants one, comes from the environment variable OPENLINEAGE_API_KEY.
# [openlineage]
# url = "https://marquez.example.com"

# What an hour of one GPU costs: overview and release sheet tell costs in money then.
# [cost]
# gpu_hour = 2.50
# currency = "EUR"

# Product lines over one registry: `btx rebuild --line support` composes these experts.
# With @V that very version, else the newest.
# [line.support]
# experts = ["support", "legal@1"]
"""


S = TypeVar("S", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RegistrySettings(_Section):
    """Where the registry's database is."""

    url: str = "sqlite:///.btx/registry.db"


class Recipes(_Section):
    """A plain table for each step; the step itself knows its keys and refuses an unknown one.

    Attributes:
        train: how branches are trained.
        mix: how experts are composed.
        tune: what is trained after that.
        evaluate: what is measured.
        expert: by the name of an expert, keys of `train` that hold for its branch alone.
    """

    train: dict[str, Any] = {}
    mix: dict[str, Any] = {}
    tune: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    expert: dict[str, dict[str, Any]] = {}

    def of_expert(self, name: str) -> dict[str, Any]:
        """Return how the branch of one expert is trained."""
        return self.train | self.expert.get(name, {})


class _RecipeFile(_Section):
    recipe: Recipes


class RaySettings(_Section):
    """The cluster of the executor `ray`; without an address RAY_ADDRESS, or else this machine."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    address: str | None = None


class LogSettings(_Section):
    """Who is told how a run comes on, beside work/metrics.

    Attributes:
        report_to: trackers; their addresses and keys come from their own environment.
    """

    report_to: list[TrackerName] = []


class OpenLineageSettings(_Section):
    """A server that is told what a rebuild does, as OpenLineage events.

    Attributes:
        url: of the server; without a path, events go to `/api/v1/lineage` there. A key comes from
            the environment variable OPENLINEAGE_API_KEY.
    """

    url: str | None = None

    @field_validator("url")
    @classmethod
    def _web_address(cls, url: str | None) -> str | None:
        if url is not None and (urlsplit(url).scheme not in ("http", "https") or "@" in url):
            raise ValueError("an address that starts with http:// or https://, without a password")
        return url


class CostSettings(_Section):
    """What an hour of one GPU costs, for the overview and the release sheet.

    Attributes:
        gpu_hour: the price; left out: costs are told in hours alone.
        currency: in which it is, such as EUR.
    """

    gpu_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    currency: str = Field(default="EUR", max_length=8)

    def price(self) -> GpuPrice | None:
        """Return the price; None where none is set."""
        if self.gpu_hour is None:
            return None
        return GpuPrice(gpu_hour=self.gpu_hour, currency=self.currency)


class LineSettings(_Section):
    """A product line: the names of its experts, with @V that very version."""

    experts: list[str]


class Settings(_Section):
    """What `btx.toml` says.

    Attributes:
        registry: where the database is.
        machine: where the stages run, and what each may use.
        train: the same of older workspaces.
        ray: where the cluster is; read by the executor `ray`.
        slurm: parameters of submitit, such as slurm_partition; read by the executor `slurm`.
        recipe: the settings of each step.
        log: who is told how runs come on.
        openlineage: who is told of rebuilds while they run.
        cost: what computing costs.
        line: product lines by name.
    """

    registry: RegistrySettings = RegistrySettings()
    machine: MachineSettings = MachineSettings()
    train: OlderTrainSettings = OlderTrainSettings()
    ray: RaySettings = RaySettings()
    slurm: dict[str, Any] = {}
    recipe: Recipes = Recipes()
    log: LogSettings = LogSettings()
    openlineage: OpenLineageSettings = OpenLineageSettings()
    cost: CostSettings = CostSettings()
    line: dict[str, LineSettings] = {}

    def resources(self, stage: StageName, executor: ExecutorName | None = None) -> Resources:
        """Return what a stage is given; `executor` goes before the one in the settings."""
        return resources_of(stage, self.machine, self.train, executor)


def read_settings(path: Path) -> Settings:
    """Read btx.toml. Raises Invalid, naming the key, for what is no setting."""
    return _read(Settings, path)


def read_recipes(path: Path) -> Recipes:
    """Read recipes from a TOML file of their own, with tables named as in btx.toml."""
    return _read(_RecipeFile, path).recipe


def _read(kind: type[S], path: Path) -> S:
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise NotFound(
            str(path),
            found=error.strerror or "nothing",
            expected="a TOML file",
            next="check the path",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise Invalid(
            f"{path}, {key}",
            found=str(first["input"])[:80],
            expected=_expected(kind, first),
            next="fix or remove the key",
        ) from error
    # Bytes that are no text, a number of too many digits, lists too deep inside each other.
    except (ValueError, RecursionError) as error:
        raise Invalid(str(path), found=str(error), expected="TOML", next="fix the line") from error


def _expected(kind: type[BaseModel], error: ErrorDetails) -> str:
    """Return what a settings file may say where it says something else."""
    if error["type"] == "missing":
        return f"the key {error['loc'][-1]}"
    if error["type"] != "extra_forbidden":
        return error["msg"].removeprefix("Value error, ")
    section = kind
    for part in error["loc"][:-1]:
        known = section.model_fields.get(str(part))
        inner = known.annotation if known else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return "a key that is known there"
        section = inner
    return f"one of {', '.join(section.model_fields)}"
