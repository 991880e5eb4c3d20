"""W3C PROV-JSON: versions are entities, their making activities, people agents.

In: a dossier. Out: one PROV-JSON document (W3C member submission of 2013) with every version, edge,
approval and withdrawal.
"""

import json
from typing import Any

from registry.formats.dossier import Dossier, seconds

PREFIX = {"btx": "urn:btx:"}


def text(dossier: Dossier) -> str:
    """Return the provenance document as JSON."""
    return json.dumps(document(dossier), indent=1) + "\n"


def document(dossier: Dossier) -> dict[str, Any]:
    """Describe a version, its ancestors and the people behind them in PROV-JSON.

    Args:
        dossier: what is recorded of a version.

    Returns:
        The document, ready to be written.
    """
    made: dict[str, dict[str, Any]] = {
        name: {}
        for name in (
            "entity",
            "activity",
            "agent",
            "wasGeneratedBy",
            "used",
            "wasAssociatedWith",
            "wasDerivedFrom",
            "wasInvalidatedBy",
        )
    }
    for node in dossier.graph.nodes:
        ref = str(node.ref)
        entity, activity, agent = f"btx:{ref}", f"btx:making/{ref}", f"btx:actor/{node.actor}"
        known = {
            "btx:digest": node.digest,
            "btx:status": dossier.statuses.get(ref, "registered"),
            "btx:license": node.facts.get("license"),
        }
        made["entity"][entity] = {
            "prov:type": node.ref.kind,
            **{key: value for key, value in known.items() if value},
        }
        made["activity"][activity] = {"prov:endTime": seconds(node.registered_at)}
        made["agent"][agent] = {"prov:type": "prov:Person"}
        made["wasGeneratedBy"][f"_:made-{ref}"] = {
            "prov:entity": entity,
            "prov:activity": activity,
            "prov:time": seconds(node.registered_at),
        }
        made["wasAssociatedWith"][f"_:by-{ref}"] = {
            "prov:activity": activity,
            "prov:agent": agent,
            "prov:role": "registrar",
        }
    for number, edge in enumerate(dossier.graph.edges):
        used = {
            "prov:activity": f"btx:making/{edge.from_}",
            "prov:entity": f"btx:{edge.to}",
            "prov:role": edge.relation,
        }
        made["used"][f"_:used-{number}"] = used
        made["wasDerivedFrom"][f"_:derived-{number}"] = {
            "prov:generatedEntity": f"btx:{edge.from_}",
            "prov:usedEntity": f"btx:{edge.to}",
        }
    _people(dossier, made)
    return {"prefix": PREFIX, **{name: value for name, value in made.items() if value}}


def _people(dossier: Dossier, made: dict[str, dict[str, Any]]) -> None:
    for line in dossier.approvals:
        activity, agent = (
            f"btx:approval/{dossier.ref}/{line['actor']}",
            f"btx:actor/{line['actor']}",
        )
        made["activity"][activity] = {"prov:endTime": seconds(line["at"])}
        made["agent"][agent] = {"prov:type": "prov:Person"}
        made["used"][f"_:approved-{line['actor']}"] = {
            "prov:activity": activity,
            "prov:entity": f"btx:{dossier.ref}",
        }
        made["wasAssociatedWith"][f"_:approver-{line['actor']}"] = {
            "prov:activity": activity,
            "prov:agent": agent,
            "prov:role": "approver",
        }
    for event in dossier.withdrawals:
        activity = f"btx:withdrawal/{event.subject}"
        made["activity"][activity] = {
            "prov:endTime": seconds(event.at),
            "btx:why": str(event.body.get("why", "")),
        }
        made["wasInvalidatedBy"][f"_:gone-{event.subject}"] = {
            "prov:entity": f"btx:{event.subject}",
            "prov:activity": activity,
            "prov:time": seconds(event.at),
        }
