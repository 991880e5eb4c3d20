"""Say which experts, and so whose data, each token of a text was computed with.

In:  a build, a text.  Out: weights token by token, and shares by member.
Reading the weights is btx_core's; what the members were made of is the catalogue's. A share speaks
of the routed blocks. Attention, embeddings and head serve every token alike: `shared` names the
data that they were tuned on.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from btx_core.measuring.attribution import Reader
from pipelines.workspace import folders
from pipelines.workspace.new_files import write_new
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Catalog
from registry.errors import Invalid
from registry.records.answers.auditing import ExpertWeight, ExplainAnswer, ExplainedToken, Source
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, SeedFacts
from registry.records.references import parse
from registry.records.version import FileFact
from registry.web.rendering import explanation

LONGEST_TEXT = 20_000  # characters
DIGITS = 6


def explain(workspace: Workspace, reference: str, text: str) -> ExplainAnswer:
    """Explain every token of a text.

    Args:
        workspace: where the build lies.
        reference: the build.
        text: at most LONGEST_TEXT characters.

    Returns:
        Each token's weights as means and layer by layer, in the order of its `experts`; and each
        member's share of the whole text.

    Raises:
        Damaged: for a file of the build that is not what was registered.
        Invalid: for what is no build, and for a text without a token.
    """
    build = workspace.catalog.get(reference, BuildFacts)
    if len(text) > LONGEST_TEXT:
        raise Invalid(
            "text",
            found=f"{len(text)} characters",
            expected=f"at most {LONGEST_TEXT}",
            next="ask about one part at a time",
        )
    facts = build.facts
    folder = folders.require_here(folders.build_folder(workspace.root, build), str(build.ref))
    read = _opened(folder, build.digest, build.files).read(text)
    if not read.tokens:
        raise Invalid(
            "text",
            found="no token",
            expected="at least one word",
            next='--text "def main():"',
        )
    names = _names(facts)
    refs = [names[member] for member in read.members]
    tokens = []
    weights = zip(read.tokens, read.weights_TM(), read.weights_TLM, strict=True)
    for token, means_M, layers_LM in weights:
        experts = tuple(
            ExpertWeight(ref=ref, weight=_rounded(weight))
            for ref, weight in zip(refs, means_M, strict=True)
        )
        layers = tuple(tuple(map(_rounded, layer_M)) for layer_M in layers_LM)
        tokens.append(ExplainedToken(text=token, experts=experts, layers=layers))
    shares = zip(refs, read.shares_M(), strict=True)
    return ExplainAnswer(
        build=str(build.ref),
        status=workspace.catalog.status(build.ref),
        tokens=tuple(tokens),
        sources=tuple(_source(workspace.catalog, ref, float(share)) for ref, share in shares),
        shared=facts.tuned_on,
    )


def write_page(answer: ExplainAnswer, out: Path) -> None:
    """Write the answer as one new HTML file; it raises what `write_new` does."""
    write_new({out: explanation(answer).encode()})


def _rounded(weight: float) -> float:
    return round(float(weight), DIGITS)


@lru_cache(maxsize=1)
def _opened(folder: Path, digest: str, files: tuple[FileFact, ...]) -> Reader:
    """Keep the last build that was asked about open, proven to hold its registered bytes.

    The digest is the build's, so that another one in the same folder is opened anew.
    """
    folders.verify(folder, files, f"build in {folder.name}")
    return Reader.open(folder)


def _names(build: BuildFacts) -> Mapping[str, str]:
    """Return each member's reference by its name, as the weights know it."""
    names = {parse(member.ref).name: member.ref for member in build.members}
    return {"seed": build.seed or "seed", **names}


def _source(catalog: Catalog, ref: str, share: float) -> Source:
    """Return a member's share, its data and their licences; of a seed without data its own."""
    facts = catalog.get(ref).facts
    data = facts.data if isinstance(facts, ExpertFacts | SeedFacts) else ()
    licences = {catalog.get(one, DataFacts).facts.license for one in data}
    if not data and isinstance(facts, SeedFacts):
        licences = {facts.license}
    known = sorted(licence for licence in licences if licence)
    return Source(ref=ref, share=share, data=data, licenses=tuple(known))
