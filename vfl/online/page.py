"""The page that shows what the service does and lets people try it. Nothing comes from elsewhere."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files


@cache
def page() -> bytes:
    """The page, as UTF-8."""
    return files("vfl.online").joinpath("page.html").read_bytes()


@cache
def content_policy() -> str:
    """Its style and script alone apply, and they may speak with this service alone."""
    digests = {}
    for tag in ("style", "script"):
        found = re.search(rf"<{tag}>(.*?)</{tag}>".encode(), page(), re.DOTALL)
        inner = b"" if found is None else found[1]
        digests[tag] = base64.b64encode(hashlib.sha256(inner).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digests['style']}'; "
        f"script-src 'sha256-{digests['script']}'; connect-src 'self'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    )
