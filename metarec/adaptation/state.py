"""What is stored about an adapted user: the support set and the fast weights, as safetensors bytes with JSON metadata.

The adaptation service writes it, recall and ranking read it. The weights hold for one checkpoint, one profile and one revision of
each support item's content; whoever finds another of these adapts again from the support set, which is all there is to know.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from metarec.errors import MetarecError
from metarec.types import Features, Interaction, Target

FORMAT = 1
Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class UserState:
    """The state of one user.

    `support` is ordered oldest first; `seen` holds ids of items the user has interacted with that are too old for it.
    `weights` are the fast weights of each head by name, without the task dimension; a vector learner's are its task vector alone
    (`vector`). They were computed by `checkpoint`, from the profile with digest `profile` and from the contents of the support
    items at `revisions` (ids absent there: revision 0; -1: unknown, left out). `revision` grows with each change of the user.
    """

    checkpoint: str = ""
    revision: int = 0
    support: tuple[Interaction, ...] = ()
    seen: tuple[str, ...] = ()
    profile: str = ""
    revisions: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[Target, Weights] = field(default_factory=dict)

    @property
    def seen_items(self) -> frozenset[str]:
        """Every item the state knows the user to have interacted with."""
        return frozenset((*(interaction.item_id for interaction in self.support), *self.seen))

    def encode(self) -> bytes:
        """As bytes; `decode` is the way back."""
        plain: dict[str, object] = {
            "format": FORMAT,
            "checkpoint": self.checkpoint,
            "revision": self.revision,
            "items": [interaction.item_id for interaction in self.support],
            "profile": self.profile,
        }
        scenarios = [interaction.scenario for interaction in self.support]
        labels = [dict(interaction.labels) for interaction in self.support]
        optional = {
            "scenarios": scenarios if any(scenarios) else [],
            "labels": labels if any(labels) else [],
            "seen": list(self.seen),
            "revisions": dict(self.revisions),
        }
        plain |= {name: value for name, value in optional.items() if value}
        tensors: dict[str, NDArray[np.generic]] = {
            "support/label": np.array([interaction.label for interaction in self.support], np.float64),
            "support/timestamp": np.array([interaction.timestamp for interaction in self.support], np.float64),
        }
        for target, weights in self.weights.items():
            tensors |= {f"{target}/{name}": np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
        return save(tensors, {"state": json.dumps(plain, separators=(",", ":"), ensure_ascii=False)})

    @staticmethod
    def decode(data: bytes) -> "UserState":
        """The state in these bytes. MetarecError when they are damaged or of another format."""
        try:
            size = int.from_bytes(data[:8], "little")
            plain = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["state"])
            tensors = load(data)
            if plain["format"] != FORMAT:
                raise MetarecError(f"user state has format {plain['format']!r}, this metarec reads {FORMAT}")
            weights: dict[Target, dict[str, NDArray[np.float32]]] = {}
            for key, value in tensors.items():
                group, _, name = key.partition("/")
                if group != "support":
                    weights.setdefault(cast(Target, group), {})[name] = value
            columns = zip(
                plain["items"],
                tensors["support/label"].tolist(),
                tensors["support/timestamp"].tolist(),
                plain.get("scenarios", [""] * len(plain["items"])),
                plain.get("labels", [{}] * len(plain["items"])),
                strict=True,
            )
            return UserState(
                checkpoint=plain["checkpoint"],
                revision=plain["revision"],
                support=tuple(
                    Interaction(user_id="", item_id=item_id, label=label, timestamp=time, scenario=scenario, labels=labels)
                    for item_id, label, time, scenario, labels in columns
                ),
                seen=tuple(plain.get("seen", ())),
                profile=plain["profile"],
                revisions=plain.get("revisions", {}),
                weights=weights,
            )
        except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
            raise MetarecError(f"user state of {len(data)} bytes cannot be read: {type(error).__name__}: {error}") from error


def profile_digest(features: Features | None) -> str:
    """Sixteen hex digits, equal for equal profiles; "" for one without any value."""
    known = {name: value for name, value in sorted((features or {}).items()) if value is not None}
    if not known:
        return ""
    return hashlib.blake2b(json.dumps(known, ensure_ascii=False).encode(), digest_size=8).hexdigest()


def support_of(interactions: Sequence[Interaction]) -> tuple[Interaction, ...]:
    """Interactions as a support set: the latest label of each item stands, oldest first, the order given breaking ties."""
    latest: dict[str, Interaction] = {}
    for interaction in sorted(interactions, key=lambda entry: entry.timestamp):
        latest.pop(interaction.item_id, None)
        latest[interaction.item_id] = interaction
    return tuple(latest.values())
