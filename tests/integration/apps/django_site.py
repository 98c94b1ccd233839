"""A small Django project in one file, with the routes of the Flask application."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from django.conf import settings

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="of the tests",
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
        ],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    )

from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.urls import path, reverse


def home(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"home of {request.META['REMOTE_ADDR']} at {reverse('home')}")


def name(request: HttpRequest, name: str) -> HttpResponse:
    return HttpResponse(f"{name}|{request.GET.get('q', '')}")


def form(request: HttpRequest) -> HttpResponse:
    return HttpResponse("|".join(f"{key}={value}" for key, value in sorted(request.POST.items())))


def upload(request: HttpRequest) -> HttpResponse:
    file = request.FILES["file"]
    content = file.read()
    return HttpResponse(f"{file.name} {len(content)} {hashlib.sha256(content).hexdigest()}")


def login(request: HttpRequest, user: str) -> HttpResponse:
    request.session["user"] = user
    return HttpResponse(status=204)


def whoami(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.session.get("user")))


def go(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(reverse("whoami"))


def file(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"static " * 10_000, content_type="application/octet-stream")


def source(request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"), content_type="text/x-python")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def lines() -> Iterator[str]:
        for number in range(100):
            yield f"line {number}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


def error(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("a secret of the application")


urlpatterns = [
    path("", home, name="home"),
    path("name/<path:name>", name),
    path("form", form),
    path("upload", upload),
    path("login/<user>", login),
    path("whoami", whoami, name="whoami"),
    path("go", go),
    path("file", file),
    path("source", source),
    path("stream", stream),
    path("error", error),
]
application = get_wsgi_application()
