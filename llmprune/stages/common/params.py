"""A number of weights as it is typed: 100M, 1.5B, or a share of the dense model's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from llmprune.errors import TargetError

_COUNT = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([KMBT%]?)\s*", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True)
class ParamLimit:
    """An upper limit on the number of weights.

    Attributes:
        text: as typed.
        number: of weights; or, as ``share`` says, of the dense model's.
        share: whether it is a share.
    """

    text: str
    number: float
    share: bool = False

    def of(self, dense: float) -> float:
        """The number of weights that it allows, for a dense model of ``dense`` weights."""
        return self.number * dense if self.share else self.number


def parse_params(text: str | None, option: str) -> ParamLimit | None:
    """Read ``100M``, ``1.5B``, ``134515008`` or ``80%`` (of the dense model's).

    Raises:
        TargetError: anything else, or nothing at all.
    """
    if text is None:
        return None
    match = _COUNT.fullmatch(text)
    number = Decimal(match[1]) if match else Decimal(0)
    if match is None or not number:
        raise TargetError(f"{option} '{text:.40}' is no number of weights; type for example 100M, 1.5B or 80%.")
    if match[2] == "%":
        return ParamLimit(text, float(number / 100), share=True)
    return ParamLimit(text, float(number * _UNITS[match[2].upper()]))
