"""The page of documentation: light or dark, as the browser prefers."""

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

STATIC = "/static-offline-docs"
"""Where `fastapi-offline` serves the files of Swagger UI."""
_DARK = """<script>
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
</script>"""
"""Swagger UI has colors for both, but a switch only in a bar that FastAPI's page leaves out."""


def add_docs_page(app: FastAPI) -> None:
    """Serve the page at /docs."""
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=app.title,
        swagger_js_url=f"{STATIC}/swagger-ui-bundle.js",
        swagger_css_url=f"{STATIC}/swagger-ui.css",
        swagger_favicon_url=f"{STATIC}/favicon.png",
    )
    html = bytes(page.body).decode().replace("</head>", f"{_DARK}</head>")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(html)
