"""Build the application of the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from hft_core.errors import HftError, UsageError
from hft_core.plugins.catalogue import Catalogue
from hft_core.runtime.run_folder import LOG_FILE, RECIPE_FILE
from hft_core.ui import compose, live_log, run_process, run_state
from hft_core.ui.explain import Predictor
from hft_core.ui.guard import REPORT_POLICY, Guard
from hft_core.ui.workspace import Workspace

PAGE = Path(__file__).with_name("page")
FILES = {
    "": "index.html",
    "app.js": "app.js",
    "charts.js": "charts.js",
    "compose.js": "compose.js",
    "style.css": "style.css",
    "icon.svg": "icon.svg",
}


class Ask(BaseModel):
    """A row for a task of a run."""

    model_config = ConfigDict(extra="forbid")
    run: str
    task: str
    texts: list[Annotated[str, Field(max_length=50_000)]] = Field(min_length=1, max_length=20)


class Named(BaseModel):
    """A run by its name."""

    model_config = ConfigDict(extra="forbid")
    run: str


class Written(BaseModel):
    """A recipe as YAML, and the name of its run."""

    model_config = ConfigDict(extra="forbid")
    name: str = ""
    yaml: Annotated[str, Field(max_length=1_000_000)]


def create_app(
    workspace: Workspace,
    catalogue: Catalogue,
    *,
    token: str,
    port: int,
    names: frozenset[str],
    options: Sequence[str] = (),
) -> FastAPI:
    """Return the application. `options`: global ones of `hft`, for the processes of runs; the others: see `Guard`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, token=token, port=port, names=names)
    _add_failures(app)
    _add_page(app)
    _add_reading(app, workspace, catalogue)
    _add_running(app, workspace, catalogue, options)
    _add_predicting(app, workspace, Predictor(catalogue))
    return app


def _add_failures(app: FastAPI) -> None:
    @app.exception_handler(HftError)
    async def wrong(request: Request, error: HftError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=422)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, status_code=422)

    @app.exception_handler(HTTPException)
    async def not_routed(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, status_code=error.status_code)


def _add_page(app: FastAPI) -> None:
    for path, name in FILES.items():
        app.add_api_route(f"/{path}", _file(PAGE / name), methods=["GET"])


def _file(path: Path) -> Any:
    def serve() -> FileResponse:
        return FileResponse(path)

    return serve


def _add_reading(app: FastAPI, workspace: Workspace, catalogue: Catalogue) -> None:
    @app.get("/api/runs")
    def runs() -> list[dict[str, Any]]:
        return [run_state.state_of(workspace.folder(name), name).to_json() for name in workspace.runs()]

    @app.get("/api/run")
    def run(name: str) -> dict[str, Any]:
        return run_state.details(workspace.folder(name), name)

    @app.get("/api/log")
    async def log(name: str, last_event_id: Annotated[str, Header()] = "0") -> StreamingResponse:
        folder = workspace.folder(name)
        offset = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 16 else 0
        events = live_log.follow(folder / LOG_FILE, offset, lambda: run_process.is_alive(folder))
        return StreamingResponse(events, media_type="text/event-stream")

    @app.get("/api/report")
    def report(name: str) -> Response:
        path = workspace.folder(name) / "report.html"
        if not path.is_file() or path.is_symlink():
            raise UsageError("the run has no report")
        return FileResponse(path, headers={"content-security-policy": REPORT_POLICY})

    @app.get("/api/plugins")
    def plugins() -> dict[str, Any]:
        return {"plugins": compose.plugins(catalogue), "files": workspace.data_files(), "root": str(workspace.root)}


def _add_running(app: FastAPI, workspace: Workspace, catalogue: Catalogue, options: Sequence[str]) -> None:
    @app.post("/api/compose")
    def composed(form: compose.RecipeForm) -> dict[str, str]:
        text = compose.as_yaml(compose.compose(form))
        return {"yaml": text, **_checked(Written(name=form.name, yaml=text))}

    @app.post("/api/validate")
    def validated(written: Written) -> dict[str, str]:
        return _checked(written)

    def _checked(written: Written) -> dict[str, str]:
        try:
            compose.check(written.yaml, workspace, catalogue)
            if written.name:
                workspace.new_folder(written.name)
        except HftError as error:
            return {"command": compose.command_of(written.name), "error": str(error)}
        return {"command": compose.command_of(written.name), "error": ""}

    @app.post("/api/start")
    def start(written: Written) -> dict[str, str]:
        compose.check(written.yaml, workspace, catalogue)
        folder = workspace.new_folder(written.name)
        recipe = folder.with_name(f"{folder.name}.yaml")
        if recipe.is_symlink() or (recipe.exists() and recipe.read_text(encoding="utf-8") != written.yaml):
            raise UsageError(f"there is another recipe in '{recipe.name}': give another name")
        folder.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(written.yaml, encoding="utf-8")
        command = ["run", str(recipe.relative_to(workspace.root)), "--out", str(folder.relative_to(workspace.root))]
        run_process.start(folder, [*options, *command], workspace.root)
        return {"run": written.name}

    @app.post("/api/stop")
    def stop(named: Named) -> dict[str, str]:
        run_process.stop(workspace.folder(named.run))
        return {"run": named.run}

    @app.post("/api/resume")
    def resume(named: Named) -> dict[str, str]:
        folder = workspace.folder(named.run)
        if not (folder / RECIPE_FILE).is_file():
            raise UsageError("the run has not begun: there is nothing to resume")
        run_process.start(folder, [*options, "resume", str(folder.relative_to(workspace.root))], workspace.root)
        return {"run": named.run}


def _add_predicting(app: FastAPI, workspace: Workspace, predictor: Predictor) -> None:
    @app.get("/api/tasks")
    def tasks(name: str) -> list[dict[str, Any]]:
        return predictor.tasks(workspace.folder(name))

    @app.post("/api/predict")
    def predict(ask: Ask) -> dict[str, Any]:
        return {"answer": predictor.predict(workspace.folder(ask.run), ask.task, ask.texts)}

    @app.post("/api/explain")
    def explain(ask: Ask) -> dict[str, Any]:
        return predictor.explain(workspace.folder(ask.run), ask.task, ask.texts)
