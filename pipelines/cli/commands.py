"""Which record each command's `--json` prints.

In:  nothing.  Out: one table from command to record. A test compares what commands print with it.
A command whose answer differs by an argument or an option has an entry for each: `list seeds`,
`show build`, `rebuild --dry-run`. `serve` is not here: it answers with pages.
"""

from collections.abc import Collection, Mapping

from registry.records.answers import (
    SHOWN,
    ActorAnswer,
    Answer,
    ApprovedAnswer,
    AuditAnswer,
    BenchRow,
    BuildRow,
    CollectAnswer,
    DataRow,
    DemoAnswer,
    DiffAnswer,
    DumpAnswer,
    ExpertRow,
    ExplainAnswer,
    ExportAnswer,
    ExportRow,
    ForecastAnswer,
    HeadAnswer,
    LineageAnswer,
    LoadAnswer,
    MixAnswer,
    PolicyCheckAnswer,
    PolicyTestAnswer,
    RebuildAnswer,
    RegisteredAnswer,
    ReleaseAnswer,
    ReportAnswer,
    RevokedAnswer,
    SeedRow,
    TokenAnswer,
    TokenRow,
    TrustAnswer,
    WaivedAnswer,
    WithdrawAnswer,
    WorkspaceAnswer,
)

ANSWERS: Mapping[str, type[Answer]] = {
    "init": WorkspaceAnswer,
    "trust": TrustAnswer,
    "data add": RegisteredAnswer,
    "seed add": RegisteredAnswer,
    "train": RegisteredAnswer,
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
    "report": ReportAnswer,
    "policy check": PolicyCheckAnswer,
    "policy test": PolicyTestAnswer,
    "approve": ApprovedAnswer,
    "waive": WaivedAnswer,
    "release": ReleaseAnswer,
    "withdraw": WithdrawAnswer,
    "actor add": ActorAnswer,
    "token add": TokenAnswer,
    "token list": TokenRow,
    "token revoke": RevokedAnswer,
    "audit": AuditAnswer,
    "registry head": HeadAnswer,
    "registry dump": DumpAnswer,
    "registry load": LoadAnswer,
    "registry gc": CollectAnswer,
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
        "token list",
    }
)
