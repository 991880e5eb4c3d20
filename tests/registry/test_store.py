"""Objects of the store are whole, verified and shared.

A sweep never takes what is needed, and a full disk is reported and leaves nothing behind.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from registry.catalogue.store import Store
from registry.digest import sha256_bytes
from registry.errors import Damaged, Invalid, NotFound


def made(path: Path, content: bytes = b"weights") -> Path:
    path.write_bytes(content)
    return path


def test_what_is_put_comes_back_by_its_digest(store: Store, tmp_path: Path) -> None:
    key = store.put(made(tmp_path / "a"))
    assert key == sha256_bytes(b"weights")
    assert store.verify(key)
    assert list(store.objects()) == [key]
    store.link(key, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"weights"
    assert (tmp_path / "b").samefile(store.path(key))
    assert not os.stat(store.path(key)).st_mode & 0o222


def test_a_copy_shares_nothing_with_the_file_it_was_made_from(store: Store, tmp_path: Path) -> None:
    source = made(tmp_path / "a")
    key = store.put(source, copy=True)
    source.write_bytes(b"changed")
    assert store.verify(key)


def test_bytes_that_are_not_what_was_promised_are_not_taken_in(
    store: Store, tmp_path: Path
) -> None:
    with pytest.raises(Damaged, match="sha256"):
        store.put(made(tmp_path / "a"), "0" * 64)
    assert list(store.objects()) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_a_damaged_object_is_seen_and_mended_by_putting_the_bytes_again(
    store: Store, tmp_path: Path
) -> None:
    key = store.put(made(tmp_path / "a"), copy=True)
    store.path(key).chmod(0o644)
    store.path(key).write_bytes(b"weightz")
    assert not store.verify(key)
    assert store.put(tmp_path / "a") == key
    assert store.verify(key)


def test_a_symbolic_link_is_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(made(tmp_path / "cache"))
    key = store.put(tmp_path / "a")
    assert store.verify(key)
    assert not store.path(key).is_symlink()


def test_a_link_never_replaces_a_file_and_names_a_missing_object(
    store: Store, tmp_path: Path
) -> None:
    key = store.put(made(tmp_path / "a"))
    with pytest.raises(FileExistsError):
        store.link(key, made(tmp_path / "b", b"mine"))
    assert (tmp_path / "b").read_bytes() == b"mine"
    with pytest.raises(NotFound):
        store.link("0" * 64, tmp_path / "c")
    for bad in ("../../etc/passwd", "AB" * 32, "ab"):
        with pytest.raises(Invalid):
            store.path(bad)


def test_a_sweep_takes_only_what_nobody_needs_and_nobody_touched(
    store: Store, tmp_path: Path
) -> None:
    needed, old, young = (
        store.put(made(tmp_path / name, name.encode()), copy=True)
        for name in ("needed", "old", "young")
    )
    aside = made(store.root / "tmp" / "left")
    assert store.sweep(lambda: {needed}, grace_s=3600) == []
    for path in (store.path(needed), store.path(old), aside):
        os.utime(path, (0, 0))
    assert store.sweep(lambda: {needed, young}, grace_s=0) == [old]
    assert sorted(store.objects()) == sorted([needed, young])
    assert not aside.exists()


def test_a_sweep_waits_for_a_registration_under_way(store: Store, tmp_path: Path) -> None:
    """The registration's need is known only at its end; the sweep asks after that."""
    known: set[str] = set()
    swept: list[list[str]] = []
    sweeping = threading.Thread(
        target=lambda: swept.append(store.sweep(lambda: set(known), grace_s=0))
    )
    with store.holding():
        key = store.put(made(tmp_path / "a"))
        sweeping.start()
        sweeping.join(0.3)
        assert sweeping.is_alive()
        known.add(key)
    sweeping.join(10)
    assert swept == [[]]
    assert store.verify(key)


FULL = """
import sys
from pathlib import Path
from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import AuditContext, audit
from registry.errors import Unavailable
from registry.catalogue.store import Store
from registry.records.events import AnyBody
from registry.records.facts import ExpertFacts
from registry.records.version import FileFact

disk, outside = Path(sys.argv[1]), Path(sys.argv[2])
catalog, store = Catalog(f"sqlite:///{disk}/registry.db", actor="ada"), Store(disk / "store")

def register(number):
    source = outside / str(number)
    source.write_bytes(number.to_bytes(4, "big") * 50_000)
    sha256 = store.put(source)
    facts = ExpertFacts.from_json({"number": number, "text": "x" * 20_000}, "test")
    return catalog.register("e", facts, files=[FileFact("a", 200_000, sha256)])

refusals = []
for number in range(60):
    try:
        register(number)
    except Unavailable as error:
        refusals.append(error)
        if len(refusals) == 3:  # a file, a row, or whichever did not fit, again and again
            break
for number in range(2000):  # fill what is left with rows alone
    try:
        note = AnyBody.from_json({"text": "y" * 3_000, "number": number}, "test")
        catalog.event(note, "x", kind="note")
    except Unavailable as error:
        refusals.append(error)
        break
assert len(refusals) == 4, refusals
assert all("room" in str(error) and error.exit_status == 1 for error in refusals), refusals
before = catalog.versions(ExpertFacts)
kinds = [finding for finding in audit(catalog, before[-1].ref, AuditContext(store=store)).findings]
assert kinds == [], kinds
assert not list((disk / "store" / "tmp").iterdir())
(disk / "ballast").unlink()
for number in range(len(before)):
    assert not register(number).created
assert register(99).created
assert audit(catalog, "expert/e", AuditContext(store=store)).findings == ()
print("held", len(before))
"""


def test_a_full_disk_is_reported_and_the_registry_stays_whole_and_works_after_space_is_made(
    tmp_path: Path,
) -> None:
    """On a file system of 6 MB, half of it ballast, in a mount namespace of its own."""
    disk, outside = tmp_path / "disk", tmp_path / "outside"
    disk.mkdir()
    outside.mkdir()
    mount = (
        f"mount -t tmpfs -o size=6m tmpfs {disk} "
        f"&& head -c 3m /dev/zero > {disk}/ballast "
        f"&& exec {sys.executable} - {disk} {outside}"
    )
    asked = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*asked, f"mount -t tmpfs tmpfs {disk}"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    done = subprocess.run(
        [*asked, mount],
        input=FULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("held ")
