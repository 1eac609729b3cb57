"""Groups of encoded fields, for asking what each of them contributes: single fields, and all fields of one kind."""

from dataclasses import dataclass

from metarec.errors import FailedPreconditionError, InvalidInputError
from metarec.features.encoder import FeatureEncoder

KINDS: dict[str, tuple[str, ...]] = {
    "text": ("text", "sentences"),
    "graph": ("graph",),
    "vector": ("vector",),
    "categories": ("category",),
    "numbers": ("number",),
}
"""Groups of item fields by the kind of their block."""


@dataclass(frozen=True, kw_only=True)
class FeatureGroup:
    """Fields that are left out together. `columns` counts their encoded columns."""

    name: str
    items: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    columns: int = 0


def feature_groups(encoder: FeatureEncoder) -> dict[str, FeatureGroup]:
    """All groups of an encoder by name: `content` (all item fields), `profile` (all user fields), kinds of item fields, then
    `items.FIELD` and `users.FIELD`. Groups without columns are left out."""
    items = {
        name: (stop - start, kind) for (name, start, stop), kind in zip(encoder.item_blocks, encoder.item_kinds, strict=True)
    }
    users = {name: stop - start for name, start, stop in encoder.user_blocks}
    found = [FeatureGroup(name="content", items=frozenset(items), columns=sum(width for width, _ in items.values()))]
    found.append(FeatureGroup(name="profile", users=frozenset(users), columns=sum(users.values())))
    for name, kinds in KINDS.items():
        mine = {field: width for field, (width, kind) in items.items() if kind in kinds}
        found.append(FeatureGroup(name=name, items=frozenset(mine), columns=sum(mine.values())))
    found += [FeatureGroup(name=f"items.{name}", items=frozenset({name}), columns=width) for name, (width, _) in items.items()]
    found += [FeatureGroup(name=f"users.{name}", users=frozenset({name}), columns=width) for name, width in users.items()]
    return {group.name: group for group in found if group.columns}


def choose_groups(encoder: FeatureEncoder, names: tuple[str, ...], *, fields: bool) -> list[FeatureGroup]:
    """The groups of these names; without names content, profile and every kind, and with `fields` every field too.

    InvalidInputError lists the groups there are when a name is none of them; FailedPreconditionError where there are none at all.
    """
    groups = feature_groups(encoder)
    if not groups:
        raise FailedPreconditionError("the checkpoint knows no features of users or items, so there is nothing to leave out")
    if not names:
        return [group for name, group in groups.items() if fields or "." not in name]
    for name in names:
        if name not in groups:
            raise InvalidInputError(f"the encoder has no feature group '{name}'; it has {', '.join(groups)}", field="group")
    return [groups[name] for name in dict.fromkeys(names)]
