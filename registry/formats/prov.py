"""W3C PROV-JSON: versions are entities, their making activities, people agents.

In: a dossier. Out: one PROV-JSON document (W3C member submission of 2013) with every version, edge,
approval and withdrawal.
"""

from registry.formats.documents import Document, written
from registry.formats.dossier import Dossier, seconds, stated_license
from registry.records.events import Withdrawn
from registry.records.facts import Facts
from registry.records.version import Version

PREFIX = {"btx": "urn:btx:"}
PERSON = {"prov:type": "prov:Person"}
TABLES = (
    "entity",
    "activity",
    "agent",
    "wasGeneratedBy",
    "used",
    "wasAssociatedWith",
    "wasDerivedFrom",
    "wasInvalidatedBy",
)


def text(dossier: Dossier) -> str:
    """Return the provenance document as JSON."""
    return written(document(dossier))


def document(dossier: Dossier) -> Document:
    """Describe a version, its ancestors and the people behind them in PROV-JSON.

    Args:
        dossier: what is recorded of a version.

    Returns:
        The document, ready to be written.
    """
    tables: dict[str, Document] = {name: {} for name in TABLES}
    for node in dossier.graph.nodes:
        _version(dossier, node, tables)
    for number, edge in enumerate(dossier.graph.edges):
        tables["used"][f"_:used-{number}"] = {
            "prov:activity": f"btx:making/{edge.from_}",
            "prov:entity": f"btx:{edge.to}",
            "prov:role": edge.relation,
        }
        tables["wasDerivedFrom"][f"_:derived-{number}"] = {
            "prov:generatedEntity": f"btx:{edge.from_}",
            "prov:usedEntity": f"btx:{edge.to}",
        }
    _approvals(dossier, tables)
    _withdrawals(dossier, tables)
    return {"prefix": PREFIX, **{name: table for name, table in tables.items() if table}}


def _version(dossier: Dossier, node: Version[Facts], tables: dict[str, Document]) -> None:
    ref = str(node.ref)
    entity, activity, agent = f"btx:{ref}", f"btx:making/{ref}", f"btx:actor/{node.actor}"
    made_at = seconds(node.registered_at)
    described: Document = {
        "prov:type": str(node.ref.kind),
        "btx:digest": node.digest,
        "btx:status": str(dossier.status(ref)),
    }
    if licence := stated_license(node):
        described["btx:license"] = licence
    tables["entity"][entity] = described
    tables["activity"][activity] = {"prov:endTime": made_at}
    tables["agent"][agent] = PERSON
    tables["wasGeneratedBy"][f"_:made-{ref}"] = {
        "prov:entity": entity,
        "prov:activity": activity,
        "prov:time": made_at,
    }
    tables["wasAssociatedWith"][f"_:by-{ref}"] = {
        "prov:activity": activity,
        "prov:agent": agent,
        "prov:role": "registrar",
    }


def _approvals(dossier: Dossier, tables: dict[str, Document]) -> None:
    for line in dossier.approvals:
        activity, agent = f"btx:approval/{dossier.ref}/{line.actor}", f"btx:actor/{line.actor}"
        tables["activity"][activity] = {"prov:endTime": seconds(line.at)}
        tables["agent"][agent] = PERSON
        tables["used"][f"_:approved-{line.actor}"] = {
            "prov:activity": activity,
            "prov:entity": f"btx:{dossier.ref}",
        }
        tables["wasAssociatedWith"][f"_:approver-{line.actor}"] = {
            "prov:activity": activity,
            "prov:agent": agent,
            "prov:role": "approver",
        }


def _withdrawals(dossier: Dossier, tables: dict[str, Document]) -> None:
    for event in dossier.withdrawals:
        activity = f"btx:withdrawal/{event.subject}"
        why = event.read(Withdrawn).why
        tables["activity"][activity] = {
            "prov:endTime": seconds(event.at),
            **({"btx:why": why} if why else {}),
        }
        tables["wasInvalidatedBy"][f"_:gone-{event.subject}"] = {
            "prov:entity": f"btx:{event.subject}",
            "prov:activity": activity,
            "prov:time": seconds(event.at),
        }
