"""Meta-SGD (Li, Zhou, Chen & Li 2017, eq. 2): MAML whose every weight has a learned rate of its own, direction included.

Such rates do not fit the dual form, whose first layer is never held per task, so tasks step on weights of their own under
torch.func.vmap. One rate per layer (`learned_rates: layer`) does fit.
"""

from dataclasses import dataclass
from typing import ClassVar

from metarec.meta.gradient import LearnedRates
from metarec.meta.maml import Maml


@dataclass(frozen=True, kw_only=True)
class MetaSgd(Maml):
    """MAML with a learned rate per element."""

    name: ClassVar[str] = "meta_sgd"

    learned_rates: LearnedRates = "element"
