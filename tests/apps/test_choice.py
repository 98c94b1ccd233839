"""Which file below a root answers, by what each web server says of it."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
import time
from pathlib import Path

import pytest
from hypothesis import event, given, strategies as st

from gateways.apps.choice import Choice, Chooser, ScriptRefused

INTERPRETERS = {".php": ("/usr/bin/php-cgi",), ".py": ("/usr/bin/python3", "-I")}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root, with things in it and beside it."""
    top = Path(os.path.realpath(tmp_path_factory.mktemp("tree")))
    root = top / "cgi-bin"
    outside = top / "outside"
    for directory in (root / "sub" / "deep", root / "indexed", root / "plain", root / ".hidden", outside):
        directory.mkdir(parents=True)
    for name in (
        "hello.sh", "sub/tool", "sub/deep/x.cgi", "indexed/index.cgi", ".hidden/secret", ".dot", "caf\u00e9", "a b",
        "..two", "sub/hello.sh", "../outside/evil",
    ):  # fmt: skip
        path = root / name
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    for name in ("data.txt", "page.php", "page.py", "../outside/data.php"):
        (root / name).write_text("x")
        (root / name).chmod(0o644)
    (root / "link-in").symlink_to(root / "hello.sh")
    (root / "link-out").symlink_to(outside / "evil")
    (root / "dir-out").symlink_to(outside)
    (outside / "back").symlink_to(root / "hello.sh")
    (root / "loop").symlink_to(root / "loop")
    (root / "gone").symlink_to(root / "nothing")
    (root / "gone-out").symlink_to(outside / "nothing")
    os.mkfifo(root / "fifo")
    (top / "alias").symlink_to(root)
    return top


@pytest.fixture
def root(tree: Path) -> Path:
    return tree / "cgi-bin"


@pytest.fixture
def chooser(root: Path) -> Chooser:
    return make(root)


def make(root: Path, **more: object) -> Chooser:
    options: dict[str, object] = {"script": None, "index": ("index.cgi",), "interpreters": INTERPRETERS} | more
    return Chooser(str(root), **options)  # type: ignore[arg-type]


def http(path: str) -> dict[str, str]:
    """What a client over HTTP can bring about: its path, and headers."""
    return {"REQUEST_METHOD": "GET", "REQUEST_URI": path, "HTTP_SCRIPT_FILENAME": "/etc/passwd"}


def sent(protocol: str = "fastcgi", **params: str) -> dict[str, str]:
    """What a web server says."""
    return {"REQUEST_METHOD": "GET", "HTTP_PROTOCOL": protocol} | params


def choose(chooser: Chooser, params: dict[str, str]) -> Choice:
    before = dict(params)
    try:
        return chooser.choose(params, params.get("HTTP_PROTOCOL", "http"))
    finally:
        assert params == before


def told(choice: Choice, root: Path) -> tuple[str, str, str]:
    return os.path.relpath(choice.path, root), choice.script_name, choice.path_info


# By the URL


@pytest.mark.parametrize(
    ("path", "file", "script", "info"),
    [
        ("/hello.sh", "hello.sh", "/hello.sh", ""),
        ("/hello.sh?x=1", "hello.sh", "/hello.sh", ""),
        ("/hello.sh/", "hello.sh", "/hello.sh", "/"),
        ("/hello.sh/a/b", "hello.sh", "/hello.sh", "/a/b"),
        ("/hello.sh/.git", "hello.sh", "/hello.sh", "/.git"),
        ("/hello.sh/hello.sh", "hello.sh", "/hello.sh", "/hello.sh"),
        ("/sub/tool/x", "sub/tool", "/sub/tool", "/x"),
        ("/sub/deep/x.cgi", "sub/deep/x.cgi", "/sub/deep/x.cgi", ""),
        ("//sub///tool//x", "sub/tool", "/sub/tool", "/x"),
        ("/sub/./tool", "sub/tool", "/sub/tool", ""),
        ("/sub/../hello.sh", "hello.sh", "/hello.sh", ""),
        ("/%2e%2e/%2e%2e/hello.sh", "hello.sh", "/hello.sh", ""),
        ("/hello.sh/../sub/tool", "sub/tool", "/sub/tool", ""),
        ("/sub%2Ftool", "sub/tool", "/sub/tool", ""),
        ("/a%20b/%C3%A9", "a b", "/a b", "/\u00c3\u00a9"),
        ("/caf%C3%A9", "caf\u00e9", "/caf\u00c3\u00a9", ""),
        ("/indexed/", "indexed/index.cgi", "/indexed/index.cgi", ""),
        ("/link-in/x", "hello.sh", "/link-in", "/x"),
        ("/dir-out/back", "hello.sh", "/dir-out/back", ""),
        ("/page.php/x", "page.php", "/page.php", "/x"),
    ],
)
def test_the_path_is_the_scripts_and_then_its_own(
    chooser: Chooser, root: Path, path: str, file: str, script: str, info: str
) -> None:
    assert told(choose(chooser, http(path)), root) == (file, script, info)


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/", 403, "without an index"),
        ("", 403, "without an index"),
        ("*", 403, "without an index"),
        ("/nothing", 404, "No such file"),
        ("/nothing/hello.sh", 404, "No such file"),
        ("/sub", 403, "no slash"),
        ("/plain/", 403, "without an index"),
        ("/data.txt", 403, "cannot be executed"),
        ("/data.txt/x.php", 403, "cannot be executed"),
        ("/.dot", 404, "starts with a dot"),
        ("/.hidden/secret", 404, "starts with a dot"),
        ("/..two", 404, "starts with a dot"),
        ("/hello.sh%00.php", 404, "NUL"),
        ("/hello.sh/%00", 404, "NUL"),
        ("/fifo", 403, "neither a file nor a directory"),
        ("/link-out", 403, "not in the root"),
        ("/dir-out/evil", 403, "not in the root"),
        ("/dir-out/data.php", 403, "not in the root"),
        ("/dir-out/nothing", 403, "not in the root"),
        ("/gone-out", 403, "not in the root"),
        ("/loop", 404, "symbolic links"),
        ("/gone", 404, "No such file"),
        ("/" + "x" * 300, 404, "too long"),
        ("/" + "x/" * 3000, 404, ""),
        ("/%ff%fe", 404, "No such file"),
    ],
)
def test_what_is_refused(chooser: Chooser, path: str, status: int, reason: str) -> None:
    with pytest.raises(ScriptRefused) as refused:
        choose(chooser, http(path))
    assert refused.value.status == status
    assert reason in refused.value.reason


def test_no_descriptor_is_needed(chooser: Chooser, root: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
    try:
        choice = choose(chooser, http("/link-in/x"))
        with pytest.raises(ScriptRefused, match=r"^403: .*not in the root"):
            choose(chooser, http("/dir-out/evil"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
    assert told(choice, root) == ("hello.sh", "/link-in", "/x")
    assert choice == choose(chooser, http("/link-in/x"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_directory_that_may_not_be_looked_into(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o000)
    with pytest.raises(ScriptRefused, match=r"^403: .*Permission denied$"):
        choose(make(tmp_path), http("/closed/x"))
    closed.chmod(0o700)


def test_what_is_executed(chooser: Chooser, root: Path) -> None:
    assert choose(chooser, http("/hello.sh")).argv == (f"{root}/hello.sh",)
    assert choose(chooser, http("/page.php")).argv == ("/usr/bin/php-cgi", f"{root}/page.php")
    assert choose(chooser, http("/page.py/x.php")).argv == ("/usr/bin/python3", "-I", f"{root}/page.py")


def test_the_file_as_stat_tells_it(chooser: Chooser, root: Path) -> None:
    choice = choose(chooser, http("/link-in"))
    found = (root / "hello.sh").stat()
    assert (choice.uid, choice.gid, choice.mode) == (found.st_uid, found.st_gid, found.st_mode)
    assert stat.S_ISREG(choice.mode)
    assert choice.root == str(root)


def test_the_root_may_be_a_link(tree: Path) -> None:
    choice = choose(make(tree / "alias"), http("/hello.sh"))
    assert choice.path == f"{tree}/cgi-bin/hello.sh"
    assert choice.root == f"{tree}/cgi-bin"


def test_there_must_be_a_root(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        make(tmp_path / "nothing")


def test_indexes_are_tried_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("two.cgi", "three.cgi"):
        (tmp_path / "b" / name).touch(0o755)
    chooser = make(tmp_path, index=("one.cgi", "two.cgi", "three.cgi"))
    assert choose(chooser, http("/b/")).script_name == "/b/two.cgi"


# By the URL below a mount


@pytest.mark.parametrize(
    ("params", "script", "info"),
    [
        (http("/cgi-bin/hello.sh/x"), "/cgi-bin/hello.sh", "/x"),
        (http("/cgi-bin/../cgi-bin/hello.sh"), "/cgi-bin/hello.sh", ""),
        (http("/hello.sh/x"), "/cgi-bin/hello.sh", "/x"),  # cut off in front
        (sent(SCRIPT_NAME="/cgi-bin/hello.sh/x", SCRIPT_FILENAME="/no/such"), "/cgi-bin/hello.sh", "/x"),
        (sent("uwsgi", SCRIPT_NAME="/cgi-bin", PATH_INFO="/hello.sh/x"), "/cgi-bin/hello.sh", "/x"),
        (sent("scgi", DOCUMENT_URI="/cgi-bin/indexed/"), "/cgi-bin/indexed/index.cgi", ""),
    ],
)
def test_a_mount_is_the_roots_own_path(root: Path, params: dict[str, str], script: str, info: str) -> None:
    choice = choose(make(root, mount="/cgi-bin"), params)
    assert (choice.script_name, choice.path_info) == (script, info)


def test_the_mount_itself(root: Path) -> None:
    with pytest.raises(ScriptRefused, match="without an index"):
        choose(make(root, mount="/cgi-bin"), http("/cgi-bin"))


# By SCRIPT_FILENAME, as the web servers send it; @ is the root


@pytest.mark.parametrize(
    ("params", "file", "script", "info"),
    [
        # nginx with its stock fastcgi_params
        (
            {"SCRIPT_FILENAME": "@/hello.sh", "SCRIPT_NAME": "/cgi-bin/hello.sh", "DOCUMENT_URI": "/cgi-bin/hello.sh"},
            "hello.sh", "/cgi-bin/hello.sh", "",
        ),
        (
            {
                "SCRIPT_FILENAME": "@/hello.sh/x", "SCRIPT_NAME": "/cgi-bin/hello.sh/x",
                "DOCUMENT_URI": "/cgi-bin/hello.sh/x",
            },
            "hello.sh", "/cgi-bin/hello.sh", "/x",
        ),
        # and with fastcgi_split_path_info
        (
            {
                "SCRIPT_FILENAME": "@/hello.sh", "SCRIPT_NAME": "/cgi-bin/hello.sh", "PATH_INFO": "/hello.sh",
                "DOCUMENT_URI": "/cgi-bin/hello.sh/hello.sh", "REQUEST_URI": "/cgi-bin/hello.sh/hello.sh",
            },
            "hello.sh", "/cgi-bin/hello.sh", "/hello.sh",
        ),
        # where only the file name is split
        (
            {
                "SCRIPT_FILENAME": "@/hello.sh", "SCRIPT_NAME": "/cgi-bin/hello.sh/x",
                "DOCUMENT_URI": "/cgi-bin/hello.sh/x",
            },
            "hello.sh", "/cgi-bin/hello.sh", "/x",
        ),
        # fastcgi_index
        (
            {
                "SCRIPT_FILENAME": "@/indexed/index.cgi", "SCRIPT_NAME": "/cgi-bin/indexed/index.cgi",
                "DOCUMENT_URI": "/cgi-bin/indexed/",
            },
            "indexed/index.cgi", "/cgi-bin/indexed/index.cgi", "",
        ),
        (
            {"SCRIPT_FILENAME": "@/indexed/", "SCRIPT_NAME": "/c/indexed/"},
            "indexed/index.cgi", "/c/indexed/index.cgi", "",
        ),
        ({"SCRIPT_FILENAME": "@//hello.sh", "SCRIPT_NAME": "/hello.sh"}, "hello.sh", "/hello.sh", ""),
        # the URL has nothing of the file's name
        (
            {"SCRIPT_FILENAME": "@/hello.sh", "SCRIPT_NAME": "/greeting/", "DOCUMENT_URI": "/greeting/"},
            "hello.sh", "/greeting/", "",
        ),
        (
            {
                "SCRIPT_FILENAME": "@/hello.sh", "SCRIPT_NAME": "/greeting", "DOCUMENT_URI": "/greeting",
                "PATH_INFO": "/greeting",
            },
            "hello.sh", "", "/greeting",
        ),
        (
            {"SCRIPT_FILENAME": "@/hello.sh", "SCRIPT_NAME": "/greeting", "PATH_INFO": "/x"},
            "hello.sh", "/greeting", "/x",
        ),
        (
            {"SCRIPT_FILENAME": "@/indexed/", "SCRIPT_NAME": "/greeting", "PATH_INFO": "/x"},
            "indexed/index.cgi", "/greeting", "/x",
        ),
        # Apache: ProxyPass to a directory, the path as it was written in the URL
        (
            {"SCRIPT_FILENAME": "proxy:fcgi://127.0.0.1:9000@/hello.sh/x", "SCRIPT_NAME": "/cgi-bin/hello.sh/x"},
            "hello.sh", "/cgi-bin/hello.sh", "/x",
        ),
        (
            {"SCRIPT_FILENAME": "proxy:fcgi://localhost@/a%20b", "SCRIPT_NAME": "/cgi-bin/a b"},
            "a b", "/cgi-bin/a b", "",
        ),
        # ProxyPass to nothing but the address: the URL's path
        (
            {"SCRIPT_FILENAME": "proxy:fcgi://127.0.0.1:9000/hello.sh/x", "SCRIPT_NAME": "/cgi-bin/hello.sh/x"},
            "hello.sh", "/cgi-bin/hello.sh", "/x",
        ),
        (
            {"SCRIPT_FILENAME": "proxy:fcgi://127.0.0.1:9000/hello.sh", "SCRIPT_NAME": "/hello.sh"},
            "hello.sh", "/hello.sh", "",
        ),
        # SetHandler
        (
            {
                "SCRIPT_FILENAME": "proxy:fcgi://localhost@/hello.sh", "SCRIPT_NAME": "/hello.sh", "PATH_INFO": "/x",
                "DOCUMENT_ROOT": "@", "REQUEST_URI": "/hello.sh/x",
            },
            "hello.sh", "/hello.sh", "/x",
        ),
        # lighttpd
        (
            {
                "SCRIPT_FILENAME": "@/hello.sh", "SCRIPT_NAME": "/hello.sh", "PATH_INFO": "/x",
                "REQUEST_URI": "/hello.sh/x", "SERVER_SOFTWARE": "lighttpd/1.4.69",
            },
            "hello.sh", "/hello.sh", "/x",
        ),
    ],
)  # fmt: skip
def test_the_file_that_is_sent(
    chooser: Chooser, root: Path, params: dict[str, str], file: str, script: str, info: str
) -> None:
    filled = {name: value.replace("@", str(root)) for name, value in params.items()}
    assert told(choose(chooser, sent(**filled)), root) == (file, script, info)


def test_the_file_by_any_name_of_the_root(tree: Path) -> None:
    up = tree / "outside" / "up"
    up.symlink_to(tree / "cgi-bin")
    for root in (tree / "alias", tree / "cgi-bin"):
        for named in (tree / "alias", tree / "cgi-bin", up):
            choice = choose(make(root), sent(SCRIPT_FILENAME=f"{named}/hello.sh/x", SCRIPT_NAME="/hello.sh/x"))
            assert told(choice, tree / "cgi-bin") == ("hello.sh", "/hello.sh", "/x")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd", "@/../outside/evil", "@/..", "@-more/hello.sh", "hello.sh", "proxy:fcgi://localhost/etc/passwd",
        "proxy:fcgi://localhost@/%2e%2e/outside/evil", "@/hello.sh\0",
    ],
)  # fmt: skip
def test_a_file_that_is_not_in_the_root(chooser: Chooser, root: Path, name: str) -> None:
    filled = name.replace("@", str(root))
    with pytest.raises(ScriptRefused) as refused:
        choose(chooser, sent(SCRIPT_FILENAME=filled, SCRIPT_NAME="/cgi-bin/hello.sh"))
    assert refused.value.status == 403
    assert "SCRIPT_FILENAME is" in refused.value.reason
    assert str(root) in refused.value.reason


def test_a_long_name_takes_no_long_time(chooser: Chooser) -> None:
    before = time.process_time()
    with pytest.raises(ScriptRefused, match=r"^403: SCRIPT_FILENAME is"):
        choose(chooser, sent(SCRIPT_FILENAME="/a" * 60_000))
    assert time.process_time() - before < 0.3


def test_two_dots_beside_a_file_name(chooser: Chooser, root: Path) -> None:
    """PATH_TRANSLATED is made of PATH_INFO."""
    asked = sent(SCRIPT_FILENAME=f"{root}/hello.sh", SCRIPT_NAME="/hello.sh", PATH_INFO="/../../etc/passwd")
    with pytest.raises(ScriptRefused, match=r"^404: two dots in the path"):
        choose(chooser, asked)


def test_clients_of_apache_do_not_choose_by_the_files_name(chooser: Chooser, root: Path) -> None:
    """ProxyPass "/cgi-bin" "fcgi://localhost": access rules for /cgi-bin/hello.sh must not be gone round."""
    with pytest.raises(ScriptRefused, match=r"^404: "):
        choose(
            chooser,
            sent(SCRIPT_FILENAME=f"proxy:fcgi://localhost{root}/hello.sh", SCRIPT_NAME=f"/cgi-bin{root}/hello.sh"),
        )


# A single script


@pytest.mark.parametrize(
    ("params", "mount", "script", "info"),
    [
        (http("/repo.git/info/refs"), None, "", "/repo.git/info/refs"),
        (http("/git/repo.git/../x"), "/git", "/git", "/x"),
        (http("/"), None, "", "/"),
        (sent(SCRIPT_NAME="/git", PATH_INFO="/repo.git", SCRIPT_FILENAME="/elsewhere"), None, "/git", "/repo.git"),
        (sent("uwsgi", PATH_INFO="/git/repo.git"), "/git", "/git", "/repo.git"),
    ],
)
def test_a_single_script(root: Path, params: dict[str, str], mount: str | None, script: str, info: str) -> None:
    chooser = Chooser(None, script=str(root / "hello.sh"), index=(), interpreters={}, mount=mount)
    choice = choose(chooser, params)
    assert (choice.path, choice.script_name, choice.path_info) == (f"{root}/hello.sh", script, info)
    assert choice.root == ""


def test_a_single_script_has_the_extension_of_its_given_name(root: Path, tmp_path: Path) -> None:
    (tmp_path / "current.php").symlink_to(root / "hello.sh")
    interpreters = {".php": ("/usr/bin/php-cgi",)}
    chooser = Chooser(None, script=str(tmp_path / "current.php"), index=(), interpreters=interpreters)
    assert choose(chooser, http("/")).argv == ("/usr/bin/php-cgi", str(root / "hello.sh"))


def test_a_nul_in_the_path_of_a_single_script(root: Path) -> None:
    with pytest.raises(ScriptRefused, match=r"^404: a NUL in the path"):
        choose(Chooser(None, script=str(root / "hello.sh"), index=(), interpreters={}), http("/a%00b"))


def test_a_single_script_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "one").touch(0o755)
    chooser = Chooser(None, script=str(tmp_path / "one"), index=(), interpreters={})
    (tmp_path / "one").unlink()
    with pytest.raises(ScriptRefused, match=r"^404: "):
        choose(chooser, http("/"))


def test_either_a_root_or_a_script(root: Path) -> None:
    for wrong in ({"root": None, "script": None}, {"root": str(root), "script": str(root / "hello.sh")}):
        with pytest.raises(ValueError, match="either"):
            Chooser(wrong["root"], script=wrong["script"], index=(), interpreters={})


# Local redirects


@pytest.mark.parametrize(
    ("params", "mount", "location", "file", "script", "info"),
    [
        (http("/hello.sh"), None, "/sub/tool/y?q=1", "sub/tool", "/sub/tool", "/y"),
        (http("/hello.sh/x"), None, "/a%20b", "a b", "/a b", ""),
        (http("/hello.sh"), None, "/sub/../indexed/?q=1#part", "indexed/index.cgi", "/indexed/index.cgi", ""),
        (http("/c/hello.sh"), "/c", "/c/sub/tool?q=1", "sub/tool", "/c/sub/tool", ""),
        (
            sent(SCRIPT_FILENAME="@/hello.sh", SCRIPT_NAME="/c/hello.sh"),
            None, "/c/sub/tool/y?q=1", "sub/tool", "/c/sub/tool", "/y",
        ),
        (
            sent(SCRIPT_FILENAME="proxy:fcgi://localhost/hello.sh", SCRIPT_NAME="/c/hello.sh"),
            None, "/c/sub/hello.sh/y", "sub/hello.sh", "/c/sub/hello.sh", "/y",
        ),
    ],
)  # fmt: skip
def test_a_local_redirect(
    root: Path, params: dict[str, str], mount: str | None, location: str, file: str, script: str, info: str
) -> None:
    filled = {name: value.replace("@", str(root)) for name, value in params.items()} | {
        "REQUEST_METHOD": "POST", "CONTENT_LENGTH": "3", "CONTENT_TYPE": "text/plain", "HTTP_COOKIE": "a=b",
    }  # fmt: skip
    chooser = make(root, mount=mount)
    new = chooser.redirect(filled, choose(chooser, filled), location)
    assert new["REQUEST_METHOD"] == "GET"
    assert new["QUERY_STRING"] == ("q=1" if "?" in location else "")
    assert new["HTTP_COOKIE"] == "a=b"
    assert "CONTENT_LENGTH" not in new
    assert "CONTENT_TYPE" not in new
    assert told(choose(chooser, new), root) == (file, script, info)
    again = chooser.redirect(new, choose(chooser, new), location)
    assert told(choose(chooser, again), root) == (file, script, info)


def test_a_local_redirect_of_a_single_script(root: Path) -> None:
    chooser = Chooser(None, script=str(root / "hello.sh"), index=(), interpreters={}, mount="/git")
    params = http("/git/a") | {"REQUEST_METHOD": "HEAD"}
    new = chooser.redirect(params, choose(chooser, params), "/git/b?c")
    assert new["REQUEST_METHOD"] == "HEAD"
    assert (choose(chooser, new).script_name, choose(chooser, new).path_info) == ("/git", "/b")


def test_a_local_redirect_of_a_single_script_behind_apache(root: Path) -> None:
    """ProxyPass /git fcgi://host: what is passed on of the first path says nothing of the second."""
    chooser = Chooser(None, script=str(root / "hello.sh"), index=(), interpreters={})
    params = sent(SCRIPT_NAME="/git/a", REQUEST_URI="/git/a", SCRIPT_FILENAME="proxy:fcgi://127.0.0.1:9000/a")
    choice = choose(chooser, params)
    assert (choice.script_name, choice.path_info) == ("/git", "/a")
    for location, info in (("/git?b", ""), ("/git/a", "/a"), ("/git/b", "/b")):
        found = choose(chooser, chooser.redirect(params, choice, location))
        assert (found.script_name, found.path_info) == ("/git", info)


@pytest.mark.parametrize("location", ["/other/hello.sh", "/c/../hello.sh", "/cc/hello.sh", "hello.sh", ""])
def test_a_local_redirect_to_elsewhere(root: Path, location: str) -> None:
    chooser = make(root, mount="/c")
    params = http("/c/hello.sh")
    with pytest.raises(ScriptRefused, match="not below /c"):
        chooser.redirect(params, choose(chooser, params), location)


# Whatever is sent

NAMES = ("hello.sh", "sub", "tool", "link-out", "dir-out", "evil", "indexed", ".dot", "..", ".", "", "data.php")
LATIN1 = st.text(st.characters(max_codepoint=255), max_size=20)
PATHS = st.lists(st.sampled_from(NAMES) | LATIN1, max_size=6).map("/".join)
STARTS = ("", "/", "@", "@/", "/c/", "proxy:fcgi://localhost", "proxy:fcgi://h@/", "proxy:uwsgi://h@/", "@/../outside/")
RIGHT = ("@/hello.sh", "/hello.sh", "/c/hello.sh", "/sub/tool", "/c/sub/tool", "/link-in", "@/indexed/", "/page.php/x")
ROADS = st.sampled_from(RIGHT) | st.builds(
    lambda start, rest: start + rest, st.sampled_from(STARTS) | st.sampled_from(RIGHT), PATHS
)
VARIABLES = ("SCRIPT_NAME", "PATH_INFO", "SCRIPT_FILENAME", "DOCUMENT_URI", "REQUEST_URI", "DOCUMENT_ROOT")


@pytest.fixture(scope="module")
def choosers(tree: Path) -> list[Chooser]:
    root = tree / "cgi-bin"
    return [make(root), make(root, mount=""), make(root, mount="/c"), make(tree / "alias")]


@given(
    protocol=st.sampled_from(("fastcgi", "scgi", "uwsgi", "http")),
    params=st.dictionaries(st.sampled_from(VARIABLES), ROADS),
    location=ROADS,
)
def test_the_choice_is_always_in_the_root(
    tree: Path, choosers: list[Chooser], protocol: str, params: dict[str, str], location: str
) -> None:
    root = str(tree / "cgi-bin")
    filled = {name: value.replace("@", root) for name, value in params.items()}
    asked = sent(protocol, **filled)
    for chooser in choosers:
        choice = None
        with contextlib.suppress(ScriptRefused):
            choice = choose(chooser, asked)
            inside(choice, root)
            inside(choose(chooser, chooser.redirect(asked, choice, location)), root)
        event("chosen" if choice is not None else "refused")


def inside(choice: Choice, root: str) -> None:
    assert choice.path == os.path.realpath(choice.path)
    assert choice.path.startswith(root + "/")
    assert os.path.isfile(choice.path)
    assert "/../" not in choice.script_name + "/"
    assert "/../" not in choice.path_info + "/"
