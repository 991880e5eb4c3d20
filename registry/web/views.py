"""The facts of each page, as plain data: what the JSON API answers and what the templates lay out.

In:  the catalogue.  Out: dicts in the form of schemas.py. Reads only; what a job must compute comes from jobs.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from registry.catalogue import audit_log, lineage
from registry.catalogue.catalog import Catalog, Event, Version
from registry.catalogue.rows import EVENT_COLUMNS, event
from registry.governance.gate import verdicts
from registry.governance.people import approvals, roll
from registry.records.references import KINDS, Reference
from registry.web import graph

Facts = dict[str, Any]
BAD = ("withdrawn", "tainted")
HIDDEN = ("tensors", "status", "dvc", "content", "mixed", "previous")
PAGE = 100
MOST_BUILDS = 12  # on the overview


def overview(catalog: Catalog) -> Facts:
    """Newest release, releases that hold what was withdrawn since, builds that wait, gain and cost build over build, the newest events."""
    builds = catalog.list("build")
    statuses = catalog.statuses(builds)
    lines = [_build_line(build, statuses[build.ref]) for build in builds]
    released = [line for line in lines if line["status"] == "released"]
    once = {event.subject for event in catalog.events(kind="released")}
    newest = max(
        (build.ref.version or 0 for build in builds if statuses[build.ref] == "released"), default=0
    )
    waiting = [
        line | {"approvals": [item["actor"] for item in approvals(catalog, build)]}
        for build, line in zip(builds, lines, strict=True)
        if line["status"] not in (*BAD, "released") and (build.ref.version or 0) > newest
    ]
    return {
        "released": released[-1] if released else None,
        "fallen": [line for line in lines if line["ref"] in once and line["status"] in BAD],
        "waiting": waiting[-MOST_BUILDS:],
        "builds": _steps(catalog, builds, lines),
        "gains": _gains(builds[-MOST_BUILDS:]),
        "counts": _counts(catalog),
        "events": events(catalog, limit=8)["events"],
        "head": catalog.head(),
    }


def listing(catalog: Catalog, kind: str, start: int = 0, text: str = "") -> Facts:
    """A page of versions, newest first; text: part of the name. Only this page's facts are read: they hold a digest for every tensor."""
    with catalog.database.read():
        named = [ref for ref in references(catalog, kind) if text in str(ref)]
        shown = [catalog.get(ref) for ref in named[start : start + PAGE]]
        statuses = catalog.statuses(shown)
    lines = [
        _build_line(v, statuses[v.ref]) if kind == "build" else _line(v, statuses[v.ref])
        for v in shown
    ]
    return {"kind": kind, "total": len(named), "start": start, "versions": lines}


def references(catalog: Catalog, kind: str) -> list[Reference]:
    """Every version of a kind, the last name and the newest first."""
    with catalog.database.read() as rows:
        return [
            Reference(*row)
            for row in rows(
                "SELECT kind, name, number FROM version WHERE kind = :kind ORDER BY name DESC, number DESC",
                kind=kind,
            )
        ]


def detail(catalog: Catalog, ref: str) -> Facts:
    """Everything recorded of one version: facts, files, gates, what it was made from and where it is used directly."""
    with catalog.database.read() as rows:
        version = catalog.get(ref)
        name = str(version.ref)
        near = _neighbours(rows, version.ref)
        statuses = catalog.statuses([version])
        made = {
            **_line(version, statuses[version.ref]),
            "actor": version.actor,
            "facts": {key: value for key, value in version.facts.items() if key not in HIDDEN},
            "files": [vars(file) for file in version.files],
            "bytes_linked": sum(file.bytes for file in version.files if file.linked),
            "bytes_written": sum(file.bytes for file in version.files if not file.linked),
            "gates": [_verdict(found) for found in verdicts(catalog, name)],
            "events": [_event(found) for found in catalog.events(name)],
            "made_from": near["made_from"],
            "used_in": near["used_in"],
            "builds": _builds_with(rows, version.ref),
        }
    return made | (
        {"approvals": approvals(catalog, version)} if version.ref.kind == "build" else {}
    )


def members(catalog: Catalog, recorded: Facts) -> list[Facts]:
    """The lines of a build's seed and members by slot; a seed whose blocks are no expert has none."""
    mix = (recorded.get("recipe") or {}).get("resolved", {}).get("mix", {})
    slots = {
        member["ref"]: member["slot"]
        for member in sorted(recorded.get("members") or (), key=lambda one: one["slot"])
    }
    if recorded.get("seed"):
        slots = {recorded["seed"]: 0 if mix.get("seed_expert", True) else None} | slots
    versions = {ref: catalog.get(ref) for ref in slots}
    statuses = catalog.statuses(versions.values())
    return [
        _line(versions[ref], statuses[versions[ref].ref]) | {"slot": slot}
        for ref, slot in slots.items()
    ]


def around(catalog: Catalog, ref: str, most: int = graph.MOST) -> Facts:
    """The subject's lineage both ways: the nearest nodes, the edges among them, and how many more there are."""
    with catalog.database.read() as rows:
        subject = str(catalog.get(ref).ref)
        ids = _ids(rows, subject)
        pairs: dict[tuple[int, int, str], None] = {}
        for down in (False, True):
            pairs |= dict.fromkeys(lineage.closure(rows, ids, down=down)[1])
        near = graph.nearest(str(ids), [(str(a), str(b)) for a, b, _ in pairs], most)
        reached = {ids, *(a for a, _, _ in pairs), *(b for _, b, _ in pairs)}
        chosen = {int(id_) for id_ in near}
        names = _names(rows, sorted(chosen))
        statuses = catalog.statuses([Version(found, "", "", "", {}) for found, _ in names.values()])
    nodes = [
        {
            "ref": str(names[int(id_)][0]),
            "kind": names[int(id_)][0].kind,
            "status": statuses[names[int(id_)][0]],
            "digest": names[int(id_)][1],
        }
        for id_ in near
    ]
    edges = [
        {"from": str(names[a][0]), "to": str(names[b][0]), "relation": how}
        for a, b, how in pairs
        if a in chosen and b in chosen
    ]
    return {"subject": subject, "nodes": nodes, "edges": edges, "more": len(reached) - len(nodes)}


def impact(catalog: Catalog, ref: str) -> Facts:
    """What a withdrawal of `ref` reaches, the class of removal of each build, and the rebuild that cures it."""
    found = catalog.impact(ref)
    builds = [
        {
            "ref": str(one.ref),
            "removal": one.removal,
            "why": one.why,
            "members": [str(member) for member in one.members],
        }
        for one in reversed(found.builds)
    ]
    experts = [str(expert) for expert in found.experts]
    return {
        "subject": str(found.subject),
        "status": catalog.status(found.subject),
        "experts": experts,
        "builds": [build for build in builds if build["removal"] != "none"],
        "untouched": [build["ref"] for build in builds if build["removal"] == "none"],
        "exports": [str(export) for export in found.exports],
        "others": [str(other) for other in found.others],
        "cure": _cure(catalog, str(found.subject), experts, builds),
    }


def events(
    catalog: Catalog,
    *,
    kind: str = "",
    subject: str = "",
    actor: str = "",
    before: int | None = None,
    limit: int = PAGE,
) -> Facts:
    """Newest first. before: only events with a smaller number; next: the number to go on with."""
    tests, values = ["1 = 1"], dict[str, Any]()
    for column, value in (("kind", kind), ("actor", actor)):
        if value:
            tests.append(f"{column} = :{column}")
            values[column] = value
    if subject:
        tests.append("(subject = :subject OR subject LIKE :start ESCAPE '!')")
        escaped = subject.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        values |= {"subject": subject, "start": f"{escaped}@%"}
    if before is not None:
        tests.append("seq < :before")
        values["before"] = before
    with catalog.database.read() as rows:
        where = f"WHERE {' AND '.join(tests)}"
        found = rows(
            f"SELECT {EVENT_COLUMNS} FROM event {where} ORDER BY seq DESC LIMIT :most",
            most=limit + 1,
            **values,
        )
        kinds = [row[0] for row in rows("SELECT DISTINCT kind FROM event ORDER BY kind")]
    more = found[limit - 1][0] if len(found) > limit else None
    return {"events": [_event(event(row)) for row in found[:limit]], "kinds": kinds, "next": more}


def chain(catalog: Catalog, pinned: str | None = None) -> Facts:
    """Every link of the log checked now; pinned: a head noted earlier outside the registry."""
    with catalog.database.read() as rows:
        examined, breaks = audit_log.verify(rows, pinned or None)
        head = audit_log.head(rows)
    return {"head": head, "examined": examined, "breaks": [found._asdict() for found in breaks]}


def people_on_roll(catalog: Catalog) -> list[Facts]:
    return [{"name": person.name, "roles": list(person.roles)} for person in roll(catalog).values()]


def _build_line(build: Version, status: str) -> Facts:
    facts = build.facts
    cost = facts.get("cost") or {}
    return _line(build, status) | {
        "members": [
            {"ref": member["ref"], "slot": member["slot"]} for member in facts.get("members") or ()
        ],
        "tokens": (cost.get("total") or {}).get("tokens"),
        "flops": (cost.get("total") or {}).get("flops"),
        "wall_s": (cost.get("total") or {}).get("wall_s"),
        "active_parameters": cost.get("active_parameters"),
        "total_parameters": cost.get("total_parameters"),
        "bytes_linked": sum(file.bytes for file in build.files if file.linked),
        "bytes_written": sum(file.bytes for file in build.files if not file.linked),
    }


def _line(version: Version, status: str) -> Facts:
    facts = version.facts
    licences = facts.get("licenses") or ([facts["license"]] if facts.get("license") else [])
    return {
        "ref": str(version.ref),
        "kind": version.ref.kind,
        "name": version.ref.name,
        "version": version.ref.version,
        "status": status,
        "digest": version.digest,
        "registered_at": version.registered_at,
        "data": list(facts.get("data") or ()),
        "licenses": [str(licence) for licence in licences],
    }


def _steps(catalog: Catalog, builds: Sequence[Version], lines: Sequence[Facts]) -> list[Facts]:
    """The last build lines with what each added, left out, gained in the mean, and what was spent for it alone: tuning and new experts."""
    held: list[set[str]] = [{member["ref"] for member in line["members"]} for line in lines]
    steps, first = [], max(0, len(lines) - MOST_BUILDS)
    for place in range(first, len(lines)):
        members, before = held[place], held[place - 1] if place else set()
        spent = [(builds[place].facts.get("cost") or {}).get("tune") or {}]
        spent += [
            catalog.get(ref).facts.get("train") or {} for ref in members.difference(*held[:place])
        ]
        new = {
            key: sum(float(part.get(key) or 0) for part in spent)
            for key in ("tokens", "flops", "wall_s")
        }
        gains = [
            gain
            for gain in map(_gain, (builds[place].facts.get("evaluation") or {}).values())
            if gain is not None
        ]
        mean = sum(gains) / len(gains) if gains else None
        steps.append(
            lines[place]
            | {
                "added": sorted(members - before),
                "left_out": sorted(before - members),
                "mean_gain": mean,
                "measured": len(gains),
                "new": new,
            }
        )
    return steps


def _gains(builds: Sequence[Version]) -> list[Facts]:
    """Per domain and build: bits per byte, and the gain over the seed; None where the build was not measured on it."""
    evaluations = {str(build.ref): build.facts.get("evaluation") or {} for build in builds}
    domains = sorted({domain for evaluation in evaluations.values() for domain in evaluation})

    def point(ref: str, figures: Mapping[str, Any]) -> Facts:
        return {
            "build": ref,
            "bits_per_byte": figures.get("bits_per_byte"),
            "gain": _gain(figures),
            "accuracy": figures.get("accuracy"),
        }

    return [
        {
            "domain": domain,
            "builds": [point(ref, found.get(domain) or {}) for ref, found in evaluations.items()],
        }
        for domain in domains
    ]


def _gain(figures: Mapping[str, Any]) -> float | None:
    bits, seed = figures.get("bits_per_byte"), figures.get("seed_bits_per_byte")
    return seed - bits if bits is not None and seed is not None else None


def _counts(catalog: Catalog) -> dict[str, int]:
    with catalog.database.read() as rows:
        return dict.fromkeys(KINDS, 0) | dict(
            rows("SELECT kind, COUNT(*) FROM version GROUP BY kind")
        )


def _verdict(found: Event) -> Facts:
    body = found.body
    return {
        "gate": str(body.get("gate")),
        "outcome": str(body.get("outcome")),
        "at": found.at,
        "actor": found.actor,
        "rules": dict(body.get("rules") or {}),
        "reasons": [dict(reason) for reason in body.get("reasons") or ()],
        "documents": list(body.get("documents") or ()),
    }


def _event(found: Event) -> Facts:
    return vars(found) | {"body": dict(found.body), "words": words(found.kind, found.body)}


def words(kind: str, body: Mapping[str, Any]) -> str:
    """What an event says, in a line."""
    told = {**body, **(body.get("act") or {})}
    if kind in ("verdict", "refused"):
        noted = [
            rule for rule, outcome in (told.get("rules") or {}).items() if outcome != "allowed"
        ]
        return ": ".join(
            filter(None, (f"{told.get('gate')} {told.get('outcome')}", ", ".join(noted)))
        )
    if kind == "stage":
        spent = (
            f"{told['seconds']:.0f} s"
            if "seconds" in told
            else f"{told['done']} of {told['total']}"
            if "total" in told
            else ""
        )
        return " ".join(
            filter(None, (str(told.get("stage", "")), str(told.get("state", "")), spent))
        )
    if kind == "waived":
        return f"{told.get('rule')} until {str(told.get('until'))[:10]}: {told.get('why')}"
    if kind == "actor":
        return ", ".join(told.get("roles") or ()) or "taken off the roll"
    return str(told.get("why") or told.get("folder") or "")


def _neighbours(rows: Any, ref: Reference) -> dict[str, list[Facts]]:
    id_ = _ids(rows, str(ref))

    def joined(near: str, far: str) -> list[Facts]:
        found = rows(
            f"SELECT v.kind, v.name, v.number, e.relation FROM edge e JOIN version v ON v.id = e.{far} WHERE e.{near} = :id ORDER BY v.id DESC "
            "LIMIT 200",
            id=id_,
        )
        return [{"ref": str(Reference(*row[:3])), "relation": row[3]} for row in found]

    return {"made_from": joined("from_id", "to_id"), "used_in": joined("to_id", "from_id")}


def _builds_with(rows: Any, ref: Reference) -> list[str]:
    """Builds that were made from it, the newest first."""
    reached = ", ".join(map(str, lineage.walk(rows, [_ids(rows, str(ref))], down=True)))
    found = rows(
        f"SELECT name, number FROM version WHERE kind = 'build' AND id IN ({reached}) ORDER BY id DESC LIMIT 200"
    )
    return [str(Reference("build", *row)) for row in found if Reference("build", *row) != ref]


def _ids(rows: Any, ref: str) -> int:
    named = Reference.parse(ref)
    found = rows(
        "SELECT id FROM version WHERE kind = :kind AND name = :name AND number = :number",
        kind=named.kind,
        name=named.name,
        number=named.version,
    )
    return int(found[0][0])


def _names(rows: Any, ids: Sequence[int]) -> dict[int, tuple[Reference, str]]:
    listed = ", ".join(map(str, ids))
    return {
        row[0]: (Reference(*row[1:4]), row[4])
        for row in rows(
            f"SELECT id, kind, name, number, digest FROM version WHERE id IN ({listed})"
        )
    }


def _cure(
    catalog: Catalog, subject: str, experts: Sequence[str], builds: Sequence[Facts]
) -> Facts | None:
    """The commands that leave the newest build without it, and what would be left in it; None when that holds nothing of it."""
    if not builds or builds[0]["removal"] == "none":
        return None
    newest = catalog.get(builds[0]["ref"])
    members = [str(member["ref"]) for member in newest.facts.get("members") or ()]
    commands = (
        [] if catalog.status(subject) == "withdrawn" else [f'btx withdraw {subject} --why "..."']
    )
    return {
        "build": str(newest.ref),
        "keeps": [member for member in members if member not in experts],
        "drops": [member for member in members if member in experts],
        "commands": [*commands, "btx rebuild"],
    }
