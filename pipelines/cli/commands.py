"""Which record each command's `--json` prints.

In:  nothing.  Out: one table from command to record. A test compares what commands print with it.
A command whose answer differs by an argument or an option has an entry for each: `list seeds`,
`show build`, `rebuild --dry-run`. `serve` is not here: it answers with pages.
"""

from collections.abc import Collection, Mapping

from registry.records.answers.answer import Answer
from registry.records.answers.auditing import (
    AuditAnswer,
    ExplainAnswer,
    HeadAnswer,
    LineageAnswer,
    ReportAnswer,
)
from registry.records.answers.building import (
    ExportAnswer,
    ForecastAnswer,
    MixAnswer,
    RebuildAnswer,
    TrainForecastAnswer,
)
from registry.records.answers.deciding import (
    ApprovedAnswer,
    PolicyAdoptAnswer,
    PolicyCheckAnswer,
    PolicyTestAnswer,
    PolicyTryRow,
    ReleaseAnswer,
    RetractedAnswer,
    WaivedAnswer,
)
from registry.records.answers.figures import BenchRow, DemoAnswer
from registry.records.answers.listing import (
    BuildRow,
    DataRow,
    ExpertRow,
    ExportRow,
    SearchRow,
    SeedRow,
)
from registry.records.answers.people_and_tokens import (
    ActorAnswer,
    ActorRow,
    KeyAnswer,
    RevokedAnswer,
    TokenAnswer,
    TokenRow,
)
from registry.records.answers.registering import (
    AliasAnswer,
    AliasRow,
    FactRow,
    FactsAnswer,
    NoteAnswer,
    RegisteredAnswer,
    SuggestAnswer,
    TrustAnswer,
    WorkspaceAnswer,
)
from registry.records.answers.shown import SHOWN, DiffAnswer
from registry.records.answers.upkeep import (
    CollectAnswer,
    DueRow,
    DumpAnswer,
    LoadAnswer,
    RepairAnswer,
    RestoreAnswer,
    StatusAnswer,
    UpgradeRow,
)
from registry.records.answers.withdrawing import (
    ContestedAnswer,
    EraseAnswer,
    RetireAnswer,
    ShreddedAnswer,
    WithdrawAnswer,
)

ANSWERS: Mapping[str, type[Answer]] = {
    "init": WorkspaceAnswer,
    "trust": TrustAnswer,
    "data add": RegisteredAnswer,
    "data suggest": SuggestAnswer,
    "seed add": RegisteredAnswer,
    "train": RegisteredAnswer,
    "train --dry-run": TrainForecastAnswer,
    "register": RegisteredAnswer,
    "rebuild": RebuildAnswer,
    "rebuild --dry-run": ForecastAnswer,
    "mix": MixAnswer,
    "explain": ExplainAnswer,
    "bench": BenchRow,
    "demo": DemoAnswer,
    "list seeds": SeedRow,
    "list data": DataRow,
    "list experts": ExpertRow,
    "list builds": BuildRow,
    "list exports": ExportRow,
    **{f"show {kind}": answer for kind, answer in SHOWN.items()},
    "lineage": LineageAnswer,
    "diff": DiffAnswer,
    "status": StatusAnswer,
    "report": ReportAnswer,
    "policy check": PolicyCheckAnswer,
    "policy test": PolicyTestAnswer,
    "policy adopt": PolicyAdoptAnswer,
    "policy try": PolicyTryRow,
    "approve": ApprovedAnswer,
    "waive": WaivedAnswer,
    "release": ReleaseAnswer,
    "withdraw": WithdrawAnswer,
    "erase": EraseAnswer,
    "contest": ContestedAnswer,
    "due": DueRow,
    "alias set": AliasAnswer,
    "alias list": AliasRow,
    "alias remove": AliasAnswer,
    "note": NoteAnswer,
    "retire": RetireAnswer,
    "search": SearchRow,
    "fact set": FactsAnswer,
    "fact list": FactRow,
    "actor add": ActorAnswer,
    "actor list": ActorRow,
    "actor remove": ActorAnswer,
    "actor rotate": ActorAnswer,
    "key new": KeyAnswer,
    "retract": RetractedAnswer,
    "token add": TokenAnswer,
    "token list": TokenRow,
    "token revoke": RevokedAnswer,
    "audit": AuditAnswer,
    "repair": RepairAnswer,
    "upgrade": UpgradeRow,
    "registry head": HeadAnswer,
    "registry dump": DumpAnswer,
    "registry load": LoadAnswer,
    "registry backup": DumpAnswer,
    "registry restore": RestoreAnswer,
    "registry gc": CollectAnswer,
    "registry shred": ShreddedAnswer,
    "export": ExportAnswer,
}

# Commands that print an array of these records. `train` does so for several experts.
ARRAYS: Collection[str] = frozenset(
    {
        "bench",
        "list seeds",
        "list data",
        "list experts",
        "list builds",
        "list exports",
        "policy try",
        "upgrade",
        "due",
        "alias list",
        "fact list",
        "search",
        "actor list",
        "token list",
    }
)
