"""``wsgi.input``: it reads like io.BytesIO, however the body was cut, and never passes half a body for a whole one."""

from __future__ import annotations

import array
import io
import random
import threading
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, strategies as st

from gateways.body import RequestBody
from gateways.errors import BodyError


class Script:
    """A source that brings on one thing at each pull: a block, or what an action does with the body."""

    def __init__(self, *steps: bytes | Callable[[RequestBody], None]) -> None:
        self.steps = list(steps)
        self.pulls = 0

    def pull(self, body: RequestBody) -> None:
        self.pulls += 1
        if not self.steps:
            body.end()
            return
        step = self.steps.pop(0)
        if isinstance(step, bytes):
            body.put(step)
        else:
            step(body)


def body_of(blocks: Sequence[bytes], expected: int = -1, ready: int = 0) -> RequestBody:
    """Return a body of which ``ready`` blocks are there at once, the others come one by one."""
    body = RequestBody(expected, Script(*blocks[ready:]))
    for block in blocks[:ready]:
        body.put(block)
    return body


def fail(message: str) -> Callable[[RequestBody], None]:
    return lambda body: body.fail(BodyError(message, 408))


# -- the model ----------------------------------------------------------------------------------------------------

sizes = st.none() | st.integers(-2, 12)
block = st.sampled_from([b"\n", b"x", b"ab\n", b"\n\n", b"abc", b"a\nb\nc"]) | st.binary(min_size=1, max_size=9)
blocks = st.lists(block, max_size=10)
calls = st.lists(
    st.tuples(st.sampled_from(["read", "readline", "readlines"]), sizes)
    | st.tuples(st.sampled_from(["readinto"]), st.integers(0, 12))
    | st.tuples(st.sampled_from(["next", "read1"]), sizes),
    max_size=12,
)


def call(stream: RequestBody | io.BytesIO, method: str, size: int | None) -> object:
    if method == "next":
        return next(stream, None)
    if method == "readinto":
        buffer = bytearray(b"\xff" * (size or 0))
        return stream.readinto(buffer), bytes(buffer)
    result: object = getattr(stream, method)(size)
    return result


@given(blocks, calls, st.integers(0, 10), st.booleans())
def test_it_reads_like_bytesio(
    blocks: list[bytes], calls: list[tuple[str, int | None]], ready: int, counted: bool
) -> None:
    whole = b"".join(blocks)
    model = io.BytesIO(whole)
    body = body_of(blocks, len(whole) if counted else -1, ready)
    for method, size in calls:
        if method == "read1":  # where it stops is where a block ends
            data = body.read1(size)
            assert whole[model.tell() :].startswith(data)
            assert bool(data) == (size != 0 and model.tell() < len(whole))
            assert size is None or size < 0 or len(data) <= size
            model.seek(len(data), io.SEEK_CUR)
        else:
            assert call(body, method, size) == call(model, method, size)
        assert body.held == body.received - model.tell()
    assert body.read() == model.read()
    assert body.read() == body.readline() == body.read1() == b""
    assert body.readlines() == []
    assert body.ended
    assert body.held == 0


@pytest.mark.parametrize("method", ["read", "readline", "readlines", "read1"])
def test_sizes_are_optional(method: str) -> None:
    model = io.BytesIO(b"ab\ncd")
    assert getattr(body_of([b"ab\ncd"]), method)() == getattr(model, method)()


def test_all_the_rest_is_one_object_where_it_came_as_one() -> None:
    block = b"x" * 1000
    assert body_of([block]).read() is block


@pytest.mark.parametrize("size", [100_000, 1_048_575, 1_048_576, 1_048_577, 3_000_000])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("rest", [0, 1, 70_000])
def test_large_bodies_in_many_pieces(size: int, known: bool, rest: int) -> None:
    """Some is read before, the rest in one call: it is neither longer nor shorter, whatever was made ready for it."""
    data = random.Random(size).randbytes(size)
    pieces = [data[at : at + 30_001] for at in range(0, size, 30_001)]
    for wanted in (-1, size, size - rest - 1, size + 1, 1 << 40):
        body = body_of(pieces, size if known else -1, ready=2)
        assert body.read(rest) == data[:rest]
        assert body.read(wanted) == data[rest:][: wanted if wanted >= 0 else size]
        assert body.read() == data[rest:][wanted if wanted >= 0 else size :]


def test_a_body_is_held_once_while_it_is_read() -> None:
    size = 8_000_000
    body = RequestBody(size, Script(*[lambda body: body.put(bytes(50_000))] * (size // 50_000)))
    tracemalloc.start()
    try:
        assert len(body.read()) == size
        assert tracemalloc.get_traced_memory()[1] < 1.7 * size  # where it has to grow it is moved
    finally:
        tracemalloc.stop()


def test_what_a_content_length_says_is_not_taken_at_its_word() -> None:
    body = RequestBody(10**12, Script(*[b"x" * 1_000] * 3, fail("slow")))
    tracemalloc.start()
    try:
        with pytest.raises(BodyError, match="slow"):
            body.read()
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_it_waits_only_for_what_it_needs() -> None:
    source = Script(b"ab", b"c\nd", b"e")
    body = RequestBody(-1, source)
    assert body.read(0) == body.readline(0) == body.read1(0) == b""
    assert source.pulls == 0
    assert body.read(2) == b"ab"
    assert source.pulls == 1
    assert body.readline() == b"c\n"
    assert source.pulls == 2
    assert body.read1() == b"d"
    assert source.pulls == 2
    assert body.held == 0


def test_iteration_goes_line_by_line() -> None:
    body = body_of([b"a", b"b\nc", b"\n\n", b"d"])
    assert list(body) == [b"ab\n", b"c\n", b"\n", b"d"]
    with pytest.raises(StopIteration):
        next(body)


@pytest.mark.parametrize(
    "make", [bytearray, lambda size: memoryview(bytearray(size)), lambda size: array.array("H", bytes(size))]
)
def test_readinto_takes_every_writable_buffer(make: Callable[[int], bytearray]) -> None:
    buffer = make(6)
    assert body_of([b"abc", b"defgh"]).readinto(buffer) == 6
    assert bytes(memoryview(buffer).cast("B")) == b"abcdef"


def test_many_small_blocks_cost_no_more_than_their_number() -> None:
    count = 262_144  # one-byte FCGI_STDIN records up to Limits.body_buffer; squared, it would take minutes
    body = body_of([b"x"] * count, count, ready=count)
    body.end()
    assert len(body.read()) == count


# -- io's wrappers ------------------------------------------------------------------------------------------------


@given(blocks, st.lists(sizes, max_size=6), st.integers(1, 20))
def test_below_a_buffered_reader(blocks: list[bytes], reads: list[int | None], buffer_size: int) -> None:
    whole = b"".join(blocks)
    model = io.BytesIO(whole)
    body = body_of(blocks, len(whole))
    reader = io.BufferedReader(body, buffer_size)  # type: ignore[type-var]  # it needs no seek
    for size in reads:
        if size is None or size >= -1:
            assert reader.read(size) == model.read(size)
            assert reader.readline() == model.readline()
    assert reader.read() == model.read()
    reader.close()
    assert not body.closed


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 7))
def test_below_a_text_wrapper(text: str, size: int) -> None:
    whole = text.encode()
    blocks = [whole[at : at + size] for at in range(0, len(whole), size)]
    wrapper = io.TextIOWrapper(body_of(blocks, len(whole)), "utf-8", newline="")  # type: ignore[type-var]
    assert wrapper.read() == text
    wrapper.close()


def test_lines_of_text() -> None:
    reader = io.BufferedReader(body_of([b"caf\xc3", b"\xa9\r\n", b"x"], 8))  # type: ignore[type-var]
    assert list(io.TextIOWrapper(reader, "utf-8")) == ["caf\xe9\n", "x"]


def test_it_is_no_file_that_can_be_moved_or_closed() -> None:
    body = body_of([b"ab"])
    assert body.readable()
    assert not body.writable()
    assert not body.seekable()
    body.flush()
    body.close()
    assert not body.closed
    assert body.read() == b"ab"


# -- bodies that are not what CONTENT_LENGTH said -----------------------------------------------------------------


def test_a_body_without_content_length_may_be_of_any_length() -> None:
    assert body_of([b"abc", b"de"], -1).read() == b"abcde"


@pytest.mark.parametrize("expected", [0, 5])
def test_as_long_as_expected(expected: int) -> None:
    body = body_of([b"abcde"][: expected and 1], expected)
    assert len(body.read(expected)) == expected
    assert body.read() == b""


@pytest.mark.parametrize("ready", [0, 1, 2])
def test_too_short(ready: int) -> None:
    body = body_of([b"abc", b"d"], 6, ready)
    assert body.read(4) == b"abcd"
    for _ in range(2):
        with pytest.raises(BodyError, match=r"^the body has 4 bytes, but CONTENT_LENGTH said 6$") as caught:
            body.read(1)
        assert caught.value.status_hint == 400


@pytest.mark.parametrize("read", [RequestBody.read, RequestBody.readlines, list, lambda body: body.read(6)])
def test_too_short_is_never_passed_off_as_whole(read: Callable[[RequestBody], object]) -> None:
    with pytest.raises(BodyError):
        read(body_of([b"ab\nd"], 6))


@pytest.mark.parametrize("blocks", [[b"abcdefg"], [b"abcde", b"fg"], [b"abc", b"defg"], [b"abc", b"de", b"f", b"g"]])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("size", [1, 2, 5, -1])
def test_too_long_is_refused_however_it_was_cut(blocks: list[bytes], together: bool, size: int) -> None:
    body = body_of(blocks, 5, len(blocks) if together else 0)
    got: list[bytes] = []
    with pytest.raises(BodyError, match=r"^the body is longer than the 5 bytes that CONTENT_LENGTH said$"):
        got.extend(iter(lambda: body.read(size), b""))
    assert sum(map(len, got)) < 5
    with pytest.raises(BodyError):
        body.read(1)


def test_a_body_where_none_was_expected_is_too_long() -> None:
    with pytest.raises(BodyError, match="longer than the 0 bytes"):
        body_of([b"a"], 0).read(1)


def test_too_long_is_told_before_too_short_after_the_end() -> None:
    body = body_of([b"abc"], 2, 1)
    body.end()
    with pytest.raises(BodyError, match="longer"):
        body.read()


def test_the_error_is_an_oserror_as_applications_expect() -> None:
    with pytest.raises(OSError, match="CONTENT_LENGTH"):
        body_of([], 1).read()


# -- failures -----------------------------------------------------------------------------------------------------


def test_what_is_held_can_be_read_before_a_failure_is_raised() -> None:
    body = RequestBody(10, Script(b"abc", fail("too slow")))
    assert body.read(3) == b"abc"
    for read in (body.read1, body.readline, body.readlines, body.__next__, lambda: body.readinto(bytearray(1))):
        with pytest.raises(BodyError, match=r"^too slow$") as caught:
            read()
        assert caught.value.status_hint == 408
    assert body.ended


def test_a_failure_makes_no_circle_of_references() -> None:
    """What is held would else stay until the garbage collector comes."""
    body = RequestBody(10, Script())
    body.fail(BodyError("gone", 408))
    with pytest.raises(BodyError) as first:
        body.read()
    with pytest.raises(BodyError) as second:
        body.read()
    assert first.value is not second.value
    assert first.value.status_hint == second.value.status_hint == 408


def test_the_first_failure_counts() -> None:
    body = RequestBody(10, Script())
    body.fail(BodyError("first"))
    body.fail(BodyError("second"))
    body.end()
    with pytest.raises(BodyError, match="first"):
        body.read()


def test_a_whole_body_stays_whole_where_only_its_end_failed() -> None:
    body = RequestBody(3, Script(b"abc", fail("gone")))
    assert body.read(3) == b"abc"
    with pytest.raises(BodyError, match="gone"):
        body.read(1)


@pytest.mark.parametrize("error", [BodyError("from pull"), KeyboardInterrupt()])
def test_what_pull_raises_goes_through(error: BaseException) -> None:
    def stop(_: RequestBody) -> None:
        raise error

    body = RequestBody(4, Script(b"ab", stop, b"cd"))
    with pytest.raises(type(error)):
        body.read()
    assert body.held == 0


# -- one thread writes while another one reads --------------------------------------------------------------------


def test_a_reader_beside_a_writer_loses_nothing() -> None:
    count = 3_000
    news = threading.Semaphore(0)

    class Source:
        def pull(self, body: RequestBody) -> None:
            news.acquire(timeout=0.01)

    body = RequestBody(count * 3, Source())

    def write() -> None:
        for _ in range(count):
            body.put(b"abc")
            news.release()
        body.end()
        news.release()

    writer = threading.Thread(target=write)
    writer.start()
    read = 0
    while data := body.read(7):
        read += len(data)
        assert body.held >= 0
    writer.join()
    assert read == count * 3
    assert body.held == 0


# Frameworks


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize(("remedy", "status"), [("", 500), ("limit", 400), ("handler", 408)])
def test_flask_answers_as_the_readme_says(content_type: str, remedy: str, status: int) -> None:
    import flask

    class Late:
        def pull(self, body: RequestBody) -> None:
            body.fail(BodyError("no byte of the body came for 60 s", 408))

    app = flask.Flask("shop")
    app.logger.disabled = True
    app.add_url_rule("/", "home", lambda: flask.request.form["a"], methods=["POST"])
    if remedy == "limit":
        app.config["MAX_CONTENT_LENGTH"] = 1000
    elif remedy == "handler":
        app.register_error_handler(BodyError, lambda error: (str(error), error.status_hint))
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "CONTENT_LENGTH": "10",
        "CONTENT_TYPE": content_type,
        "wsgi.input": RequestBody(10, Late()),
        "wsgi.input_terminated": True,
        "wsgi.url_scheme": "http",
    }
    said: list[str] = []
    list(app(environ, lambda line, *_: said.append(line)))  # type: ignore[arg-type]
    assert said[0].startswith(f"{status} ")
