"""Names of OpenFlow's errors, as OpenFlow 1.5.1 spells them."""

from __future__ import annotations

from typing import Final

__all__ = ["error_name"]

_TYPES: Final[dict[int, tuple[str, str]]] = {
    1: (
        "bad request",
        (
            "BAD_VERSION BAD_TYPE BAD_MULTIPART BAD_EXPERIMENTER BAD_EXP_TYPE EPERM BAD_LEN BUFFER_EMPTY "
            "BUFFER_UNKNOWN BAD_TABLE_ID IS_SLAVE BAD_PORT BAD_PACKET MULTIPART_BUFFER_OVERFLOW "
            "MULTIPART_REQUEST_TIMEOUT MULTIPART_REPLY_TIMEOUT MULTIPART_BAD_SCHED PIPELINE_FIELDS_ONLY UNKNOWN"
        ),
    ),
    2: (
        "bad action",
        (
            "BAD_TYPE BAD_LEN BAD_EXPERIMENTER BAD_EXP_TYPE BAD_OUT_PORT BAD_ARGUMENT EPERM TOO_MANY BAD_QUEUE "
            "BAD_OUT_GROUP MATCH_INCONSISTENT UNSUPPORTED_ORDER BAD_TAG BAD_SET_TYPE BAD_SET_LEN BAD_SET_ARGUMENT "
            "BAD_SET_MASK BAD_METER"
        ),
    ),
    3: (
        "bad instruction",
        (
            "UNKNOWN_INST UNSUP_INST BAD_TABLE_ID UNSUP_METADATA UNSUP_METADATA_MASK BAD_EXPERIMENTER BAD_EXP_TYPE "
            "BAD_LEN EPERM DUP_INST"
        ),
    ),
    4: (
        "bad match",
        (
            "BAD_TYPE BAD_LEN BAD_TAG BAD_DL_ADDR_MASK BAD_NW_ADDR_MASK BAD_WILDCARDS BAD_FIELD BAD_VALUE BAD_MASK "
            "BAD_PREREQ DUP_FIELD EPERM"
        ),
    ),
    5: (
        "flow-mod failed",
        "UNKNOWN TABLE_FULL BAD_TABLE_ID OVERLAP EPERM BAD_TIMEOUT BAD_COMMAND BAD_FLAGS CANT_SYNC BAD_PRIORITY",
    ),
    17: (
        "bundle failed",
        (
            "UNKNOWN EPERM BAD_ID BUNDLE_EXIST BUNDLE_CLOSED OUT_OF_BUNDLES BAD_TYPE BAD_FLAGS MSG_BAD_LEN "
            "MSG_BAD_XID MSG_UNSUP MSG_CONFLICT MSG_TOO_MANY MSG_FAILED TIMEOUT BUNDLE_IN_PROGRESS"
        ),
    ),
}


def error_name(kind: int, code: int) -> str:
    """The error in words, as `bad match: BAD_PREREQ`; by its numbers where OpenFlow has no name for it."""
    if kind not in _TYPES:
        return f"error type {kind}, code {code}"
    text, names = _TYPES[kind]
    codes = names.split()
    return f"{text}: {codes[code] if code < len(codes) else f'code {code}'}"
