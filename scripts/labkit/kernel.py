"""Debian's cloud kernel, fetched once and kept, and initramfs made of it: what machines of the lab boot.

The kernel comes from Debian's archive by `apt-get download`, as the package that `linux-image-cloud-amd64` now stands
for; nothing is installed. It is asked for only when there is none yet, or on *refresh*.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.labkit.errors import LabError

__all__ = ["Kernel", "cache_directory", "fetch", "initramfs"]

_METAPACKAGE = "linux-image-cloud-amd64"
_BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An unpacked kernel package."""

    tree: Path
    release: str

    @property
    def image(self) -> Path:
        return self.tree / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """Its modules, with their index (`modprobe`, `depmod`)."""
        return self.tree / "lib/modules" / self.release


def fetch(*, refresh: bool = False, progress: Callable[[str], None] = lambda sentence: None) -> Kernel:
    """The newest kernel that is kept, or, where there is none or on *refresh*, the newest there is."""
    tree = _kernel_tree(cache_directory(), refresh=refresh, progress=progress)
    return Kernel(tree=tree, release=next(path.name for path in (tree / "lib/modules").iterdir()))


def initramfs(
    kernel: Kernel,
    *,
    name: str,
    modules: Sequence[str],
    files: Mapping[str, Path],
    progress: Callable[[str], None] = lambda sentence: None,
) -> Path:
    """An initramfs of busybox, *files* (path inside → source, executable) and *modules* with all that they need.

    /modules/order lists the modules in the order in which `insmod` takes them. It is kept as NAME-RELEASE-HASH.img
    under a hash of everything it is built from, so a change builds another one, and two builders at once make the same.
    """
    busybox = _busybox()
    digest = hashlib.sha256(repr((kernel.release, tuple(modules), sorted(files))).encode())
    for path in (busybox, Path(__file__), *(files[inside] for inside in sorted(files))):
        digest.update(path.name.encode() + path.read_bytes())
    image = cache_directory() / f"{name}-{kernel.release}-{digest.hexdigest()[:16]}.img"
    if not image.exists():
        progress(f"building the initramfs {name} for Linux {kernel.release}")
        _replace(image, gzip.compress(_archive(kernel, busybox, modules, files), compresslevel=6, mtime=0))
    return image


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
        progress(f"fetching {package} from Debian's archive")
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
            f"Debian's kernel can't be fetched: {error}. Is there a Debian mirror in reach? After the first time the"
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


def _archive(kernel: Kernel, busybox: Path, wanted: Sequence[str], files: Mapping[str, Path]) -> bytes:
    """A cpio archive of busybox, our files and the modules in the order in which they can be inserted."""
    archive = bytearray()
    add = functools.partial(_add_member, archive)
    for directory in ("bin", "usr", "usr/local", "usr/local/bin", "modules", "dev"):
        add(directory, b"", mode=0o040755)
    add("dev/console", b"", mode=0o020600, device=(5, 1))
    add("bin/busybox", busybox.read_bytes(), mode=0o100755)
    for inside, source in files.items():
        add(inside, source.read_bytes(), mode=0o100755)
    modules = _module_order(kernel.modules, wanted)
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


def _module_order(modules: Path, wanted: Sequence[str]) -> list[Path]:
    """Files of the modules we need, each after what it depends on (depmod lists the nearest first)."""
    depends: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        depends[_module_name(path)] = [path, *needs.split()]
    builtin = {_module_name(line) for line in (modules / "modules.builtin").read_text().splitlines()}
    order: list[Path] = []
    for name in wanted:
        if name not in depends and name not in builtin:
            raise LabError(f"Debian's kernel {modules.name} has no module {name}")
        order += [modules / path for path in reversed(depends.get(name, [])) if modules / path not in order]
    return order


def _module_name(path: str) -> str:
    return Path(path).name.partition(".")[0].replace("-", "_")


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
