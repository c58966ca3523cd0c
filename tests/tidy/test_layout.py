"""The rules of the layout, read from the source itself: who may import whom, and which words stay where they belong.

Imports are read with `ast`, so an import inside a function counts as much as one at the top.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("netmgr", "hostagent", "vmctl")

# Pure rooms: standard library without clock, chance, threads and I/O; the contract; each other.
PURE = {
    "netmgr": ("contract/groups.py", "contract/learned.py", "contract/link_local.py", "contract/nested.py",
               "contract/reading.py", "contract/trace.py", "contract/types.py", "free_numbers", "model", "rules",
               "allocate", "span", "arbiter"),
    "hostagent": ("addresses", "advertisement", "dhcp", "drop_totals", "early_ofports", "exits", "explain", "fastpath",
                  "first_words", "flow", "flow_set", "flow_words", "flows", "group_memory", "health", "held", "indexed",
                  "learning", "migration", "model", "names", "pipeline", "plan", "port_views", "presence", "qos",
                  "resolve", "strays", "subports", "telling_links", "tracing", "tracking/limits", "tracking/tickets",
                  "tracking/zones", "underlay/liveness", "underlay/path_fit", "underlay/path_mtu", "underlay/peers",
                  "unheard", "uplinks", "vif_report", "vifs"),
    "vmctl": ("eligibility", "links", "migration", "model", "readiness", "placement", "switches/eligible",
              "switches/model", "switches/network_xml", "switches/nics", "switches/plan"),
}  # fmt: skip
# Arithmetic from outside: one decision over 10,000 hosts is a few passes over arrays.
PURE_LIBRARIES = {"vmctl/placement": {"numpy"}}
IMPURE_STDLIB = {
    "asyncio", "concurrent", "http", "io", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "shutil",
    "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
CLOCK_CALLS = re.compile(r"\b(datetime\.now|datetime\.utcnow|date\.today|uuid4|uuid1)\(")


def sources(*folders: str) -> list[Path]:
    files = [f for folder in folders for f in (ROOT / folder).rglob("*.py")]
    return sorted(f for f in files if not f.name.endswith(("_pb2.py", "_pb2_grpc.py")))


def imports(path: Path) -> set[str]:
    """Absolute dotted names that *path* imports; `from a import b` gives both `a` and `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def pure_modules() -> list[Path]:
    found: list[Path] = []
    for package, names in PURE.items():
        for name in names:
            room = ROOT / package / name
            files = sorted(room.rglob("*.py")) if room.is_dir() else [room.with_suffix(".py")]
            assert all(f.exists() for f in files), f"pure room {package}/{name} does not exist"
            found += files
    return found


@pytest.mark.parametrize("path", pure_modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_pure_module_has_no_way_to_the_outside(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    pure = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in pure_modules()}
    for name in imports(path):
        top = name.split(".")[0]
        if top in PACKAGES:
            allowed = any(name == m or name.startswith(m + ".") or m.startswith(name + ".") for m in pure)
            assert allowed, f"{path}: imports {name}, which is not pure"
            assert top == package or name.startswith("netmgr.contract"), f"{path}: imports {name} of another package"
        else:
            if top in PURE_LIBRARIES.get(str(path.parent.relative_to(ROOT)), ()):
                continue
            assert top in sys.stdlib_module_names, f"{path}: imports {name}, not standard library"
            assert top not in IMPURE_STDLIB, f"{path}: imports {name}: clock, chance and I/O come in as arguments"
    hit = CLOCK_CALLS.search(path.read_text())
    assert hit is None, f"{path}: calls {hit and hit[0]}); pass the value in"


@pytest.mark.parametrize("package", ["hostagent", "vmctl"])
def test_package_takes_only_the_contract_from_netmgr(package: str) -> None:
    wrong = {
        (str(path.relative_to(ROOT)), name)
        for path in sources(package)
        for name in imports(path)
        if name.startswith("netmgr") and name != "netmgr" and not name.startswith("netmgr.contract")
    }
    assert not wrong


def test_nobody_imports_hostagent_or_vmctl() -> None:
    wrong = {
        (str(path.relative_to(ROOT)), name)
        for path in sources(*PACKAGES, "scripts")
        for name in imports(path)
        if name.split(".")[0] in ("hostagent", "vmctl") and path.relative_to(ROOT).parts[0] != name.split(".")[0]
    }
    assert not wrong


def test_realize_modules_wrap_one_library_each() -> None:
    """Two shells that knew each other would be a decision in the wrong room."""
    libraries = {"ovs", "pyroute2", "libvirt"}
    for path in sources("hostagent"):
        used = {name.split(".")[0].removesuffix("_qemu") for name in imports(path)} & libraries
        assert len(used) <= 1, f"{path}: wraps {sorted(used)}"
        if used:
            assert path.parent.name == "realize", f"{path}: {used} belongs into hostagent/realize/"


def test_vmctl_does_not_know_how_networks_are_built() -> None:
    words = re.compile(r"vni|vtep|vxlan", re.IGNORECASE)
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "vmctl").rglob("*"))
        if path.suffix in (".py", ".sql", ".md", ".yaml", ".mako")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert not hits


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_file_holds_a_path_of_the_machine_it_was_written_on() -> None:
    # A checkout may lie in a folder that every machine has and our texts speak of (/tmp); then only its own name tells.
    shared = len(ROOT.parts) <= 3
    home = str(ROOT if shared else ROOT.parent) + "/"
    hits = [str(f) for f in tracked() if home.encode() in f.read_bytes()]
    assert not hits


def test_every_module_opens_with_its_theory() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources(*PACKAGES, "scripts")
        if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_files_stay_small() -> None:
    big = {
        str(p.relative_to(ROOT)): n
        for p in sources(*PACKAGES, "scripts")
        if (n := len(p.read_text().splitlines())) > 500
    }
    assert not big, f"split these: {big}"


def test_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = {
        f"{package}/{entry.name}{'/' if entry.is_dir() else ''}"
        for package in PACKAGES
        for entry in (ROOT / package).iterdir()
        if (entry.suffix == ".py" or entry.is_dir()) and not entry.name.startswith("_")
    }
    stems = {room for room in rooms if room not in text and Path(room).name not in text}
    assert not stems, f"ARCHITECTURE.md does not name {sorted(stems)}"
