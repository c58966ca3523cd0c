"""The lab's guest: Debian's cloud kernel and a busybox initramfs, built once and kept.

It boots to a shell on ttyS0 in about 5 s without KVM, takes its address from the kernel command line, answers ping,
serves a file by HTTP and brings a traffic probe (`guestfiles/init` and `guestfiles/probe` say how). The kernel comes
from Debian's archive by `apt-get download`, as the package that `linux-image-cloud-amd64` now stands for; nothing is
installed.

The image is kept under a name made of a hash of everything it is built from, so a change here builds another one, and
two builders at once make the same. The kernel is kept apart: it is asked for only when there is none yet, or on
`refresh`.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.labkit.errors import LabError

__all__ = ["COMMAND_LINE", "GuestImage", "build", "cache_directory"]

COMMAND_LINE = "console=ttyS0 quiet loglevel=3 panic=-1 tsc=unstable nokaslr mitigations=off audit=0"
"""What to put before the guest's own words (`ip=… host=…`)."""

_METAPACKAGE = "linux-image-cloud-amd64"
_MODULES = ("virtio_pci", "virtio_net", "button", "evdev")
_FILES = Path(__file__).with_name("guestfiles")
_BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestImage:
    """Paths that every host of a lab can read too."""

    kernel: Path
    initrd: Path
    kernel_release: str


def build(*, refresh: bool = False, progress: Callable[[str], None] = lambda sentence: None) -> GuestImage:
    """The guest image, from the cache or newly built (some 10 s, most of it the kernel's download)."""
    cache = cache_directory()
    tree = _kernel_tree(cache, refresh=refresh, progress=progress)
    release = next(path.name for path in (tree / "lib/modules").iterdir())
    busybox = _busybox()
    digest = hashlib.sha256(repr((release, _MODULES)).encode())
    for path in (busybox, Path(__file__), *sorted(_FILES.iterdir())):
        digest.update(path.name.encode() + path.read_bytes())
    initrd = cache / f"initrd-{release}-{digest.hexdigest()[:16]}.img"
    if not initrd.exists():
        progress(f"guest: building the initramfs for Linux {release}")
        _replace(initrd, gzip.compress(_initramfs(tree, release, busybox), compresslevel=6, mtime=0))
    return GuestImage(kernel=tree / "boot" / f"vmlinuz-{release}", initrd=initrd, kernel_release=release)


def cache_directory() -> Path:
    """What outlives labs: $XDG_CACHE_HOME/opaque-lab, else /var/cache/opaque-lab; made when absent."""
    home = os.environ.get("XDG_CACHE_HOME")
    cache = Path(home) / "opaque-lab" if home else Path("/var/cache/opaque-lab")
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _kernel_tree(cache: Path, *, refresh: bool, progress: Callable[[str], None]) -> Path:
    """The newest unpacked kernel: boot/vmlinuz-*, and lib/modules with the few modules' index."""
    kept = sorted(
        (path for path in cache.glob("linux-image-*") if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    if kept and not refresh:
        return kept[-1]
    try:
        package = _kernel_package()
        tree = cache / package
        if tree.exists():
            os.utime(tree)
            return tree
        progress(f"guest: fetching {package} from Debian's archive")
        with tempfile.TemporaryDirectory(dir=cache, prefix="tmp-") as temporary:
            _run("apt-get", "download", "-o", "APT::Sandbox::User=root", package, cwd=temporary)
            archive = next(Path(temporary).glob("*.deb"))
            unpacked = Path(temporary) / "tree"
            _run("dpkg", "-x", str(archive), str(unpacked))
            release = next((unpacked / "lib/modules").iterdir()).name
            _run("depmod", "-b", str(unpacked), release)
            shutil.rmtree(unpacked / "usr", ignore_errors=True)
            os.utime(unpacked)
            if not tree.exists():
                unpacked.rename(tree)
    except LabError as error:
        raise LabError(
            f"the guest's kernel can't be fetched: {error}. Is there a Debian mirror in reach? After the first time the"
            f" copy in {cache} is used"
        ) from None
    return tree


def _kernel_package() -> str:
    """The real package behind the metapackage, with its version."""
    depends = _run("apt-cache", "depends", _METAPACKAGE) if _known_to_apt() else ""
    found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)\s*$", depends, re.MULTILINE)
    if not found:
        raise LabError(f"apt knows no package behind {_METAPACKAGE}; `apt-get update` may help")
    return found.group(1)


def _known_to_apt() -> bool:
    if subprocess.run(["apt-cache", "show", _METAPACKAGE], capture_output=True, check=False).returncode == 0:
        return True
    _run("apt-get", "update", "-q")
    return True


def _busybox() -> Path:
    if not _BUSYBOX.exists():
        raise LabError(f"{_BUSYBOX} is missing: install busybox-static, or run `make setup`")
    if b"GLIBC_" in _BUSYBOX.read_bytes() and b"ld-linux" in _BUSYBOX.read_bytes()[:4096]:
        raise LabError(f"{_BUSYBOX} is not statically linked: install busybox-static in place of busybox")
    return _BUSYBOX


def _initramfs(tree: Path, release: str, busybox: Path) -> bytes:
    """A cpio archive of busybox, our files and the modules in the order in which they can be inserted."""
    archive = bytearray()
    add = functools.partial(_add_member, archive)
    for directory in ("bin", "usr", "usr/local", "usr/local/bin", "modules", "dev"):
        add(directory, b"", mode=0o040755)
    add("dev/console", b"", mode=0o020600, device=(5, 1))
    add("bin/busybox", busybox.read_bytes(), mode=0o100755)
    add("init", (_FILES / "init").read_bytes(), mode=0o100755)
    add("usr/local/bin/probe", (_FILES / "probe").read_bytes(), mode=0o100755)
    modules = _module_order(tree / "lib/modules" / release)
    for module in modules:
        raw = module.read_bytes()
        add(
            f"modules/{module.name.removesuffix('.xz')}",
            lzma.decompress(raw) if module.suffix == ".xz" else raw,
            mode=0o100644,
        )
    add("modules/order", "\n".join(m.name.removesuffix(".xz") for m in modules).encode(), mode=0o100644)
    add("TRAILER!!!", b"", mode=0)
    return bytes(archive)


def _module_order(modules: Path) -> list[Path]:
    """Files of the modules we need, each after what it depends on (depmod lists the nearest first)."""
    depends: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        depends[Path(path).name.partition(".")[0]] = [path, *needs.split()]
    builtin = {Path(line).name.partition(".")[0] for line in (modules / "modules.builtin").read_text().splitlines()}
    order: list[Path] = []
    for name in _MODULES:
        if name not in depends and name not in builtin:
            raise LabError(f"the guest's kernel {modules.name} has no module {name}")
        order += [modules / path for path in reversed(depends.get(name, [])) if modules / path not in order]
    return order


def _add_member(archive: bytearray, name: str, data: bytes, *, mode: int, device: tuple[int, int] = (0, 0)) -> None:
    """Append one member in the format `newc` (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
    fields = (len(archive) + 1, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    archive += b"070701" + b"".join(b"%08x" % value for value in fields) + name.encode() + b"\0"
    archive += b"\0" * (-len(archive) % 4) + data
    archive += b"\0" * (-len(archive) % 4)


def _replace(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix="tmp-", delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o644)
    os.rename(file.name, path)


def _run(*command: str, cwd: str | None = None) -> str:
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    if result.returncode != 0:
        raise LabError(f"`{' '.join(command)}` ended with {result.returncode}: {result.stderr.strip()[-500:]}")
    return result.stdout
