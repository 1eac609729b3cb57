"""Requests in the spelling of imported data: ids, features and scenarios without surrounding spaces, composed.

A phone may send `é` as a letter and a mark where the data has one letter: to people and to rules they are the same. Ranking,
which the gateway asks once it has done this, does not do it again.
"""

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from metarec.data.spelling import spelled

AS_SENT = frozenset({"request_id", "event_id", "page_token"})
"""Names of a caller's own and ours, which are compared letter by letter."""


def spell(message: Message) -> None:
    """Change every text in `message` but those of AS_SENT and the keys of maps."""
    for field, value in message.ListFields():
        if field.name in AS_SENT:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                # A member of spaces alone is none, as in import; an empty one is left to who checks the request.
                value[:] = [part for text in value if (part := spelled(text)) or not text]
            else:
                setattr(message, field.name, spelled(value))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            entry = field.message_type
            assert entry is not None
            if not field.is_repeated:
                spell(value)
            elif not entry.GetOptions().map_entry:
                for part in value:
                    spell(part)
            elif entry.fields_by_name["value"].type == FieldDescriptor.TYPE_MESSAGE:
                for part in value.values():
                    spell(part)
