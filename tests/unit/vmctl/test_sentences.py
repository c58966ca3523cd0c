"""What an administrator reads of libvirt's errors. The texts are libvirt 9.0's."""

import pytest

from vmctl.sentences import hook_sentence, libvirt_sentence

FROM_THE_DESTINATION = (
    "Hook script execution failed: internal error: Child process (LC_ALL=C PATH=/usr/bin "
    "/etc/libvirt/hooks/network blue port-created begin -) unexpected exit status 1: VIF 0f3c is held by h1: "
    "the network manager cannot be reached\n"
)


def test_words_of_the_hook_are_taken_out_of_libvirts_account() -> None:
    assert hook_sentence(FROM_THE_DESTINATION) == "VIF 0f3c is held by h1: the network manager cannot be reached"
    assert libvirt_sentence(FROM_THE_DESTINATION) == hook_sentence(FROM_THE_DESTINATION)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("internal error: process exited while connecting to monitor: no such file", "process exited while connecting "
         "to monitor: no such file"),
        ("Requested operation is not valid: domain is already running", "domain is already running"),
        ("Domain not found: no domain with matching uuid", "Domain not found: no domain with matching uuid"),
        ("operation failed: migration out job: unexpectedly\nfailed", "migration out job: unexpectedly failed"),
        ("", "libvirt gave no reason"),
    ],
)  # fmt: skip
def test_libvirts_scaffolding_is_left_out(text: str, sentence: str) -> None:
    assert libvirt_sentence(text) == sentence


def test_error_that_mentions_no_hook_has_no_hook_sentence() -> None:
    assert hook_sentence("unexpected exit status 1: qemu") == ""


def test_destination_without_memory_is_said_in_words() -> None:
    for text in (
        "internal error: qemu unexpectedly closed the monitor: 2026-01-01T00:00:00Z qemu-system-x86_64: GLib: gmem.c: "
        "failed to allocate 14165952 bytes",
        "internal error: process exited while connecting to monitor: qemu-system-x86_64: cannot set up guest memory "
        "'pc.ram': Cannot allocate memory",
    ):
        assert libvirt_sentence(text) == "QEMU there got no memory for it; free some, or choose another host"


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("sch_sfq", "internal error: Child process (tc qdisc add dev vnet0 parent 1:2 handle 2: sfq perturb 10) "
         "unexpected exit status 2: Error: Specified qdisc kind is unknown.\n"),
        ("act_police", "internal error: Child process (tc filter add dev vnet0 parent ffff: protocol all u32 match u32 "
         "0 0 police rate 1000kbps burst 1000kb mtu 64kb drop flowid :1) unexpected exit status 2: Error: Failed to "
         "load TC action module.\nWe have an error talking to the kernel\n"),
    ],
)  # fmt: skip
def test_kernel_that_cannot_limit_traffic_is_said_with_what_it_lacks(module: str, text: str) -> None:
    assert libvirt_sentence(text) == f"its kernel lacks {module}, with which libvirt limits traffic"
