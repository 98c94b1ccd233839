"""Programs that others wrote, behind real web servers: git-http-backend, gitweb, cgit, CGI.pm, php-cgi, sh, C.

The nginx of git's programs is nginx-conf/git.conf itself, with the addresses of the tests in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from tests.integration.conftest import HTPASSWD, PASSWORD, USER, copy_parameters
from tests.integration.fronts import NGINX_CONF
from tests.integration.scripts import Answer, ScriptServer, ask, cgi_bin, own, require_file
from tests.servers import LOOPBACK, SECONDS, Apache, Nginx, free_port, missing, open_directory, require, running

MIB = 1 << 20
LARGE = 11 * MIB
CGIT_CGI = "/usr/lib/cgit/cgit.cgi"
GITWEB_CGI = "/usr/share/gitweb/gitweb.cgi"
NGINX = ("fastcgi", "streamed", "scgi", "uwsgi", "cgi-bin")
WAYS = ("fastcgi", "streamed", "scgi", "uwsgi", "apache", "http")


class Git:
    """The command of a person who works with the repositories."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.binary = require("git")
        who = {f"GIT_{who}_{what}": "me@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        self.env = {"PATH": os.environ["PATH"], "HOME": str(top), "GIT_CONFIG_NOSYSTEM": "1", **who}
        self.env |= {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": str(top / "gitconfig")}
        (top / "gitconfig").write_text("[core]\ncompression = 0\nbigFileThreshold = 1m\n[safe]\ndirectory = *\n")

    def try_(self, *arguments: object, data: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self.binary, *map(str, arguments)],
            env=self.env | env,
            input=data,
            capture_output=True,
            check=False,
            timeout=SECONDS,
            cwd=self.top,
        )

    def __call__(self, *arguments: object, data: bytes = b"", **env: str) -> str:
        done = self.try_(*arguments, data=data, **env)
        assert done.returncode == 0, (arguments, done.stderr.decode())
        return done.stdout.decode()

    def commits(self, repository: Path, count: int, name: str, content: bytes = b"") -> None:
        """Put so many commits on top of main, the last one with a file."""
        old = self.try_("-C", repository, "rev-parse", "-q", "--verify", "main").stdout.decode().strip()
        parts = []
        for number in range(count):
            parts.append(f"commit refs/heads/main\ncommitter me <me@localhost> {number} +0000\ndata 6\n{name[:6]:6}\n")
            if number == 0 and old:
                parts.append(f"from {old}\n")
            if number < count - 1:
                parts.append(f"M 644 inline {name}.txt\ndata {len(str(number))}\n{number}\n")
        stream = "".join(parts).encode() + b"M 644 inline %b\ndata %d\n%b\n" % (name.encode(), len(content), content)
        self("-C", repository, "fast-import", "--quiet", "--force", data=stream)


@dataclass
class Estate:
    """All that runs. ``ports`` are of the ways to /cgi-bin/ and /git/, by name."""

    top: Path
    git: Git
    repositories: Path
    content: bytes
    ports: dict[str, int]
    servers: dict[str, ScriptServer]

    def url(self, way: str, repository: str = "project.git", *, user: str = "") -> str:
        return f"http://{f'{user}@' if user else ''}{LOOPBACK}:{self.ports[way]}/git/{repository}"

    def bare(self, name: str) -> Path:
        """Make an empty repository."""
        path = self.repositories / name
        self.git("init", "-q", "--bare", "-b", "main", path)
        own(path)
        return path


def published(top: Path, servers: dict[str, ScriptServer], port: int, repositories: Path) -> str:
    """Return nginx-conf/git.conf as somebody who uses it would change it: the lines marked "yours"."""
    text = (NGINX_CONF / "git.conf").read_text()
    (top / "cgitrc").write_text(
        f"css=/cgit-css/cgit.css\ncache-size=0\nfavicon=\nenable-index-owner=0\nsnapshots=tar.gz\nscan-path={repositories}\n"
    )
    (top / "gitweb.conf").write_text(f'$projectroot = "{repositories}";\n$feature{{"pathinfo"}}{{"default"}} = [1];\n')
    changes = {}
    for name in ("git", "cgit", "gitweb"):
        address = servers[name].address["fastcgi", "unix"] if name in servers else "/nowhere"
        changes[f"server unix:/run/git/{name}.sock;"] = f"server unix:{address};"
    changes |= {
        "listen 80;": f"listen {LOOPBACK}:{port};",
        "server_name git.example;": "server_name localhost;",
        "/etc/nginx/git.htpasswd;": f"{top}/htpasswd;",
        "/srv/git;": f"{repositories};",
        "/etc/cgitrc;": f"{top}/cgitrc;",
        "/etc/gitweb.conf;": f"{top}/gitweb.conf;",
    }
    for line in re.findall(r"^.*# yours.*$", text, re.MULTILINE):
        (old,) = (old for old in changes if old in line)
        text = text.replace(line, line.replace(old, changes.pop(old)))
    assert not changes
    return text


def nginx_of(directory: Path, text: str, ports: dict[str, int], servers: dict[str, ScriptServer]) -> Nginx:
    blocks = []
    common = f"client_max_body_size 0; root {directory.parent}"
    for way in ("scgi", "uwsgi"):
        places = "".join(
            f"location /{place}/ {{ include {Nginx.stock(f'{way}_params')}; {parameter} "
            f"{way}_pass unix:{servers[server].address[way, 'unix']}; }}\n"
            for place, server, parameter in (
                ("git", "mounted", f"{way}_param REMOTE_USER me;"),
                ("cgi-bin", "scripts", f"{way}_param SCRIPT_FILENAME $document_root$document_uri;"),
            )
        )
        blocks.append(f"server {{ {common}; listen {LOOPBACK}:{ports[way]};\n{places} }}\n")
    named = f"include {Nginx.stock('fastcgi_params')}; fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name"
    address = servers["scripts"].address["fastcgi", "unix"]
    blocks.append(
        f"server {{ {common}; listen {LOOPBACK}:{ports['cgi-bin']};\n"
        f"location /cgi-bin/ {{ {named}; fastcgi_pass unix:{address}; }} }}\n"
    )
    blocks.append(  # as the upload comes, of a length that nobody knows
        f"server {{ {common}; listen {LOOPBACK}:{ports['streamed']}; fastcgi_request_buffering off;\n"
        "location /git/ { include gateways_params.fastcgi; fastcgi_param SCRIPT_NAME ''; "
        "fastcgi_param PATH_INFO $document_uri; fastcgi_param REMOTE_USER me; "
        f"fastcgi_pass {servers['mounted'].address['fastcgi', 'tcp']}; }} }}\n"
    )
    return Nginx(directory, text + "".join(blocks), [ports[way] for way in NGINX])


def apache_of(directory: Path, port: int, servers: dict[str, ScriptServer], root: Path) -> Apache:
    git, scripts = (servers[name].address["fastcgi", "tcp"] for name in ("mounted", "scripts"))
    pages = "".join(
        f'ProxyPass "/{name}" "fcgi://{LOOPBACK}:{servers[name + "-mounted"].fastcgi_port}"\n'
        for name in ("gitweb", "cgit")
        if name in servers
    )
    conf = f"""
{pages}
ProxyPass "/git" "fcgi://{git}"
ProxyPass "/cgi-bin/" "fcgi://{scripts}{root}/"
<Location "/git">
    AuthType Basic
    AuthName git
    AuthBasicProvider file
    AuthUserFile "{directory}/htpasswd"
    <RequireAny>
        Require expr "%{{QUERY_STRING}} !~ /git-receive-pack/ && %{{REQUEST_URI}} !~ m#/git-receive-pack$#"
        Require valid-user
    </RequireAny>
</Location>
"""
    return Apache(directory, conf, [port])


@pytest.fixture(scope="module")
def estate() -> Iterator[Estate]:
    with ExitStack() as stack:
        top = stack.enter_context(open_directory())
        git = Git(top)
        root = cgi_bin(top)
        repositories = top / "git"
        repositories.mkdir()
        git("init", "-q", "--bare", "-b", "main", repositories / "project.git")
        content = os.urandom(LARGE)
        git.commits(repositories / "project.git", 1, "README", b"what it is\n")
        git.commits(repositories / "project.git", 1, "large.bin", content)
        own(repositories)

        backend = f"{git('--exec-path').strip()}/git-http-backend"
        project_root = ("--env", f"GIT_PROJECT_ROOT={repositories}", "--env", "GIT_HTTP_EXPORT_ALL=")
        options = {
            "git": ("--script", backend),
            "cgit": ("--script", CGIT_CGI),
            "gitweb": ("--script", GITWEB_CGI),
            "cgit-mounted": ("--script", CGIT_CGI, "--mount", "/cgit", "--env", f"CGIT_CONFIG={top}/cgitrc"),
            "gitweb-mounted": (
                "--script",
                GITWEB_CGI,
                "--mount",
                "/gitweb",
                "--env",
                f"GITWEB_CONFIG={top}/gitweb.conf",
            ),
            "mounted": ("--script", backend, "--mount", "/git", *project_root),
            "pushing": ("--script", backend, "--mount", "/git", *project_root, "--env", "REMOTE_USER=me"),
            "scripts": ("--root", str(root), "--interpreter", f".php={shutil.which('php-cgi') or '/bin/false'}"),
        }
        servers = {
            name: stack.enter_context(running(ScriptServer(top / f"{name}-scripts", *options[name])))
            for name in options
            if os.path.exists(options[name][1])
        }
        ports = {way: free_port() for way in (*NGINX, "apache")}
        ports["http"] = servers["pushing"].http_port
        for name in ("nginx", "apache"):
            (top / name).mkdir()
            (top / name / "htpasswd").write_text(HTPASSWD)
        copy_parameters(top / "nginx")
        (top / "htpasswd").write_text(HTPASSWD)
        text = published(top, servers, ports["fastcgi"], repositories)
        stack.enter_context(running(nginx_of(top / "nginx", text, ports, servers)))
        stack.enter_context(running(apache_of(top / "apache", ports["apache"], servers, root)))
        yield Estate(top, git, repositories, content, ports, servers)


# -- git ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_git_clones_a_large_file(estate: Estate, way: str, tmp_path: Path) -> None:
    estate.git("clone", "-q", estate.url(way), tmp_path / "work")
    assert (tmp_path / "work" / "large.bin").read_bytes() == estate.content


@pytest.mark.parametrize("way", WAYS)
def test_git_pushes_a_large_file_in_chunks(estate: Estate, way: str, tmp_path: Path) -> None:
    """As REMOTE_USER, without which git-http-backend takes nothing; each way has its own to send that."""
    git = estate.git
    user = f"{USER}:{PASSWORD}" if way in ("fastcgi", "apache") else ""
    url = estate.url(way, f"{way}.git", user=user)
    bare = estate.bare(f"{way}.git")
    work = estate.repositories / "project.git"
    trace = tmp_path / "trace"
    options = ("-c", "http.postBuffer=65536", "-C", work)
    git(*options, "push", "-q", url, "main", GIT_TRACE_CURL=str(trace), GIT_TRACE_CURL_NO_DATA="1")
    assert "Transfer-Encoding: chunked" in trace.read_text()
    assert git("-C", bare, "rev-parse", "main") == git("-C", work, "rev-parse", "main")
    assert git("-C", bare, "cat-file", "-s", "main:large.bin").strip() == str(LARGE)


@pytest.mark.parametrize("way", WAYS)
def test_git_compresses_a_long_negotiation(estate: Estate, way: str, tmp_path: Path) -> None:
    """A fetch into a repository of many commits that the other does not know: "have" lines of more than 1 KiB."""
    git = estate.git
    name = f"{way}-long.git"
    bare = estate.bare(name)
    git.commits(bare, 2, "base")
    work = tmp_path / "work"
    git("clone", "-q", bare, work)
    git.commits(work, 120, "mine")
    git.commits(bare, 2, "theirs")
    own(bare)
    trace = tmp_path / "trace"
    git("-C", work, "fetch", "-q", estate.url(way, name), GIT_TRACE_CURL=str(trace), GIT_TRACE_CURL_NO_DATA="1")
    assert "Content-Encoding: gzip" in trace.read_text()
    assert "Git-Protocol: version=2" in trace.read_text()
    assert git("-C", work, "rev-parse", "FETCH_HEAD") == git("-C", bare, "rev-parse", "main")


@pytest.mark.parametrize("way", ["fastcgi", "apache"])
def test_git_may_not_push_without_the_password(estate: Estate, way: str, tmp_path: Path) -> None:
    git = estate.git
    work = tmp_path / "work"
    git("init", "-q", "-b", "main", work)
    git.commits(work, 1, "new")
    for user in ("", f"{USER}:wrong"):
        done = git.try_("-C", work, "push", "-q", estate.url(way, user=user), "main:new")
        assert done.returncode != 0
        assert b"could not read" in done.stderr or b"Authentication failed" in done.stderr
    # What git itself does not send.
    place = "/git/project.git/info/refs?service=git-receive%2Dpack"
    basic = "Basic bWU6d3Jvbmc="
    assert ask(estate.ports[way], place, Authorization=basic).status == 403


def test_git_says_what_is_not_there(estate: Estate) -> None:
    for path in ("/git/nothing.git/info/refs", "/git/project.git/nothing", "/git/", "/git/../htpasswd"):
        assert ask(estate.ports["fastcgi"], path).status == 404
    # The dumb protocol.
    answer = ask(estate.ports["fastcgi"], "/git/project.git/info/refs")
    assert (answer.status, answer.body[40:]) == (200, b"\trefs/heads/main\n")
    assert answer["Cache-Control"] == "no-cache, max-age=0, must-revalidate"


# -- the pages of git's browsers ----------------------------------------------------------------------------------

GITWEB = (
    ("/gitweb/", "project.git"),
    ("/gitweb/?p=project.git;a=summary", "shortlog"),
    ("/gitweb/project.git/shortlog", "large"),
    ("/gitweb/project.git/tree", "large.bin"),
    ("/gitweb/project.git/blob_plain/main:/README", "what it is\n"),
    ("/gitweb/project.git/commitdiff", "large.bin"),
    ("/gitweb/?a=opml", "<opml"),
    ("/gitweb/?p=project.git;a=rss", "<rss"),
)
CGIT = (
    ("/cgit/", "project.git"),
    ("/cgit/project.git/", "large"),
    ("/cgit/project.git/log/?qt=grep&q=README", "README"),
    ("/cgit/project.git/tree/", "large.bin"),
    ("/cgit/project.git/plain/README", "what it is\n"),
    ("/cgit/project.git/commit/", "large.bin"),
    ("/cgit/project.git/diff/README?id=main~1", "what it is"),
    ("/cgit/project.git/atom/?h=main", "<feed"),
)


@pytest.mark.parametrize("program", ["gitweb", "cgit"])
def test_the_pages_without_nginx(estate: Estate, program: str) -> None:
    require_file(GITWEB_CGI if program == "gitweb" else CGIT_CGI)
    for port in (estate.ports["apache"], estate.servers[f"{program}-mounted"].http_port):
        for path, text in GITWEB if program == "gitweb" else CGIT:
            answer = ask(port, path)
            assert (answer.status, text in answer.text) == (200, True), path


@pytest.fixture
def gitweb(estate: Estate) -> int:
    """The port of the pages."""
    require_file(GITWEB_CGI)
    return estate.ports["fastcgi"]


@pytest.mark.parametrize(("path", "text"), GITWEB)
def test_a_page_of_gitweb(gitweb: int, path: str, text: str) -> None:
    answer = ask(gitweb, path)
    assert answer.status == 200
    assert text in answer.text
    for link in re.findall(r'href="(/[^"]*)"', answer.text):
        assert link.startswith("/gitweb")


def test_what_gitweb_does_not_have(gitweb: int) -> None:
    answer = ask(gitweb, "/gitweb/?p=nothing.git;a=summary")
    assert (answer.status, "404 - No such project" in answer.text) == (404, True)
    assert ask(gitweb, "/gitweb/?p=project.git;a=nothing").status == 400
    assert ask(gitweb, "/gitweb/project.git/tree", "HEAD").body == b""


def test_a_large_file_from_gitweb(estate: Estate, gitweb: int) -> None:
    assert ask(gitweb, "/gitweb/project.git/blob_plain/main:/large.bin").body == estate.content


@pytest.fixture
def cgit(estate: Estate) -> int:
    """The port of the pages."""
    require_file(CGIT_CGI)
    return estate.ports["fastcgi"]


@pytest.mark.parametrize(("path", "text"), CGIT)
def test_a_page_of_cgit(cgit: int, path: str, text: str) -> None:
    answer = ask(cgit, path)
    assert answer.status == 200
    assert text in answer.text
    for link in re.findall(r"href='(/[^']*)'", answer.text):
        assert link.startswith("/cgit")


def test_what_cgit_does_not_have(cgit: int) -> None:
    assert ask(cgit, "/cgit/nothing.git/").status == 404
    assert ask(cgit, "/cgit/project.git/plain/nothing").status == 404


def test_large_files_from_cgit(estate: Estate, cgit: int) -> None:
    assert ask(cgit, "/cgit/project.git/plain/large.bin").body == estate.content
    with tarfile.open(fileobj=BytesIO(ask(cgit, "/cgit/project.git/snapshot/project-main.tar.gz").body)) as archive:
        member = archive.extractfile("project-main/large.bin")
        assert member is not None
        assert member.read() == estate.content


# -- forms and uploads --------------------------------------------------------------------------------------------

DIRECT = ("cgi-bin", "scgi", "uwsgi", "apache", "direct")
BOUNDARY = "----of-the-form"


def form(content: bytes) -> bytes:
    fields = (b'name="who"', "caf\u00e9 & more".encode()), (b'name="file"; filename="a b.bin"', content)
    parts = (
        b"--%b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (BOUNDARY.encode(), *field) for field in fields
    )
    return b"".join(parts) + b"--%b--\r\n" % BOUNDARY.encode()


def visit(estate: Estate, way: str, path: str, method: str = "GET", body: bytes | None = None, **more: str) -> Answer:
    port = estate.servers["scripts"].http_port if way == "direct" else estate.ports[way]
    return ask(port, prefix(way) + path, method, body, **more)


def prefix(way: str) -> str:
    return "" if way == "direct" else "/cgi-bin"


@pytest.mark.parametrize("way", DIRECT)
def test_a_script_with_cgi_pm(estate: Estate, way: str) -> None:
    if subprocess.run([require("perl"), "-MCGI", "-e", "1"], capture_output=True, check=False).returncode:
        missing("perl has no CGI.pm; tests/run installs it where it may")
    answer = visit(estate, way, "/form.pl/more?a=1;b=%20;a=2", Cookie="x=1; seen=%c3%a9")
    assert (answer.status, answer["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert [value for name, value in answer.headers if name == "Set-Cookie"] == ["one=a%20b; path=/", "two=2; path=/"]
    assert answer.text == f"a=1|2\nb= \ncookie=\u00e9\nurl={prefix(way)}/form.pl/more\n"

    kind = f"multipart/form-data; boundary={BOUNDARY}"
    content = estate.content[: 3 * MIB]
    answer = visit(estate, way, "/form.pl", "POST", form(content), Content_Type=kind)
    assert "who=caf\u00e9 & more\n" in answer.text
    assert f"file=a b.bin {len(content)} {hashlib.md5(content).hexdigest()}\n" in answer.text  # noqa: S324

    answer = visit(estate, way, "/form.pl", "POST", b"a=1&b=%41+", Content_Type="application/x-www-form-urlencoded")
    assert answer.text.startswith("a=1\nb=A \n")
    answer = visit(estate, way, "/form.pl?away=1")
    assert (answer.status, answer["Location"]) == (303, "http://localhost/elsewhere")
    assert visit(estate, way, "/form.pl?status=404%20Not%20Here").status == 404
    assert visit(estate, way, "/form.pl", "HEAD").body == b""


@pytest.mark.parametrize("way", DIRECT)
def test_a_page_of_php(estate: Estate, way: str) -> None:
    require("php-cgi")
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    content = estate.content[:MIB]
    answer = visit(
        estate, way, "/form.php/x%20y/z.php?a=1&b[]=2", "POST", form(content), Content_Type=kind, Cookie="c=3"
    )
    assert answer["X-From"] == "cgi-fcgi"
    assert [value for name, value in answer.headers if name == "Set-Cookie"] == ["a=1", "b=2"]
    found = json.loads(answer.text)
    assert found["file"] == ["a b.bin", MIB, hashlib.md5(content).hexdigest()]  # noqa: S324
    assert (found["get"], found["post"]) == ({"a": "1", "b": ["2"]}, {"who": "caf\u00e9 & more"})
    assert (found["cookie"], found["path"]) == ({"c": "3"}, "/x y/z.php")
    assert found["script"] == f"{prefix(way)}/form.php"
    assert Path(found["name"]).name == "form.php"
    assert visit(estate, way, "/form.php?status=410").status == 410

    body = b"raw \0 \xff"
    found = json.loads(visit(estate, way, "/form.php", "PUT", body, Content_Type="application/octet-stream").text)
    assert (found["input"], found["path"]) == (hashlib.md5(body).hexdigest(), None)  # noqa: S324


def test_a_query_is_no_option_of_php(estate: Estate) -> None:
    """CVE-2012-1823: ?-s showed a script's source."""
    require("php-cgi")
    for query in ("-s", "-d+auto_prepend_file%3d/etc/passwd", "%AD-s"):
        answer = ask(estate.ports["cgi-bin"], f"/cgi-bin/form.php?{query}")
        assert json.loads(answer.text)["script"] == "/cgi-bin/form.php"


@pytest.mark.parametrize("way", DIRECT)
def test_a_program_in_c(estate: Estate, way: str) -> None:
    require("gcc")
    body = estate.content
    answer = visit(estate, way, "/sum/a%20b", "POST", body)
    assert answer.text == f"{len(body)} {sum(body)} /a b\n"
    assert answer["X-Sum"] == str(sum(body))
    assert visit(estate, way, "/sum").text == "0 0 -\n"


@pytest.mark.parametrize("way", DIRECT)
def test_a_shell_script(estate: Estate, way: str) -> None:
    answer = visit(estate, way, "/table.sh?b=%3Cx&a=1", "POST", b"12345")
    assert (answer.status, answer["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "<tr><td>a<td>1\n<tr><td>b<td>%3Cx\n</table>5</body>" in answer.text
