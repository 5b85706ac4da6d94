"""A server that MLflow's client takes for one of MLflow."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET, USER = "s3cr3t-w0rd", "ada"


class Server:
    """Answers by the first part of a path, and keeps what it was sent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []  # path, authorization, body
        self.elsewhere = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(size)
                outer.asked.append((self.path, self.headers.get("authorization", ""), body))
                status, content, headers = outer.answer(self.path)
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do  # noqa: N815 - as http.server calls them

            def log_message(self, *of: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        kind, _, asked = path.lstrip("/").partition("/")
        plain: dict[str, bytes] = {
            "page": b"<html>sign in</html>",
            "list": b"[1, 2]",
            "null": b"null",
            "cut": b'{"experiment": {"experi',
            "nothing": b"{}",
            "words": b'{"experiment": "no", "experiment_id": {}}',
        }
        if kind in plain:
            return 200, plain[kind], {}
        if kind == "moved":
            return 307, b"", {"location": f"{self.elsewhere}/{asked}"}
        if kind == "fault":
            return 500, f'{{"error_code": "INTERNAL_ERROR", "message": "{SECRET}"}}'.encode(), {}
        ids = {"odd": "../../0\x1b[31m", "local": "7", "run": "7", "model": "7"}
        at = "file:///tmp/elsewhere" if kind == "local" else "mlflow-artifacts:/7"
        if "experiments/" in asked:
            found = {"experiment_id": ids[kind], "name": "claims", "artifact_location": at}
            return 200, json.dumps({"experiment": found}).encode(), {}
        if "logged-models" in asked:
            about = {
                "model_id": "m-1",
                "experiment_id": "7",
                "name": "model",
                "creation_timestamp_ms": 1,
            }
            about |= {"last_updated_timestamp_ms": 1, "artifact_uri": self.elsewhere}
            about["status"] = "LOGGED_MODEL_PENDING"
            return 200, json.dumps({"model": {"info": about, "data": {}}}).encode(), {}
        if "runs/create" in asked or "runs/get" in asked:
            info = {"run_id": "ab12", "run_uuid": "ab12", "experiment_id": "7", "status": "RUNNING"}
            info["artifact_uri"] = at if kind == "model" else self.elsewhere
            return 200, json.dumps({"run": {"info": info, "data": {}}}).encode(), {}
        return 200, b"{}", {}

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
