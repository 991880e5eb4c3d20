"""The indicative test of when somebody who modifies a model becomes its provider.

In: a dossier. Out: the computation of this build beside a third of its seed's. The thresholds are
in texts/compute-thresholds.yaml.
"""

from dataclasses import dataclass

from registry.formats.dossier import Dossier, operations
from registry.formats.legal_texts import THRESHOLDS
from registry.records.facts import BuildFacts, ExpertFacts, SeedFacts
from registry.units import power

# An own fact.
SYSTEMIC_RISK = "systemic_risk"


@dataclass(frozen=True)
class Modification:
    """What was computed to modify a seed, beside what the law looks at.

    Attributes:
        own: floating point operations of all experts and tunings that were reported.
        unreported: versions that reported none.
        seed: floating point operations that trained the seed, where they are known.
        threshold: from where on the modifier is the provider of the result.
        exceeded: whether it is reached; None while nothing says how much was computed.
    """

    own: float | None
    unreported: tuple[str, ...]
    seed: float | None
    threshold: float
    exceeded: bool | None

    @property
    def sentence(self) -> str:
        """The test and its outcome."""
        basis = "a third of the seed's"
        if self.seed is None:
            basis = "a third of the threshold for such models, as the seed's is not known"
        at_least = "at least " if self.unreported else ""
        own = f"{at_least}{power(self.own)}" if self.own is not None else "not reported"
        outcome = {
            True: "reached: whoever made this is the provider of a model of its own",
            False: "not reached: this is a modification of the seed",
            None: "open",
        }[self.exceeded]
        missing = f" Not reported: {', '.join(self.unreported)}." if self.unreported else ""
        return (
            f"One-third test ({THRESHOLDS.source}, {THRESHOLDS.date}): computed {own}, threshold "
            f"{power(self.threshold)} ({basis}): {outcome}.{missing}"
        )


def modification(dossier: Dossier) -> Modification:
    """Return the test for a build, or for an expert."""
    experts = dossier.of(ExpertFacts)
    tunes = [
        (str(version.ref), version.facts.cost.tune.flops)
        for version in dossier.of(BuildFacts)
        if version.facts.tuned != "none"
    ]
    reported = [(str(one.ref), operations(one, dossier.own)) for one in experts] + tunes
    known = [flops for _, flops in reported if flops is not None]
    unreported = tuple(ref for ref, flops in reported if flops is None)
    own = sum(known) if known else None
    seed = _seed_flops(dossier)
    risky = dossier.own_fact(SYSTEMIC_RISK)
    usual = THRESHOLDS.systemic if risky and risky.value is True else THRESHOLDS.general
    threshold = THRESHOLDS.share * (seed if seed is not None else usual)
    exceeded = None if own is None else own >= threshold
    if exceeded is False and unreported:
        exceeded = None
    return Modification(own, unreported, seed, threshold, exceeded)


def _seed_flops(dossier: Dossier) -> float | None:
    """Return what trained the seed: as it was recorded here, else as the company states it."""
    known = [operations(version, dossier.own) for version in dossier.of(SeedFacts)]
    total = sum(flops for flops in known if flops is not None)
    return None if None in known else total or None
