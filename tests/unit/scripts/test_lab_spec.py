from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.labkit import LabError, state
from scripts.labkit.processes import ProcessId
from scripts.labkit.state import Endpoint, LabSpec, LabState
from scripts.labkit.wires import management_address


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "Big Name"}, "lab name 'Big Name'"),
        ({"name": "x" * 21}, "wanted 1 to 20"),
        ({"hosts": 0}, "1 to 200 hosts, found 0"),
        ({"underlay_mtu": 100}, "MTU wanted in 1280…9216, found 100"),
        ({"zones": {"h7": "a"}}, "zones for 'h7', but the hosts are h1, h2"),
        ({"manager": False}, "agents join a manager"),
    ],
)
def test_a_lab_that_can_not_be_is_refused_with_a_sentence(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(LabError, match=sentence):
        LabSpec(**{"name": "lab", "hosts": 2, **options})


def test_every_node_has_a_management_address_of_its_own() -> None:
    addresses = [management_address(name) for name in (state.MANAGER, *state.host_names(200))]
    assert addresses[:2] == ["10.255.0.1", "10.255.0.11"]
    assert len(set(addresses)) == 201


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    base = Path("/tmp") / f"oplab-{tmp_path_factory.getbasetemp().name}"
    base.mkdir(mode=0o700)
    monkeypatch.setenv("OPLAB_DIR", str(base))
    yield base
    for path in (*base.glob("*/*"), *base.glob("*")):
        path.unlink() if path.is_file() else path.rmdir()
    base.rmdir()


def test_what_is_written_is_read_again(base: Path) -> None:
    endpoint = Endpoint(name="ep", host="h1", bridge="br0", device="ep-ep", vif_uuid="v", mac="02:00:00:00:00:01")
    written = LabState(spec=LabSpec(name="lab", hosts=2, zones={"h1": "a"}), owner=ProcessId(1, 2))
    written.nodes["h1"], written.endpoints["ep"] = ProcessId(3, 4), endpoint
    (base / "lab").mkdir()
    state.write(written)
    assert state.read("lab") == written


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"spec": {"name": "lab"}}', '{"spec": {"name": "lab", "hosts": "two"}}']
)
def test_a_damaged_file_is_no_lab_and_no_crash(base: Path, text: str) -> None:
    (base / "lab").mkdir()
    (base / "lab/lab.json").write_text(text)
    assert state.read("lab") is None
    assert state.names() == ["lab"]


@pytest.mark.parametrize("place", ["relative", "/run/labs", "/var/lib/labs", "/tmp/" + "x" * 40])
def test_a_base_that_hosts_could_not_see_or_sockets_not_bear_is_refused(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPLAB_DIR", place)
    with pytest.raises(LabError, match="wanted an absolute path of at most 32 characters"):
        state.base_directory()


def test_a_base_that_others_can_write_to_is_refused(base: Path) -> None:
    base.chmod(0o777)
    with pytest.raises(LabError, match="that only we can write to"):
        state.base_directory()
