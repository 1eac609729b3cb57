"""Meta-learners by name. A new learner is one file and one line here; the contract tests pick it up."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import import_module

from metarec.errors import ConfigError
from metarec.meta.contract import MetaLearner

LEARNERS: dict[str, str] = {
    "alpaca": "metarec.meta.alpaca:Alpaca",
    "alpaca_implicit": "metarec.meta.implicit:ImplicitAlpaca",
    "alpaca_targets": "metarec.meta.alpaca_targets:AlpacaTargets",
    "anil": "metarec.meta.anil:Anil",
    "fomaml": "metarec.meta.maml:FirstOrderMaml",
    "joint": "metarec.meta.joint:Joint",
    "maml": "metarec.meta.maml:Maml",
    "meta_sgd": "metarec.meta.meta_sgd:MetaSgd",
    "neural_process": "metarec.meta.neural_process:NeuralProcess",
    "reptile": "metarec.meta.reptile:Reptile",
}
"""Module and class of each learner; modules load when a learner is made."""


def learner_type(name: str) -> type[MetaLearner]:
    """The class of the learner `name`; ConfigError lists the known names."""
    if name not in LEARNERS:
        raise ConfigError(f"learner '{name}' is unknown; use one of {', '.join(sorted(LEARNERS))}", field="learner")
    module, _, attribute = LEARNERS[name].partition(":")
    found: type[MetaLearner] = getattr(import_module(module), attribute)
    return found


def make_learner(name: str, settings: Mapping[str, object] | None = None) -> MetaLearner:
    """The learner `name` with `settings` over its defaults; ConfigError on unknown names and settings."""
    made = learner_type(name)
    known = {field.name for field in fields(made)}  # type: ignore[arg-type]  # learners are dataclasses
    for key in settings or {}:
        if key not in known:
            raise ConfigError(f"setting '{key}' of learner '{name}' is unknown; use one of {', '.join(sorted(known))}", field=key)
    return made(**dict(settings or {}))


def learner_settings(learner: MetaLearner) -> dict[str, object]:
    """The settings of a learner, JSON-able: `make_learner(learner.name, learner_settings(learner)) == learner`."""
    return asdict(learner)  # type: ignore[call-overload,no-any-return]  # learners are dataclasses
