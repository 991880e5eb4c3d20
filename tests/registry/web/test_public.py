"""Behind a proxy, and in front of strangers: one person's noise is nobody else's trouble."""

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from playwright.sync_api import expect, sync_playwright
from starlette.testclient import TestClient

from pipelines.jobs.serve import Address
from registry.errors import Conflict, Invalid
from registry.records.answers.auditing import AuditAnswer
from registry.web.access import Sessions, Tokens
from registry.web.application import application
from registry.web.connections import bounded
from registry.web.middleware import Limits
from registry.web.public import PublicAddress
from registry.web.runs import Runs
from registry.web.site import Site

Web = Any  # conftest.py's
PUBLIC = PublicAddress.of("https://models.example.com/registry")
MANY_MACHINES = Path(__file__).parents[3] / "docs/many-machines.md"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
CHROMIUM = shutil.which("chromium")


def behind(web: Web, **more: Any) -> Site:
    """The served registry as a server behind a proxy knows it."""
    address = Address(public=PUBLIC)
    return replace(web.site, public=PUBLIC, hosts=address.hosts(), **more)


@pytest.mark.parametrize("handed_on", [True, False], ids=["prefix handed on", "taken away"])
def test_every_address_of_a_page_begins_with_the_prefix(web: Web, handed_on: bool) -> None:
    base = f"https://{PUBLIC.host}"
    with TestClient(application(behind(web)), base_url=base, follow_redirects=False) as client:
        prefix = "/registry" if handed_on else ""
        away = client.get(f"{prefix}/builds")
        assert away.headers["location"] == "/registry/login?then=/builds"
        entered = client.post(f"{prefix}/login", data={"token": web.secrets["max"]})
        assert entered.headers["location"] == "/registry/"
        cookie = entered.headers["set-cookie"]
        assert "Secure" in cookie
        assert "Path=/registry" in cookie
        named = {"cookie": cookie.partition(";")[0]}
        for page in ("/", "/builds", "/build/1", "/lineage?ref=build/1", "/audit", "/approve/1"):
            answer = client.get(prefix + page, headers=named)
            assert answer.status_code == 200, page
            links = re.findall(r'(?:href|src|action|hx-get|data-\w+)="(/[^"]*)"', answer.text)
            assert links
            assert [link for link in links if not link.startswith("/registry/")] == []
        api = client.get(f"{prefix}/api/overview", headers=web.as_("max"))
        assert api.status_code == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("models.example.com", "https://models.example.com", 303),
        ("models.example.com", "https://evil.example.com", 403),
        ("evil.example.com", "https://evil.example.com", 400),
        ("models.example.com:8765", "https://models.example.com:8765", 400),
    ],
)
def test_forms_count_under_the_public_address_alone(
    web: Web, host: str, origin: str, status: int
) -> None:
    with TestClient(application(behind(web)), follow_redirects=False) as client:
        answer = client.post(
            "/registry/login",
            data={"token": web.secrets["eve"]},
            headers={"host": host, "origin": origin},
        )
        assert answer.status_code == status


@pytest.mark.parametrize(
    "url",
    [
        "http://models.example.com",
        "models.example.com",
        "https://",
        "https://a@b.c",
        "https://a/?q=1",
    ],
)
def test_an_address_that_would_not_keep_a_token_safe_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="--public-url"):
        PublicAddress.of(url)


def test_another_address_than_loopback_needs_a_certificate_or_a_named_proxy() -> None:
    Address(host="10.0.0.5", public=PUBLIC, proxies=("10.0.0.7",)).check()
    for address in (
        Address(host="10.0.0.5"),
        Address(host="10.0.0.5", public=PUBLIC),
        Address(host="10.0.0.5", proxies=("10.0.0.7",)),
    ):
        with pytest.raises(Invalid, match="without TLS"):
            address.check()
    with pytest.raises(Invalid, match="--trusted-proxy"):
        Address(proxies=("the proxy",)).networks()


def test_what_can_be_read_can_be_asked_for_without_its_body(web: Web) -> None:
    for path, status in (("/login", 200), ("/health", 200), ("/static/btx.css", 200), ("/no", 404)):
        read, asked = web.client.get(path), web.client.head(path)
        assert (read.status_code, asked.status_code) == (status, status)
        assert asked.content == b""
    assert web.client.get("/health").json() == {"status": "ok"}
    assert web.client.head("/builds", follow_redirects=False).status_code == 303


def test_200_wrong_tokens_keep_nobody_else_at_that_address_out(web: Web) -> None:
    served = replace(web.site, limits=Limits())
    with TestClient(application(served), base_url="http://127.0.0.1:8765") as client:
        tried = [
            client.post("/login", data={"token": f"guess {number}"}).status_code
            for number in range(200)
        ]
        assert tried.count(401) <= 20, "and the guesses are stopped"
        assert tried.count(429) >= 180
        for path in ("/login", "/static/btx.css", "/health"):
            assert client.get(path).status_code == 200
        entered = client.post("/login", data={"token": web.secrets["eve"]}, follow_redirects=False)
        assert entered.status_code == 303
        assert client.get("/").status_code == 200


def test_who_logs_in_again_and_again_ends_their_own_sessions_alone(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    sessions = Sessions(tokens)
    ann, eve = (tokens.issue(name, ["viewer"])[0] for name in ("ann", "eve"))
    kept = sessions.begin(ann)
    cookies = [sessions.begin(eve) for _ in range(1001)]
    assert sessions.person(bearer=None, cookie=kept) is not None
    valid = [cookie for cookie in cookies if sessions.person(bearer=None, cookie=cookie)]
    assert valid == cookies[-20:]


def test_explanations_take_turns_among_those_who_ask() -> None:
    runs = Runs[AuditAnswer](most=32, most_each=4)
    go, order = threading.Event(), []

    def job(name: str) -> Callable[[Any], AuditAnswer]:
        def run(_: Any) -> AuditAnswer:
            go.wait(60)
            order.append(name)
            return AuditAnswer(subject="build/1", head="", checks=(), findings=())

        return run

    started = [runs.start("build/1", "eve", job(f"eve {number}")) for number in range(4)]
    with pytest.raises(Conflict, match="4 of your own before it"):
        runs.start("build/1", "eve", job("one more"))
    started += [runs.start("build/1", name, job(name)) for name in ("ann", "max")]
    go.set()
    wait_until(lambda: all(run.state == "done" for run in started))
    assert order == ["eve 0", "ann", "max", "eve 1", "eve 2", "eve 3"]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def listening(site: Site, **settings: Any) -> Iterator[int]:
    """A server of its own on a free port."""
    server = uvicorn.Server(
        uvicorn.Config(application(site), port=0, log_level="warning", **settings)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)


def ended(connection: socket.socket) -> bool:
    connection.settimeout(30)
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        return True
    return True


def test_a_client_that_never_ends_its_request_is_let_go(web: Web) -> None:
    served = replace(web.site, limits=replace(web.site.limits, body_s=0.3))
    with listening(served, http=bounded((), head_s=0.3, most=8)) as port:
        for half in (b"", b"GET /login HT", b"POST /login HTTP/1.1\r\ncontent-length: 9\r\n"):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(half)
                assert ended(connection)


def test_one_address_holds_only_so_many_connections_and_others_come_in(web: Web) -> None:
    with listening(web.site, http=bounded((), head_s=60, most=5)) as port:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        wait_until(lambda: refused(port))
        with socket.socket() as other:
            other.bind(("127.0.0.2", 0))
            other.connect(("127.0.0.1", port))
            other.sendall(b"GET /health HTTP/1.1\r\nhost: nobody\r\nconnection: close\r\n\r\n")
            assert other.recv(100).startswith(b"HTTP/1.1 400"), "another host, but an answer"
        for connection in held:
            connection.close()
        wait_until(lambda: not refused(port))


def refused(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        try:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: nobody\r\n\r\n")
            return connection.recv(100) == b""
        except ConnectionError:
            return True


@pytest.mark.parametrize("trusted", [True, False])
def test_a_proxy_says_who_asks_only_where_it_is_trusted(web: Web, trusted: bool) -> None:
    limits = replace(web.site.limits, wrong_tokens=0.01, burst_s=100)
    proxies = {"proxy_headers": True, "forwarded_allow_ips": ["127.0.0.1"]} if trusted else {}
    proxies = proxies or {"proxy_headers": False}
    with listening(behind(web, limits=limits), **proxies) as port:

        def guess(client: str) -> int:
            return requests.post(
                f"http://127.0.0.1:{port}/registry/login",
                data={"token": "guess"},
                headers={"host": PUBLIC.host, "x-forwarded-for": client},
            ).status_code

        assert [guess("10.1.1.1"), guess("10.1.1.1")] == [401, 429]
        assert guess("10.1.1.2") == (401 if trusted else 429)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for models.example.com, and its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "models.example.com")])
    at = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(at - timedelta(days=1))
        .not_valid_after(at + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("models.example.com")]), False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "models.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "models.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder


@contextmanager
def nginx(folder: Path, tls: Path, port: int) -> Iterator[int]:
    """The configuration of the documentation, with this test's ports and files."""
    block = re.search(r"^```nginx\n(.*?)^```$", MANY_MACHINES.read_text(), re.M | re.S)
    assert block
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = free.getsockname()[1]
    server = block[1].replace("/etc/ssl", str(tls)).replace(":8765", f":{port}")
    server = server.replace("listen 443", f"listen 127.0.0.1:{listen}")
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{places}{server} }}\n"
    )
    assert NGINX
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: running.poll() is not None or answers(listen))
        assert running.poll() is None, running.communicate()
        yield listen
    finally:
        running.terminate()
        running.wait()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return False
    return True


@pytest.mark.skipif(
    NGINX is None or CHROMIUM is None, reason="needs nginx and chromium: apt-get install them"
)
def test_the_documented_proxy_serves_under_a_prefix_with_tls_in_a_browser(
    web: Web, certificate: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "nginx"
    folder.mkdir()
    proxies = {"proxy_headers": True, "forwarded_allow_ips": ["127.0.0.1"]}
    with (
        listening(behind(web), **proxies) as port,
        nginx(folder, certificate, port) as tls_port,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--ignore-certificate-errors",
                f"--host-resolver-rules=MAP models.example.com:443 127.0.0.1:{tls_port}",
            ],
        )
        page = browser.new_context(ignore_https_errors=True).new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{PUBLIC.url}/login#{web.secrets['max']}")
        expect(page.get_by_role("navigation")).to_be_visible()
        assert page.url == f"{PUBLIC.url}/"
        page.get_by_role("link", name="Audit").click()
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("heading", name=re.compile("No findings|finding"))).to_be_visible(
            timeout=60_000
        )
        cookie = page.context.cookies()[0]
        assert (cookie["path"], cookie["secure"]) == ("/registry", True)
        assert errors == []
        browser.close()
