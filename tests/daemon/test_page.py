"""The page of a daemon that works, attacked: nothing gets in, nothing slows, and what it says and does is true."""

from __future__ import annotations

import resource
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline import checkpoints, live
from pipeline.jobs import State
from tests.clips import make_clip
from tests.daemon.page_harness import COMMAND, HOLD, Caller, crowd, job_of, settings, until_state
from tests.daemon.storm import Place, Service, check_gone, serving
from tests.pipeline.status.browser import browsing

HOSTILE = (
    "<img src=x onerror=alert(1)>.mp4",
    "<script>alert(2)<script>.mp4",
    "<style>*{display:none}<style>.mp4",
    "\"'><svg onload=alert(3)>.mp4",
    "a\nb.mp4",
    "\u202egpj.mp4",
    "caf\udce9.mp4",
    "-rf.mp4",
    "{{7*7}}.mp4",
    "x" * 251 + ".mp4",
)

SECRET = "what nobody may read"

NAMES = (
    *("../secret", "..%2fsecret", "%2e%2e/secret", "%2e%2e%2fsecret", "....//secret", "..;/secret", "..%252fsecret"),
    *(
        "%252e%252e%252fsecret",
        "..%c0%afsecret",
        "..%5csecret",
        "..\\secret",
        "../../secret",
        "%2e%2e%2f%2e%2e%2fsecret",
    ),
    *("1/../../secret", "1%2f..%2f..%2fsecret", "1/sheet.jpg/../../../secret", "1%00/../secret", "1/sheet.jpg%00"),
    *("./secret", "//secret", "/secret", "~/secret", "secret", "../state/token", "..%2fstate%2ftoken", "token"),
    *(
        "..%2fjobs.sqlite",
        "../live.json",
        "lock",
        "%2e/1",
        "file:///etc/passwd",
        "/etc/passwd",
        "..%2f..%2fetc%2fpasswd",
    ),
    *("1.json/../../token", "01", "+1", "-1", "1e0", "0x1", "9" * 30),
)

ROUTES = (
    *("/{}", "/jobs/{}", "/jobs/{}.json", "/jobs/{}/preview.jpg", "/jobs/{}/sheet.jpg", "/sheets/{}.jpg"),
    *("/history?before={}", "/jobs.json?before={}", "/jobs.json?state={}"),
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second or less of work."""
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", width=96, height=64, frames=30, rate=25, audio="aac")


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of it, or more."""
    return make_clip(tmp_path_factory.mktemp("clip") / "long.mp4", width=96, height=64, frames=1000, rate=25)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("page") / "place", settings=settings(), command=COMMAND)
    (made.root / "secret").write_text(SECRET)
    (made.state).mkdir(0o700)
    (made.state / "secret").write_text(SECRET)
    return made


@pytest.fixture(scope="module")
def service(place: Place, clip: Path) -> Iterator[Service]:
    """A daemon that has made a clip, and failed to make one."""
    (place.inbox / "broken.mp4").write_bytes(b"no clip at all, but somebody may think so" * 100)
    place.drop(clip)
    with serving(place) as service:
        until_state(service, clip.name, State.DONE)
        until_state(service, "broken.mp4", State.FAILED)
        yield service


@pytest.fixture(scope="module")
def caller(place: Place, service: Service) -> Caller:
    return Caller(place, service)


def test_no_name_leads_anywhere(caller: Caller) -> None:
    """Forty names on every route, with the token and without."""
    secrets = [SECRET.encode(), b"SQLite format", b"root:", b'"pid"']
    assert len(set(NAMES)) >= 40
    assert caller.ask_in("/").status == 200
    for route in ROUTES:
        for name in NAMES:
            path = route.format(name)
            for answer in (caller.ask_in(path), caller.ask(path)):
                assert answer.status in (400, 403, 404), path
                assert not any(secret in answer.body for secret in secrets), path
                assert caller.token.encode() not in answer.body, path
                assert not answer.headers["content-type"].startswith("image"), path
    for name in NAMES:
        assert caller.press(f"/jobs/{name}/retry").status in (404, 409), name
        assert caller.ask_in(f"/history?search={name}").status == 200, "a search looks at nothing but the table"


def test_nobody_comes_by_another_name(caller: Caller) -> None:
    """A page of somebody else's whose name leads here would be this page to a browser."""
    port = caller.port
    names = (
        "evil.example",
        "evil.example:{}",
        "127.0.0.1.evil.example:{}",
        "localhost.evil.example",
        "evil.localhost:{}",
    )
    names += (
        "127.0.0.1.nip.io:{}",
        "10.0.0.1:{}",
        "[fe80::1]:{}",
        "0.0.0.0:{}",
        "2130706433:{}",
        "127.1:{}",
        "localhost@evil",
    )
    names += ("evil.example#@127.0.0.1:{}", "127.0.0.1 evil.example", "[::1", "")
    for name in names:
        host = name.format(port)
        answer = caller.ask_in("/state.json", host=host)
        assert answer.status == 400 and b"secret" not in answer.body, host
        answer = caller.ask(f"/?token={caller.token}", host=host)
        assert answer.status == 400 and "set-cookie" not in answer.headers, host
        assert caller.ask("/healthz", host=host).status == 400, host
    for name in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost"):
        assert caller.ask_in("/state.json", host=name).status == 200, name


def test_nobody_acts_from_another_site(caller: Caller, place: Place) -> None:
    job = job_of(place, "broken.mp4")
    path, own = f"/jobs/{job.id}/retry", caller.address.rstrip("/")
    others = (
        "http://evil.example",
        f"http://localhost:{caller.port}",
        f"https://127.0.0.1:{caller.port}",
        f"{own}0",
        "null",
    )
    for origin in others:
        for cookie in (caller.cookie, ""):
            for site in ("cross-site", "same-site", "none", "same-origin", ""):
                sent = {"origin": origin, "cookie": cookie, "sec_fetch_site": site}
                assert caller.press(path, **sent).status == 403, sent
        assert caller.ask_in(path, "POST", origin=origin).status == 403, "nor with the token"
    for site in ("cross-site", "same-site", "none", ""):
        assert caller.press(path, origin="", sec_fetch_site=site).status == 403, "a cookie alone is not enough"
    assert caller.press(path, content_type="text/plain").status == 415, "as a form of another site may be"
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert caller.ask_in(path, method).status == 405, method
    assert caller.ask_in(path).status == 405, "no link does anything"
    assert job_of(place, "broken.mp4") == job


def test_nobody_comes_without_the_token(caller: Caller, place: Place) -> None:
    job = job_of(place, "broken.mp4")
    for token in (
        "",
        "x",
        caller.token[:-1],
        caller.token + "x",
        caller.token.swapcase(),
        "*",
        "null",
        "\xe9" * 43,
        "a" * 9000,
    ):
        told = {"authorization": f"Bearer {token}"}
        name = caller.cookie.partition("=")[0]
        for path in ("/", "/state.json", "/jobs.json", "/metrics", f"/jobs/{job.id}", "/daemon.js"):
            assert caller.ask(path, **told).status == 403, token
            assert caller.ask(path, cookie=f"{name}={token}").status == 403, token
        assert caller.ask(f"/?token={token if token.isascii() else 'x'}").status in (403, 414)
        assert caller.ask(f"/jobs/{job.id}/retry", "POST", **told).status == 403
    assert job_of(place, "broken.mp4") == job
    answer = caller.ask("/healthz")
    assert (answer.status, answer.text) == (200, "ok\n"), "this alone anybody may know"
    assert caller.ask("/readyz").status == 200


def test_figures(caller: Caller, place: Place) -> None:
    found = caller.figures()
    assert found["understudy_up"] == found["understudy_ready"] == 1
    assert found['understudy_jobs{state="done"}'] == place.count(State.DONE)
    assert found['understudy_jobs{state="failed"}'] == 1
    assert found[f'understudy_folder_trouble{{inbox="{place.inbox}"}}'] == 0
    assert found['understudy_stage_workers{lane="light:b@cpu",stage="show"}'] == 1


def test_buttons(caller: Caller, service: Service, place: Place, long_clip: Path) -> None:
    """A form is sent, the table knows, and the daemon acts."""
    before = job_of(place, "broken.mp4")
    answer = caller.press(f"/jobs/{before.id}/retry")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    service.until(lambda: job_of(place, "broken.mp4").ended > before.ended, "it was tried again")
    until_state(service, "broken.mp4", State.FAILED)

    for name in ("first.mp4", "second.mp4", "third.mp4", "fourth.mp4", "fifth.mp4"):
        place.drop(long_clip, name)
    service.until(lambda: place.count(State.RUNNING) >= 1 and place.count(State.WAITING) >= 2, "some had to wait")
    *_, second_last, last = sorted(
        (one for one in place.entries() if one.state is State.WAITING), key=lambda one: one.id
    )
    assert caller.press(f"/jobs/{last.id}/priority", b"priority=7").status == 303
    assert caller.press(f"/jobs/{second_last.id}/cancel").status == 303
    until_state(service, Path(second_last.source).name, State.CANCELLED)
    running = [one for one in place.entries() if one.state is State.RUNNING]
    for entry in running:
        assert caller.press(f"/jobs/{entry.id}/cancel", b"back=job").headers["location"] == f"/jobs/{entry.id}"
        until_state(service, Path(entry.source).name, State.CANCELLED)
        assert not Path(entry.target).exists()
    service.until(lambda: job_of(place, Path(last.source).name).state is not State.WAITING, "it came first")
    for entry in place.entries():
        if entry.state in (State.RUNNING, State.WAITING):
            caller.press(f"/jobs/{entry.id}/cancel")
    service.until(lambda: not place.count(State.RUNNING) + place.count(State.WAITING), "all were cancelled")
    assert caller.press(f"/jobs/{last.id}/cancel").status == 409, "what has ended cannot be"
    for name in ("first.mp4", "second.mp4", "third.mp4", "fourth.mp4", "fifth.mp4"):
        (place.inbox / name).unlink()
        del place.given[name]
    assert not [*place.work.glob("*-*")]


def test_one_that_dies_comes_back(clip: Path, tmp_path: Path) -> None:
    """And no clip notices."""
    place = Place(tmp_path / "place", settings=settings(), command=COMMAND)
    with serving(place) as service:
        caller = Caller(place, service)
        (before,) = _pages(service)
        (place.root / HOLD).touch()
        place.drop(clip, "meanwhile.mp4")
        service.until(lambda: bool(_running(place)), "it was begun")
        before.kill()
        (place.root / HOLD).unlink()
        until_state(service, "meanwhile.mp4", State.DONE)
        assert job_of(place, "meanwhile.mp4").attempts == 1
        service.until(lambda: before not in _pages(service) and bool(_pages(service)), "there was another")
        service.until(caller.answers, "it answered at the same place")
        assert caller.ask(cookie=caller.cookie).status == 200, "and knows who was let in"
        assert live.read(place.state).web == caller.address  # type: ignore[union-attr]


def test_what_is_told_of_the_daemon_is_true(tmp_path: Path) -> None:
    place = Place(tmp_path / "place", settings=settings(), command=COMMAND)
    config = place.root / "config.yaml"
    plain = config.read_text()
    with serving(place) as service:
        caller = Caller(place, service)

        def told(health: int, ready: int) -> bool:
            return (caller.ask("/healthz").status, caller.ask("/readyz").status) == (health, ready)

        def reload(text: str) -> None:
            config.write_text(text)
            service.process.send_signal(signal.SIGHUP)

        service.until(lambda: told(200, 200), "all was well")
        reload(plain.replace("least_free_mb: 0", "least_free_mb: 1000000000"))
        service.until(lambda: told(200, 503), "it had paused")
        assert "make room" in caller.ask_in("/readyz").text and caller.ask("/readyz").text == "not ok\n"
        assert caller.figures()["understudy_paused"] == 1 and caller.figures()["understudy_ready"] == 0
        reload("nonsense: true")
        service.until(lambda: "left as it was" in place.log(), "that was refused")
        assert told(200, 503), "and changed nothing"
        reload(plain)
        service.until(lambda: told(200, 200), "it went on")

        place.inbox.rename(place.root / "away")
        service.until(lambda: told(200, 503), "its folder was missed")
        assert caller.figures()[f'understudy_folder_trouble{{inbox="{place.inbox}"}}'] == 1
        (place.root / "away").rename(place.inbox)
        service.until(lambda: told(200, 200), "it was back")

    assert not caller.answers(), "its page goes with it"
    assert not (place.state / live.FILE).exists()


@pytest.mark.slow
def test_one_that_is_stuck_or_killed_is_not_well(tmp_path: Path) -> None:
    place = Place(tmp_path / "place", settings=settings(), command=COMMAND)
    service = Service(place)
    try:
        caller = Caller(place, service)
        service.process.send_signal(signal.SIGSTOP)
        service.until(lambda: caller.ask("/healthz").status == 503, "it was missed", within_s=60)
        assert caller.ask("/readyz").status == 503 and "not been heard from" in caller.ask_in("/").text
        assert caller.figures()["understudy_up"] == 0
        service.process.send_signal(signal.SIGCONT)
        service.until(lambda: caller.ask("/readyz").status == 200, "it went on")
    finally:
        service.kill()
    deadline = time.monotonic() + 60
    while caller.answers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not caller.answers(), "its page goes with it, however it ends"
    check_gone(place)


def test_previews_are_made_while_somebody_looks(
    caller: Caller, service: Service, place: Place, long_clip: Path
) -> None:
    place.drop(long_clip, "looked at.mp4")
    service.until(lambda: bool(_running(place)), "it was begun")
    entry = job_of(place, "looked at.mp4")
    (work,) = place.work.glob(f"{entry.id}-*")
    time.sleep(0.5)
    assert not (work / checkpoints.PREVIEW).exists(), "nobody has asked"

    def picture() -> bytes:
        answer = caller.ask_in(f"/jobs/{entry.id}/preview.jpg")
        return answer.body if answer.status == 200 else b""

    service.until(lambda: bool(picture()), "there was a picture")
    first = picture()
    assert first.startswith(b"\xff\xd8\xff") and first.endswith(b"\xff\xd9")
    service.until(lambda: picture() not in (b"", first), "there was another one")
    assert job_of(place, "looked at.mp4").state is State.RUNNING
    service.until(lambda: _age_s(work / checkpoints.PREVIEW) > 1.0, "nobody asked, and none was made any more")
    assert job_of(place, "looked at.mp4").state is State.RUNNING
    caller.press(f"/jobs/{entry.id}/cancel")
    until_state(service, "looked at.mp4", State.CANCELLED)
    service.until(lambda: not picture(), "it had gone with what was made of the clip")


#: What no name shall bring into a page.
STRANGE = (
    "img:not([src^='/jobs/']), svg:not([viewBox]), script:not([src='/daemon.js']), style, iframe, [onload], [onerror]"
)


@pytest.mark.slow  # in short: tests/pipeline/status/test_browser.py
def test_names_are_only_text_in_a_browser(clip: Path, long_clip: Path, tmp_path: Path) -> None:
    """Clips that are done, that failed, that are at work and that wait, all with names that somebody has thought of."""
    place = Place(tmp_path / "place", settings=settings(), command=COMMAND)
    for name in HOSTILE:
        place.drop(clip, name)
        (place.inbox / _but("bad ", name)).write_bytes(b"no clip at all")
    with browsing(tmp_path / "browser") as tab, serving(place) as service:
        caller = Caller(place, service)
        for name in HOSTILE:
            until_state(service, name, State.DONE)
            until_state(service, _but("bad ", name), State.FAILED)
        for name in HOSTILE:
            place.drop(long_clip, _but("long ", name))
        service.until(
            lambda: bool(_running(place)) and place.count(State.WAITING) > 0, "some were at work, some waited"
        )
        tab.size(1400, 900)
        tab.open(caller.url)
        for path in ("/", "/history", "/history?search=%3Cscript%3E", *(f"/jobs/{job.id}" for job in place.entries())):
            tab.open(caller.address.rstrip("/") + path)
            assert tab.ask("document.querySelectorAll('h1').length") == 1, path
            found = tab.ask(f"[...document.querySelectorAll({STRANGE!r})].map(each => each.outerHTML)")
            assert found == [], path
            assert tab.ask("getComputedStyle(document.querySelector('h1')).display") != "none", path
        tab.open(caller.address)
        shown = tab.ask("document.body.innerText")
        assert HOSTILE[0] in shown and HOSTILE[1] in shown and "{{7*7}}" in shown
        assert "a\\nb.mp4" in shown and "\u202e" not in shown and "\udce9" not in shown

        running = job_of(place, Path(_running(place)[0].source).name)
        tab.wait(f"document.querySelector('#preview-{running.id} img').naturalWidth > 0")
        tab.ask(f"document.querySelector('#clip-{running.id} button').click()")
        service.until(lambda: _state(place, running.id) is State.CANCELLED, "the button was heeded")
        tab.wait(f"!document.querySelector('#clip-{running.id}')")
        failed = job_of(place, f"bad {HOSTILE[0]}")
        tab.ask(f"document.querySelector('#trouble-{failed.id} button').click()")
        for entry in sorted(place.entries(), key=lambda one: one.state is State.RUNNING):
            if "/long " in entry.source and entry.state in (State.RUNNING, State.WAITING):
                caller.press(f"/jobs/{entry.id}/cancel")
        service.until(lambda: job_of(place, f"bad {HOSTILE[0]}").ended > failed.ended, "it was tried again")
        assert [text for text in tab.asked if not text.startswith("Cancel this clip?")] == [], "no name was run"
        refused = [text for text in tab.complaints if "/preview.jpg" not in text and "/favicon.ico" not in text]
        assert refused == [], "nor tried to be"


def _but(before: str, name: str) -> str:
    """Another name like it, of no more bytes than one may have."""
    return before + (name[len(before) :] if len(name) > 200 else name)


def _state(place: Place, job: int) -> State:
    return next(entry.state for entry in place.entries() if entry.id == job)


@pytest.mark.slow
@pytest.mark.parametrize("dribbling", [False, True], ids=["idle", "a byte a second"])
def test_a_crowd_that_asks_for_nothing(
    caller: Caller, service: Service, place: Place, clip: Path, dribbling: bool
) -> None:
    """500 sockets, which come again as soon as they are sent away, and clips that are made meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        calm = _times(caller, service, place, clip, f"calm {dribbling}")
        with crowd(caller.port, 500, dribbling) as again:
            time.sleep(1.0)
            crowded = _times(caller, service, place, clip, f"crowded {dribbling}")
            assert again[0] > 0, "more than it keeps"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert max(crowded[1]) < 10.0, "who has the token is heard"
    assert statistics.median(crowded[0]) < 3 * statistics.median(calm[0]) + 0.5
    (page,) = _pages(service)
    assert page.memory_info().rss < 300 << 20
    service.until(lambda: page.num_fds() < 60, "those that have gone are forgotten")


def _times(caller: Caller, service: Service, place: Place, clip: Path, name: str) -> tuple[list[float], list[float]]:
    """Seconds of five clips, each on its own, and of as many looks at the page meanwhile."""
    clips, looks = [], []
    for number in range(5):
        begun = time.monotonic()
        place.drop(clip, f"{name} {number}.mp4")
        assert caller.ask_in("/").status == 200
        looks.append(time.monotonic() - begun)
        service.until((place.out / f"{name} {number}.mp4").exists, "it was published")
        clips.append(time.monotonic() - begun)
    return clips, looks


def _pages(service: Service) -> list[psutil.Process]:
    return [child for child in service.children() if _name(child) == "us-page"]


def _name(child: psutil.Process) -> str:
    try:
        return child.name()
    except psutil.Error:
        return ""


def _running(place: Place) -> tuple[live.Running, ...]:
    told = live.read(place.state)
    return told.running if told is not None else ()


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
