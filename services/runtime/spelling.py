"""Requests in the spelling of imported data: ids, features and scenarios without surrounding spaces, composed.

A phone may send `é` as a letter and a mark where the data has one letter: to people and to rules they are the same.
"""

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from metarec.data.spelling import spelled

AS_SENT = "request_id"
"""Answered and logged as it came."""


def spell(message: Message) -> None:
    """Change every text in `message` but AS_SENT and the keys of maps."""
    for field, value in message.ListFields():
        if field.name == AS_SENT:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                value[:] = [spelled(text) for text in value]
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
            elif entry.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                for key in value:
                    value[key] = spelled(value[key])
