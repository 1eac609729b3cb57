"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017, algorithm 1), second and first order.

The outer gradient differentiates the query loss through the inner steps; the first-order form (their section 5.2) takes the inner
gradients as constants. For recommendation as in MeLU (Lee et al. 2019): decision layers adapt, embeddings do not.
"""

from dataclasses import dataclass
from typing import ClassVar

from metarec.meta.gradient import GradientLearner
from metarec.meta.inner import Form
from metarec.models.contract import Scorer


@dataclass(frozen=True, kw_only=True)
class Maml(GradientLearner):
    """MAML.

    first_order: take the inner gradients as constants in the outer step
    """

    name: ClassVar[str] = "maml"

    first_order: bool = False

    def form(self, model: Scorer) -> Form:
        """The outer gradient goes through the inner steps unless `first_order`."""
        return self.make_form(model, first_order=self.first_order)


@dataclass(frozen=True, kw_only=True)
class FirstOrderMaml(Maml):
    """MAML in its first-order form, by its own name."""

    name: ClassVar[str] = "fomaml"

    first_order: bool = True
