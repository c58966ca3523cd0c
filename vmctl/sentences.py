"""From libvirt's error text to the sentence worth showing. Pure.

The sentence of a hook reaches us inside libvirt's account of how the hook ended, from the other host inside one more.
What the hook wrote is what an administrator can act on; the rest is scaffolding.
"""

from __future__ import annotations

import re

__all__ = ["hook_sentence", "libvirt_sentence"]

_HOOK = re.compile(r"hooks/(?:network|qemu)\b.*?unexpected (?:exit status|fatal signal) \d+:\s*(?P<said>.+)", re.DOTALL)
_NOISE = re.compile(r"^(?:(?:internal error|operation failed|Hook script execution failed|Requested operation is not "
                    r"valid)\s*:\s*)+")  # fmt: skip
_NO_MEMORY = re.compile(r"qemu.*(?:[Cc]annot allocate memory|failed to allocate)")
_NO_SHAPER = re.compile(r"Child process \(tc .*(?:qdisc kind is unknown|Failed to load TC)", re.DOTALL)


def hook_sentence(text: str) -> str:
    """What one of libvirt's hooks wrote, empty when *text* does not come from a hook."""
    match = _HOOK.search(text)
    return " ".join(match["said"].split()) if match else ""


def libvirt_sentence(text: str) -> str:
    """The part of libvirt's error *text* that says what is wrong, on one line; a hook's own words where it has any."""
    said = hook_sentence(text)
    if _NO_MEMORY.search(text):
        return "QEMU there got no memory for it; free some, or choose another host"
    if _NO_SHAPER.search(text):
        return (
            f"its kernel lacks {'act_police' if ' police ' in text else 'sch_sfq'}, with which libvirt limits traffic"
        )
    return said or _NOISE.sub("", " ".join(text.split())) or "libvirt gave no reason"
