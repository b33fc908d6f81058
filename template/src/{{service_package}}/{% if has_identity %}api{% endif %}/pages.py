"""Pages for browsers: escaped, without scripts, and with a policy that lets forms lead only where they have to."""

import base64
import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent / "templates"
STYLE = (FOLDER / "style.css").read_text(encoding="utf-8")
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_environment = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)


def page(name: str, *, status: int = 200, redirect_uri: str = "", **shown: object) -> HTMLResponse:
    """Return a page.

    Args:
        name: of its template.
        status: of the answer.
        redirect_uri: where its form may lead in the end.
        shown: what it shows.
    """
    body = _environment.get_template(f"{name}.html").render(style=STYLE, **shown)
    policy = (
        f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; form-action 'self'{_origin(redirect_uri)}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(body, status, {"content-security-policy": policy, "cache-control": "no-store"})


def _origin(uri: str) -> str:
    """Return the origin of a redirect URI for the policy: browsers apply it to where a form's answer redirects, too."""
    if not uri:
        return ""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        return f" {parts.scheme}://{parts.netloc}"
    return f" {parts.scheme}:"
