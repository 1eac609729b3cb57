"""What a recipe is: complete settings of a training run, one part per head. Those with names are in metarec.training.recipes.

Recipes are plain data: they name learners and models, so that reading one imports neither torch nor any learner.
"""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import cast, get_args

import yaml

from metarec.errors import ConfigError
from metarec.types import GRADES_STD, Target, TaskKind

Setting = str | int | float | bool | None
Settings = Mapping[str, Setting]


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """How one head is trained.

    learner, model       names in the registries of metarec.meta and metarec.models, with their settings
    kind                 what a task is: a user, or an item
    episodes             settings of the episode sampler (metarec.tasks.sampler)
    members              trainings, each with a seed of its own, that make up the head (metarec.meta.members)
    epochs, batch_size   passes over the training tasks; tasks per outer step
    outer_lr             peak rate of Adam under the one-cycle schedule
    warmup_fraction      part of the steps during which the rate rises
    beta2                decay of Adam's second moments; lower follows changing gradients faster
    clip_norm            largest norm of the outer gradient; 0 does not clip
    gradient_shards      parts in which every batch's gradient is summed, whatever the number of workers, so that the result does
                         not depend on it
    patience             epochs without a better validation loss before training stops; 0 never stops early
    validation_tasks     most validation tasks per epoch
    penalty_rows         training rows for which the learner's l2_* settings are meant; with fewer, n, they grow by
                         sqrt(penalty_rows / n), threefold at most, since less data must be trusted less; 0: never
    penalty_std          deviation of the labels for which the learner's l2_* settings are meant; with another, s, they are
                         multiplied by (s / penalty_std)^2, as the squared error is; 0: never
    label_std            deviation of the labels for which all settings are meant: others are brought to it while the head is
                         trained (metarec.training.label_scale); 0: never
    """

    target: Target
    learner: str
    model: str
    learner_settings: Settings = field(default_factory=dict)
    model_settings: Settings = field(default_factory=dict)
    kind: TaskKind = "user"
    episodes: Settings = field(default_factory=dict)
    members: int = 1
    epochs: int = 12
    batch_size: int = 128
    outer_lr: float = 4e-3
    warmup_fraction: float = 0.3
    beta2: float = 0.999
    clip_norm: float = 0.0
    gradient_shards: int = 2
    patience: int = 4
    validation_tasks: int = 256
    penalty_rows: int = 0
    penalty_std: float = 0.0
    label_std: float = 0.0

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise ConfigError(f"target must be one of {', '.join(get_args(Target))}, not '{self.target}'", field="target")
        if self.kind not in get_args(TaskKind):
            raise ConfigError(f"kind must be one of {', '.join(get_args(TaskKind))}, not '{self.kind}'", field="kind")
        check_types(self)
        for name in ("members", "epochs", "batch_size", "gradient_shards"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}", field=name)
        for name in ("patience", "validation_tasks", "clip_norm", "penalty_rows", "penalty_std", "label_std"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}", field=name)
        if self.outer_lr <= 0:
            raise ConfigError(f"outer_lr must be positive, not {self.outer_lr:g}", field="outer_lr")
        if not 0 <= self.beta2 < 1:
            raise ConfigError(f"beta2 must be in [0, 1), not {self.beta2:g}", field="beta2")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"warmup_fraction must be in [0, 1), not {self.warmup_fraction:g}", field="warmup_fraction")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named training run.

    `validation_fraction` of the users, `max_validation_users` at most, are held out for early stopping, the blend and the gate;
    as many of the items are, from heads whose tasks are items.
    """

    name: str
    heads: tuple[HeadRecipe, ...]
    validation_fraction: float = 0.05
    max_validation_users: int = 500

    def __post_init__(self) -> None:
        if not self.heads:
            raise ConfigError(f"recipe '{self.name}' has no heads", field="heads")
        check_types(self)
        targets = [head.target for head in self.heads]
        if len(set(targets)) != len(targets):
            raise ConfigError(f"recipe '{self.name}' has two heads of one target", field="heads")
        if not 0 < self.validation_fraction < 0.5:
            raise ConfigError(
                f"validation_fraction must be between 0 and 0.5, not {self.validation_fraction:g}", field="validation_fraction"
            )
        if self.max_validation_users < 1:
            raise ConfigError("max_validation_users must be at least 1", field="max_validation_users")

    def to_dict(self) -> dict[str, object]:
        """As JSON-able data; `from_dict` reads it back."""
        data = asdict(self)
        return {**data, "heads": [dict(head) for head in data["heads"]]}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "Recipe":
        """The recipe written by `to_dict`. ConfigError names unknown settings."""
        known = {f.name for f in fields(cls)}
        known_head = {f.name for f in fields(HeadRecipe)}
        heads = data.get("heads", ())
        if not isinstance(heads, list | tuple):
            raise ConfigError("heads must be a list", field="heads")
        unknown = sorted(set(data) - known) + sorted({key for head in heads for key in head} - known_head)
        if unknown:
            raise ConfigError(f"unknown recipe settings: {', '.join(unknown)}", field=unknown[0])
        return cls(**{**data, "heads": tuple(HeadRecipe(**head) for head in heads)})  # type: ignore[arg-type]  # checked above

    def for_labels(self, label_kind: str, *, varied: bool = True) -> "Recipe":
        """This recipe for labels of this kind; `varied` says whether there is more than one value among those of some target.

        Where every event is positive an explicit head has nothing to tell apart and is left out. Penalties of the closed form are
        settings for grades from 1 to 5: on binary labels they follow the scale of the labels. Lists are learned from events of
        label 1 (docs/adr/0029-label-0-is-not-taken.md).
        """
        if label_kind != "binary":
            return self
        heads = tuple(_on_clicks(head) for head in self.heads)
        if not varied:
            heads = tuple(head for head in heads if head.target == "implicit") or self.heads
        return replace(self, heads=heads)

    def override(self, settings: Mapping[str, str]) -> "Recipe":
        """Settings replaced: `epochs` (all heads), `explicit.epochs` (one head), `explicit.learner.NAME`, `validation_fraction`.

        Values are read as YAML scalars. ConfigError for a name that does not exist.
        """
        recipe = self
        for path, text in settings.items():
            recipe = recipe._override(path, _value(path, text))
        return recipe

    def _override(self, path: str, value: Setting) -> "Recipe":
        head_name, _, rest = path.partition(".")
        if head_name in get_args(Target):
            if head_name not in {head.target for head in self.heads}:
                raise ConfigError(f"recipe '{self.name}' has no head '{head_name}'", field=path)
            return replace(self, heads=tuple(_set(h, rest, value, path) if h.target == head_name else h for h in self.heads))
        if path in {"validation_fraction", "max_validation_users"}:
            return replace(self, **{path: value})  # type: ignore[arg-type]  # the constructor checks the range
        return replace(self, heads=tuple(_set(head, path, value, path) for head in self.heads))


def _on_clicks(head: HeadRecipe) -> HeadRecipe:
    head = replace(head, label_std=0.0)
    if head.learner == "alpaca_implicit":
        return replace(head, learner_settings={"positive_only": True, **head.learner_settings})
    closed_form = head.target == "explicit" and head.model in ("linear_gaussian", "linear_targets")
    return replace(head, penalty_std=GRADES_STD) if closed_form and not head.penalty_std else head


GROUPS = {"learner": "learner_settings", "model": "model_settings", "episodes": "episodes"}


def _set(head: HeadRecipe, path: str, value: Setting, full: str) -> HeadRecipe:
    group, dot, rest = path.partition(".")
    if dot and group in GROUPS and rest:
        return replace(head, **{GROUPS[group]: {**getattr(head, GROUPS[group]), rest: value}})  # type: ignore[arg-type]  # mappings of settings
    plain = {f.name for f in fields(HeadRecipe)} - {"target", *GROUPS.values()}
    if path not in plain:
        known = ", ".join(sorted(plain | {f"{group}.NAME" for group in GROUPS}))
        raise ConfigError(f"unknown setting '{full}'; known: {known}", field=full)
    return replace(head, **{path: value})  # type: ignore[arg-type]  # checked by HeadRecipe


def _value(path: str, text: str) -> Setting:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"'{text}' cannot be read as a value for '{path}'", field=path) from None
    if value is None:
        raise ConfigError(f"'{path}' needs a value, not '{text}'", field=path)
    if isinstance(value, str):
        # YAML takes 4e-3 for a word.
        with contextlib.suppress(ValueError):
            return float(value)
    return cast(Setting, value)


def check_types(settings: object) -> None:
    """ConfigError when a whole number, a number or a switch of the dataclass `settings` holds something else."""
    check_values(type(settings), vars(settings))


def check_values(kind: type, values: Mapping[str, object]) -> None:
    """The same of values that a dataclass of this kind is yet to be made of; unknown names are passed over."""
    for member in fields(kind):
        if member.name not in values:
            continue
        value = values[member.name]
        is_bool, is_number = isinstance(value, bool), isinstance(value, int | float) and math.isfinite(value)
        wanted = {
            int: None if isinstance(value, int) and not is_bool else "a whole number",
            float: None if is_number and not is_bool else "a number",
            bool: None if is_bool else "true or false",
        }.get(cast(type, member.type))
        if wanted:
            shown = f"'{value}'" if isinstance(value, str) else value
            raise ConfigError(f"{member.name} must be {wanted}, not {shown}", field=member.name)
