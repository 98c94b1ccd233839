"""A small Flask application: what people build, not what protocols need."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

from flask import Flask, Response, redirect, request, send_file, session, url_for
from werkzeug.wrappers import Response as BaseResponse

app = Flask(__name__)
app.secret_key = "of the tests"


@app.get("/")
def home() -> str:
    return f"home of {request.remote_addr} at {url_for('home')}"


@app.get("/name/<path:name>")
def name(name: str) -> str:
    return f"{name}|{request.args.get('q', '')}"


@app.post("/form")
def form() -> str:
    return "|".join(f"{key}={value}" for key, value in sorted(request.form.items()))


@app.post("/upload")
def upload() -> str:
    content = request.files["file"].read()
    return f"{request.files['file'].filename} {len(content)} {hashlib.sha256(content).hexdigest()}"


@app.get("/login/<user>")
def login(user: str) -> Response:
    session["user"] = user
    return Response(status=204)


@app.get("/whoami")
def whoami() -> str:
    return str(session.get("user"))


@app.get("/go")
def go() -> BaseResponse:
    return redirect(url_for("whoami"))


@app.get("/file")
def file() -> Response:
    return send_file(io.BytesIO(b"static " * 10_000), "application/octet-stream", download_name="f")


@app.get("/source")
def source() -> Response:
    """A file of the disk, by wsgi.file_wrapper."""
    return send_file(__file__, "text/x-python", conditional=True)


@app.get("/stream")
def stream() -> Response:
    def lines() -> Iterator[str]:
        for number in range(100):
            yield f"line {number}\n"

    return Response(lines(), mimetype="text/plain")


@app.get("/error")
def error() -> str:
    raise RuntimeError("a secret of the application")
