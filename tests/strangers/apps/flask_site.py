"""A web site by Flask."""

from __future__ import annotations

from flask import Flask, Response, request

from strangers import gate
from strangers.apps import MODERATE, QUICK, checksum
from strangers.apps import big as blocks
from strangers.apps import paused as pieces

app = Flask(__name__)


@app.get("/quick")
def quick() -> bytes:
    return QUICK


@app.get("/slow")
def slow() -> bytes:
    gate.wait()
    return QUICK


@app.get("/paused")
def paused() -> Response:
    return Response(pieces())


@app.get("/big")
def big() -> Response:
    return Response(blocks(MODERATE))


@app.post("/upload")
def upload() -> str:
    return checksum(request.get_data())
