"""The lab's guest: Debian's cloud kernel and a busybox initramfs, built once and kept (`kernel`).

It boots to a shell on ttyS0 in about 5 s without KVM, takes its address from the kernel command line, answers ping,
serves a file by HTTP and brings a traffic probe (`guestfiles/init` and `guestfiles/probe` say how).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.labkit import kernel

__all__ = ["COMMAND_LINE", "GuestImage", "build"]

COMMAND_LINE = "console=ttyS0 quiet loglevel=3 panic=-1 tsc=unstable nokaslr mitigations=off audit=0 cryptomgr.notests"
"""What to put before the guest's own words (`ip=… host=…`).

The kernel's tests of its ciphers would be a tenth of the boot."""

_MODULES = ("virtio_pci", "virtio_net", "button", "evdev", "8021q")
_FILES = Path(__file__).with_name("guestfiles")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestImage:
    """Paths that every host of a lab can read too."""

    kernel: Path
    initrd: Path
    kernel_release: str


def build(*, refresh: bool = False, progress: Callable[[str], None] = lambda sentence: None) -> GuestImage:
    """The guest image, from the cache or newly built (some 10 s, most of it the kernel's download)."""

    def say(sentence: str) -> None:
        progress(f"guest: {sentence}")

    found = kernel.fetch(refresh=refresh, progress=say)
    files = {"init": _FILES / "init", "usr/local/bin/probe": _FILES / "probe"}
    initrd = kernel.initramfs(found, name="initrd", modules=_MODULES, files=files, progress=say)
    return GuestImage(kernel=found.image, initrd=initrd, kernel_release=found.release)
