"""Scorers by name. A new model is one file and one line here."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import import_module

from metarec.errors import ConfigError
from metarec.models.contract import Scorer

MODELS: dict[str, str] = {
    "attentive_set": "metarec.models.attentive_set:AttentiveSet",
    "catalogue": "metarec.models.catalogue_scorer:CatalogueScorer",
    "linear_gaussian": "metarec.models.linear_gaussian:LinearGaussian",
    "linear_targets": "metarec.models.linear_targets:LinearTargets",
    "melu": "metarec.models.melu:Melu",
}
"""Module and class of each model; modules load when a model is made."""


def make_model(name: str, settings: Mapping[str, object] | None = None) -> Scorer:
    """The model `name` with `settings` over its defaults; ConfigError on unknown names and settings."""
    if name not in MODELS:
        raise ConfigError(f"model '{name}' is unknown; use one of {', '.join(sorted(MODELS))}", field="model")
    module, _, attribute = MODELS[name].partition(":")
    model_type: type[Scorer] = getattr(import_module(module), attribute)
    known = {field.name for field in fields(model_type)}  # type: ignore[arg-type]  # models are dataclasses
    for key in settings or {}:
        if key not in known:
            raise ConfigError(f"setting '{key}' of model '{name}' is unknown; use one of {', '.join(sorted(known))}", field=key)
    return model_type(**dict(settings or {}))


def model_settings(model: Scorer) -> dict[str, object]:
    """The settings of a model, JSON-able: `make_model(model.name, model_settings(model)) == model`."""
    return asdict(model)  # type: ignore[call-overload,no-any-return]  # models are dataclasses
