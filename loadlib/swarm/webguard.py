"""Who may talk to the web UI: pages of other sites may not.

Locust's web UI asks nobody for a password unless `--web-login` is given, and lets every web site
read it (`Access-Control-Allow-Origin: *`). Bound to loopback that still means: any page that is
open in the browser of the person at this machine can start load, which may cost money, and read
its figures. Browsers say where a request comes from, so what comes from elsewhere is refused:

    another site's page       its Sec-Fetch-Site or Origin says so
    a name that was rebound   on loopback and without a login, `Host` is a name of this machine

A person may follow a link to the page from anywhere, and a login of one's own (OAuth) may send
them back to its own route. Requests of programs (curl, a test) carry neither header and pass.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

OURS = ("same-origin", "none")  # of Sec-Fetch-Site: this page, or the person (an address typed)
OTHER_SITE = "refused: this request was made by a page of another site"
OTHER_NAME = (
    "refused: bound to loopback and without a login, this page answers to localhost and 127.0.0.1"
    " only; behind a proxy that sends another Host use --web-login"
)
OPEN = ("locust.index", "locust.login", "locust.send_assets")  # of Locust's routes, for a link
HEADERS = {
    "X-Frame-Options": "SAMEORIGIN",  # no other site's page around ours, to steal a click on Start
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def install(web_ui: Any) -> None:
    """Guard every route there is and will be."""
    alone = _is_loopback(web_ui.host) and not web_ui.web_login

    @web_ui.app.before_request  # type: ignore[untyped-decorator]
    def refuse() -> Any:
        from flask import request

        headers, endpoint = dict(request.headers), request.endpoint or ""
        return refusal(endpoint, headers, request.host, loopback_only=alone)

    def keep_to_ourselves(response: Any) -> Any:
        for name in [name for name, _ in response.headers if name.startswith("Access-Control-")]:
            del response.headers[name]
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    # Called in reverse order: the first one has the last word, after Locust's own CORS.
    web_ui.app.after_request_funcs.setdefault(None, []).insert(0, keep_to_ourselves)


def refusal(
    endpoint: str, headers: Mapping[str, str], host: str, *, loopback_only: bool
) -> tuple[str, int] | None:
    """(why, 403) for a request that another site made; None for any other.

    `endpoint` is Flask's name of the route. Locust stops a run by `GET`, so a link from elsewhere
    is one only to what it shows first.
    """
    if loopback_only and not _is_loopback(_name(host)):
        return OTHER_NAME, 403
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        own = not endpoint.startswith("locust.") or endpoint in OPEN
        link = own and headers.get("Sec-Fetch-Mode") == "navigate"
        return None if site in OURS or link else (OTHER_SITE, 403)
    origin = headers.get("Origin")
    if origin is None:
        return None
    known = {host, headers.get("X-Forwarded-Host", host)}
    return None if urlsplit(origin).netloc in known else (OTHER_SITE, 403)


def _name(host: str) -> str:
    """`localhost:8089` → `localhost`, `[::1]:8089` → `::1`."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
