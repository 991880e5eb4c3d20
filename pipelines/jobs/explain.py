"""Job: which experts, and so whose data, each token of a text was computed with.

In:  a build, a text.  Out: PRODUCT's keys, as plain data. Reading the weights is btx_core's, what the members were made of the catalogue's.
A share speaks of the routed blocks. Attention, embeddings and head serve every token alike: `shared` names the data that they were tuned on.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from btx_core.measuring.attribution import Reader
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Catalog, Version
from registry.errors import Conflict, Invalid
from registry.web.rendering import explanation

LONGEST_TEXT = 20_000  # characters
DIGITS = 6


def explain(workspace: Workspace, reference: str, text: str) -> dict[str, Any]:
    """build, tokens[{text, experts[{ref, weight}], layers[[...]]}], sources[{ref, share, data, licenses}], shared.

    `layers` holds a list a layer, in the order of `experts`. Raises Invalid for what is no build, and for a text without a token.
    """
    build = workspace.catalog.get(reference)
    if build.ref.kind != "build":
        raise Invalid(reference, found=build.ref.kind, expected="a build", next="btx list builds")
    if len(text) > LONGEST_TEXT:
        raise Invalid(
            "text",
            found=f"{len(text)} characters",
            expected=f"at most {LONGEST_TEXT}",
            next="ask about one part at a time",
        )
    read = _opened(workspace.root / str(build.facts["folder"]), build.digest).read(text)
    if not read.tokens:
        raise Invalid("text", found="no token", expected="some words", next='--text "def main():"')
    refs = [str(_names(build)[member]) for member in read.members]
    tokens = [
        {
            "text": token,
            "experts": [
                {"ref": ref, "weight": round(float(weight), DIGITS)}
                for ref, weight in zip(refs, means_M, strict=True)
            ],
            "layers": [
                [round(float(weight), DIGITS) for weight in layer_M] for layer_M in layers_LM
            ],
        }
        for token, means_M, layers_LM in zip(
            read.tokens, read.weights_TM(), read.weights_TLM, strict=True
        )
    ]
    sources = [
        _source(workspace.catalog, ref, float(share))
        for ref, share in zip(refs, read.shares_M(), strict=True)
    ]
    return {
        "build": str(build.ref),
        "tokens": tokens,
        "sources": sources,
        "shared": list(build.facts["tuned_on"]),
    }


def write_page(answer: Mapping[str, Any], out: Path) -> None:
    """The answer as one HTML file. Raises Conflict when `out` exists."""
    try:
        with out.open("x") as file:
            file.write(explanation(answer))
    except FileExistsError:
        raise Conflict(
            str(out), found="something there", expected="a new file", next="name another file"
        ) from None
    except FileNotFoundError:
        raise Invalid(
            str(out),
            found=f"no folder {out.parent}",
            expected="a file in an existing folder",
            next="make the folder",
        ) from None


@lru_cache(maxsize=1)
def _opened(folder: Path, digest: str) -> Reader:
    """The last build asked about stays open; digest: of the build, so that another one in the same folder is opened anew."""
    return Reader.open(folder)


def _names(build: Version) -> Mapping[str, str]:
    """Member name, as the weights know it, to reference."""
    return {"seed": build.facts["seed"]} | {
        member["ref"].split("/")[1].split("@")[0]: member["ref"]
        for member in build.facts["members"]
    }


def _source(catalog: Catalog, ref: str, share: float) -> dict[str, Any]:
    """A member's share, the data versions it was trained on and their licences; a seed without registered data: its own licence."""
    facts = catalog.get(ref).facts
    data = list(facts.get("data") or [])
    licences = {str(catalog.get(item).facts.get("license")) for item in data} or {
        str(facts.get("license"))
    }
    return {"ref": ref, "share": share, "data": data, "licenses": sorted(licences - {"None"})}
