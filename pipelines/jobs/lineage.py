"""Job: walk the lineage of one version and render it as nodes and edges."""

from typing import Any

from pipelines.workspace.workspace import Workspace


def lineage(workspace: Workspace, reference: str, *, down: bool) -> dict[str, Any]:
    """nodes[{ref, kind, digest, status, files?}], edges[{from, to, relation}]; data nodes carry their files' digests."""
    catalog = workspace.catalog
    graph = catalog.lineage(reference, down=down)
    nodes = []
    for version in graph.nodes:
        node: dict[str, Any] = {
            "ref": str(version.ref),
            "kind": version.ref.kind,
            "digest": version.digest,
            "status": catalog.status(version.ref),
        }
        if version.ref.kind == "data":
            node["files"] = [
                {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}
                for file in version.files
            ]
        nodes.append(node)
    edges = [
        {"from": str(edge.from_), "to": str(edge.to), "relation": edge.relation}
        for edge in graph.edges
    ]
    return {"nodes": nodes, "edges": edges}
