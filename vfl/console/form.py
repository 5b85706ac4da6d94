"""What forms send, read within bounds."""

from collections.abc import Mapping
from email.message import Message
from email.parser import BytesParser
from urllib.parse import parse_qs

from starlette.requests import Request

from vfl.text import counted

_MOST = 16_384  # bytes of a form
_FIELDS = 20


class BadForm(Exception):
    """A form that is too long or none; `status` is that of HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises BadForm."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadForm(415, "a form of this page was expected")
    content = await _body(request, _MOST)
    try:
        found = parse_qs(content.decode("ascii"), keep_blank_values=True, max_num_fields=_FIELDS)
    except (UnicodeDecodeError, ValueError):
        raise BadForm(400, "a form that cannot be read") from None
    return {name: values[-1] for name, values in found.items()}


async def read_upload(request: Request, most: int) -> tuple[dict[str, str], bytes]:
    """The fields of a form with one file of at most so many bytes, and the file. Raises BadForm."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data;"):
        raise BadForm(415, "a form of this page was expected")
    content = await _body(request, most + _MOST)
    try:
        head = f"Content-Type: {kind}\r\n\r\n".encode("ascii")
    except UnicodeEncodeError:
        raise BadForm(400, "a form that cannot be read") from None
    parsed = BytesParser().parsebytes(head + content)
    fields: dict[str, str] = {}
    file: bytes | None = None
    parts = parsed.get_payload() if parsed.is_multipart() else []
    for part in parts if isinstance(parts, list) else []:
        if not isinstance(part, Message) or len(fields) > _FIELDS:
            break
        value = part.get_payload(decode=True)
        name = part.get_param("name", header="content-disposition")
        if not isinstance(value, bytes) or not isinstance(name, str):
            continue
        if part.get_filename() is not None:
            file = value
        else:
            fields[name] = value.decode("utf-8", "replace")
    if not file:
        raise BadForm(400, "no file was chosen")
    return fields, file


def field(form: Mapping[str, str], name: str) -> str:
    """A field, empty where there is none."""
    return form.get(name, "")


async def _body(request: Request, most: int) -> bytes:
    """Raises BadForm for more bytes."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise BadForm(413, f"more than {counted(most, 'byte')}")
    return bytes(content)
