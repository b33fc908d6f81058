"""Bare FastAPI and the service's stack around the same routes; both on the same server with the same settings.

What is bare imports nothing of Marty: memory is compared too.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI

if TYPE_CHECKING:
    from marty_lib import App


def serve_bare(routes: APIRouter) -> None:
    """Serve the routes and nothing else at the port of the command line's end."""
    import uvicorn

    app = FastAPI()
    app.include_router(routes)
    uvicorn.run(
        app,
        port=int(sys.argv[-1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


def serve_stack(make: "Callable[[App], APIRouter]", more: "Callable[[App, FastAPI], object]" = lambda *_: None) -> None:
    """Serve as a rendered service does; `make` adds the components and returns the routes, `more` sees the API."""
    from marty_lib import App, HttpSettings, ServiceSettings, create_api, main, serve

    class Settings(ServiceSettings):
        http: HttpSettings = HttpSettings()

    def create_app(settings: Settings) -> App:
        app = App(settings, name="bench", version="1")
        routes = make(app)
        api = create_api(app, settings.http, title="bench")
        api.include_router(routes)
        more(app, api)
        app.add(serve(api, settings.http))
        return app

    main(Settings, create_app)
