"""How much two versions have in common, by the digests of their files.

In:  sizes by digest.  Out: a share, of the smaller of the two.
"""

from collections.abc import Mapping, Sequence

from registry.records.version import FileFact

# A smaller share is chance: a licence, a notice, boilerplate.
LEAST_SHARE = 0.02


def sizes(files: Sequence[FileFact]) -> dict[str, int]:
    """Return the bytes of each file that is not empty, by digest."""
    return {file.sha256: file.bytes for file in files if file.bytes}


def common_share(own: Mapping[str, int], others: Mapping[str, int]) -> float:
    """Return which share of the smaller of two stands in the other."""
    both = sum(size for digest, size in own.items() if digest in others)
    smaller = min(sum(own.values()), sum(others.values()))
    return both / smaller if smaller else 0.0
