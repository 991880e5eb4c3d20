"""What happens to a dense tensor's values on their way into the mixture.

In:  numbers, or rows of raw items, as numpy arrays.
Out: an array of the same shape. Each operation is a value: the plan holds it, the provenance
     records its `label`. Which tensor needs which operation is left to `families.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Identity:
    """Leave the bytes as they are."""

    label = ""

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return the values themselves."""
        return values


@dataclass(frozen=True)
class OnePlus:
    """Add one: Gemma's norms multiply by 1 + weight, where other norms multiply by the weight."""

    label = "one_plus"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return `values` + 1, element by element, in float64."""
        return values + 1.0


@dataclass(frozen=True)
class Times:
    """Multiply by a whole number.

    Attributes:
        factor: the number.
    """

    factor: int

    @property
    def label(self) -> str:
        """How the provenance records the operation."""
        return f"times:{self.factor}"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return `values` times the factor, element by element, in float64."""
        return values * self.factor


@dataclass(frozen=True)
class TimesRoot:
    """Multiply by the square root of a width: Gemma scales its embeddings so.

    Attributes:
        width: the width, in elements.
    """

    width: int

    @property
    def label(self) -> str:
        """How the provenance records the operation."""
        return f"times_root:{self.width}"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return `values` times the root, element by element, in float64."""
        return np.asarray(values * np.sqrt(np.float64(self.width)))


@dataclass(frozen=True)
class Halves:
    """Reorder the rows of each attention head for a model that rotates halves, not neighbours.

    Attributes:
        head: rows of one head.
        rotated: how many of them, from the first, the rotary embedding turns.
    """

    head: int
    rotated: int

    @property
    def label(self) -> str:
        """How the provenance records the operation."""
        return f"halves:{self.head}:{self.rotated}"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Put the even rotated rows of each head first, then the odd ones; the rest stays.

        Args:
            values: rows of all heads, of any dtype: [heads * head, ...].

        Returns:
            The same rows as [heads, head, ...], contiguous.
        """
        even = range(0, self.rotated, 2)
        odd = range(1, self.rotated, 2)
        order = [*even, *odd, *range(self.rotated, self.head)]
        by_head = values.reshape(-1, self.head, *values.shape[1:])
        return np.ascontiguousarray(by_head[:, order])


# Applied to each number after combining, so they need no more than a chunk of a tensor.
ElementWise = OnePlus | Times | TimesRoot
Operation = Identity | ElementWise | Halves
