"""Speak to a backend: what a web server does, as a library. ``blocking`` is the client; it stands on the codecs."""

from __future__ import annotations

from gateways.client.blocking import Client, Connection, Response, StreamedResponse

__all__ = ["Client", "Connection", "Response", "StreamedResponse"]
