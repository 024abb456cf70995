"""Parses one LLaVA, ShareGPT or OpenAI record into a conversation about images.

The formats differ only in names: `conversations` with `from` and `value`, or `messages` with `role`
and `content`; images in the record's `image` or `images`, or in content parts.
"""

import dataclasses
from typing import Any

from slava_jax.data.instructions import IMAGE_TOKEN, InstructionError

OWN = "slava_jax"  # record key for the fields that the other format has no place for
OWN_FIELDS = ("task", "style", "category", "images", "metadata")
RESERVED = {"id", "image", "images", "conversations", "messages", "system", OWN}

_MESSAGES = {"conversations": ("from", "value"), "messages": ("role", "content")}
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "system": "system", "developer": "system",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Image:
    """A reference to an image (a path or a URL) and the record field that holds it."""

    field: str
    reference: str


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Questions and answers about images.

    Attributes:
      id: the record's id, '' if it has none.
      images: in the order in which they are shown.
      turns: (question, answer) pairs; the questions hold one `<image>` per image.
      system: the system prompt, '' if there is none.
      own: fields that this library wrote (OWN_FIELDS), {} for records from other tools.
      rest: fields that are not part of the format, unchanged.
    """

    id: str
    images: tuple[Image, ...]
    turns: tuple[tuple[str, str], ...]
    system: str
    own: dict[str, Any]
    rest: dict[str, Any]


def field_error(field: str, problem: str) -> InstructionError:
    """Returns the error for a record field."""
    return InstructionError(f"field {field!r}: {problem}")


def parse(record: Any) -> Conversation:
    """Parses a record. Images without any `<image>` go before the first question.

    Raises:
      InstructionError: the record is invalid; names the field.
    """
    if not isinstance(record, dict):
        raise InstructionError(f"a record must be a JSON object, is a {type(record).__name__}")
    names = [name for name in _MESSAGES if name in record]
    if len(names) != 1:
        raise InstructionError(
            "a record must have either 'conversations' (LLaVA, ShareGPT) or 'messages' (OpenAI), "
            f"has {', '.join(map(repr, record)) or 'nothing'}"
        )
    (name,) = names
    own = _own(record.get(OWN, {}))
    reader = _Messages(name, bool(own))
    reader.read(record[name])
    if isinstance(record.get("system"), str) and not reader.system:
        reader.system = record["system"]
    elif record.get("system"):
        raise field_error("system", "must be a single string, given only once")
    listed = _listed(record)
    if listed and reader.images:
        raise field_error(
            reader.images[0].field, "the record already lists its images; keep only one"
        )
    images = listed or reader.images
    turns = _placed(reader.turns, images, name)
    rest = {field: value for field, value in record.items() if field not in RESERVED}
    return Conversation(
        _id(record), tuple(images), tuple(turns), reader.system, own, {**rest, **reader.rest}
    )


class _Messages:
    """Collects the turns, images and system prompt from the messages of a record."""

    def __init__(self, name: str, exact: bool):
        """`exact`: join the parts of a message unchanged; otherwise with newlines."""
        self._name, self._exact = name, exact
        self.turns: list[tuple[str, str]] = []
        self.images: list[Image] = []
        self.system = ""
        self.rest: dict[str, Any] = {}

    def read(self, messages: Any) -> None:
        if not isinstance(messages, list) or not messages:
            raise field_error(self._name, "must be a non-empty list of messages")
        role_key, text_key = _MESSAGES[self._name]
        asked: list[str] = []
        for i, message in enumerate(messages):
            field = f"{self._name}[{i}]"
            if not isinstance(message, dict):
                raise field_error(field, f"must be an object, is {message!r}")
            role = _role(message.get(role_key), f"{field}.{role_key}")
            text = self._content(message.get(text_key), f"{field}.{text_key}", role)
            if role == "system":
                if i:
                    raise field_error(
                        field, "a system prompt must be the first message; move it there"
                    )
                self.system = text
            elif role == "user":
                asked.append(text)
            elif message.get("weight") not in (None, 1):  # OpenAI's: 0 is not to be learned from
                raise field_error(
                    f"{field}.weight", f"must be 1, is {message['weight']!r}; remove the answer"
                )
            elif not asked:
                raise field_error(field, "an answer without a preceding question; remove it")
            else:
                self.turns.append(("\n".join(asked), text))
                asked = []
            self._keep(field, message, (role_key, text_key))
        if asked or not self.turns:
            raise field_error(self._name, "ends without an answer; add one or remove the question")

    def _keep(self, field: str, held: dict, known: tuple[str, ...]) -> None:
        """Records the unknown fields of an object."""
        more = {k: v for k, v in held.items() if k not in known and v is not None}
        if more:
            self.rest[field] = more

    def _content(self, content: Any, field: str, role: str) -> str:
        if isinstance(content, list):
            parts = [self._part(part, f"{field}[{i}]") for i, part in enumerate(content)]
            text = "".join(parts) if self._exact else "\n".join(parts)
        elif isinstance(content, str):
            text = content
        else:
            raise field_error(field, f"must be a string or a list of parts, is {content!r}")
        if not text.strip():
            raise field_error(field, "must not be empty; fill it in or remove the record")
        if IMAGE_TOKEN in text and role != "user":
            raise field_error(field, f"{IMAGE_TOKEN} is only allowed in questions; move it there")
        return text

    def _part(self, part: Any, field: str) -> str:
        """Returns the text of a part; an image is recorded and becomes `<image>`."""
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str):
            self._keep(field, part, ("type", kind))
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise field_error(f"{field}.text", f"must be a string, is {part.get('text')!r}")
            return part["text"]
        if kind == "image_url":
            field, named = f"{field}.image_url", part.get("image_url")
            if isinstance(named, dict):
                self._keep(field, named, ("url",))
                field, named = f"{field}.url", named.get("url")
            self.images.append(_image(field, named))
            return IMAGE_TOKEN
        if kind == "image":
            if "image" in part:  # otherwise it is the next image that the record lists
                self.images.append(_image(f"{field}.image", part["image"]))
            return IMAGE_TOKEN
        raise field_error(f"{field}.type", f"must be text, image_url or image, is {kind!r}")


def _placed(turns: list, images: list[Image], name: str) -> list:
    """Returns the turns with one `<image>` per image."""
    tokens = sum(question.count(IMAGE_TOKEN) for question, _ in turns)
    if images and not tokens:
        (question, answer), *others = turns
        return [("\n".join([IMAGE_TOKEN] * len(images) + [question]), answer), *others]
    if tokens != len(images):
        raise field_error(
            name,
            f"{tokens} {IMAGE_TOKEN} for {len(images)} image(s); write one for each image",
        )
    return turns


def _own(own: Any) -> dict[str, Any]:
    if not isinstance(own, dict):
        raise field_error(OWN, f"must be an object, is {own!r}")
    for field in own:
        if field not in OWN_FIELDS:
            raise field_error(f"{OWN}.{field}", f"is not one of {', '.join(OWN_FIELDS)}; remove it")
    if not isinstance(own.get("metadata", {}), dict):
        raise field_error(f"{OWN}.metadata", f"must be an object, is {own['metadata']!r}")
    return own


def _id(record: dict) -> str:
    found = record.get("id")
    if found is None:
        return ""
    if isinstance(found, bool) or not isinstance(found, str | int) or not str(found).strip():
        raise field_error("id", f"must be a string or an integer, is {found!r}")
    return str(found)


def _role(role: Any, field: str) -> str:
    if not isinstance(role, str) or role not in _ROLES:
        raise field_error(field, f"must be one of {', '.join(_ROLES)}, is {role!r}")
    return _ROLES[role]


def _listed(record: dict) -> list[Image]:
    """Returns the images in `image` or `images`, either of which may be a path or a list."""
    given = [name for name in ("image", "images") if record.get(name)]
    if len(given) > 1:
        raise field_error("images", "is given together with 'image'; keep only one")
    if not given:
        return []
    (name,) = given
    if isinstance(record[name], list):
        return [_image(f"{name}[{i}]", named) for i, named in enumerate(record[name])]
    return [_image(name, record[name])]


def _image(field: str, named: Any) -> Image:
    if not isinstance(named, str) or not named.strip():
        raise field_error(field, f"must name an image, is {named!r}")
    return Image(field, named)
