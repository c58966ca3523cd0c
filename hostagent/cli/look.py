"""Commands that look: show, vif, flows, drops, metrics from the running agent; plan and verify from the host itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hostagent.cli.output import Failure, Settings, format_option, print_table, print_value, put_whole

__all__ = ["COMMANDS", "ask_agent"]

_PEER_COLUMNS = ("host", "vtep", "switch", "type", "state", "for_s", "rtt_ms", "loss", "mtu", "sends")
_VIF_COLUMNS = ("vif", "state", "network", "ovs_port", "mac", "vm", "reason")


@click.command()
@format_option
@click.pass_obj
def show(settings: Settings, form: str) -> None:
    """Switches, networks and VIFs of this host, and how old its word from the manager is."""
    answer = ask_agent(settings, "show")
    if form != "table":
        print_value(answer, form)
        return
    host = answer["host"]
    click.echo(
        f"Host {host['name'] or '-'} ({host['uuid']}), PNICs {', '.join(host['pnics'])}, {host['datapath']} datapath"
    )
    sync = answer["sync"]
    age = "connected" if sync["connected"] else f"away for {sync['age_s']:.0f} s: {sync['why_away']}"
    state = "in sync" if sync["in_sync"] else "not in sync"
    click.echo(f"Manager: {age}; {state} at revision {sync['revision']}")
    print_table("Switches", answer["switches"], ("name", "status", "health", "bridge", "pnics", "vteps", "datapath"))
    print_table(
        "Networks", answer["networks"], ("name", "status", "health", "type", "segment", "switch", "mtu", "uuid")
    )
    print_table("VIFs", answer["vifs"], _VIF_COLUMNS)
    if answer.get("peers"):
        print_table("Peers", [_peer_row(peer) for peer in answer["peers"]], _PEER_COLUMNS)
    if answer["repairs"]:
        repairs = [{"when": _time(one["at_unix"]), "what": one["what"]} for one in answer["repairs"]]
        print_table(f"Put back after others ({answer['repairs_total']} times)", repairs, ("when", "what"))
    reasons = [*answer["failures"]]
    for part in ("switches", "networks"):
        reasons += [f"{item['name']}: {reason}" for item in answer[part] for reason in item["reasons"]]
    for reason in dict.fromkeys(reasons):
        click.echo(f"! {reason}")


def _time(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@click.group()
def vif() -> None:
    """VIFs of this host and the ports they map to."""


@vif.command("list")
@format_option
@click.pass_obj
def vif_list(settings: Settings, form: str) -> None:
    """All VIFs plugged here."""
    vifs = ask_agent(settings, "vifs")["vifs"]
    if form == "table":
        print_table("VIFs", vifs, _VIF_COLUMNS)
    else:
        print_value(vifs, form)


@vif.command("show")
@click.argument("which")
@format_option
@click.pass_obj
def vif_show(settings: Settings, which: str, form: str) -> None:
    """One VIF, by its UUID, its beginning, its OVS port, its MAC, its port or its VM."""
    vifs = ask_agent(settings, "vifs")["vifs"]
    wanted = which.lower()
    names = ("ovs_port", "mac", "port", "port_uuid", "vm")
    found = [one for one in vifs if one["vif"].startswith(wanted) or wanted in (one[key].lower() for key in names)]
    if not found:
        raise Failure(
            f"no VIF {which!r} is plugged here; `hostagent vif list` shows those that are, `hostagent vif explain"
            f" {which}` why it is not"
        )
    if form != "table":
        print_value(found if len(found) > 1 else found[0], form)
        return
    for item in found:
        for key, value in item.items():
            click.echo(f"{key:12} {value if value not in ('', None) else '-'}")


@vif.command("explain")
@click.argument("which")
@format_option
@click.pass_obj
def vif_explain(settings: Settings, which: str, form: str) -> None:
    """Why a VIF is, or is not, connected, and what to do. By UUID, its beginning, OVS port, MAC, port or VM; also one
    that is not plugged now.

    Exit status: 0 lit, 1 anything else.
    """
    answers = ask_agent(settings, "explain", which=which)["explanations"]
    if form != "table":
        print_value(answers if len(answers) > 1 else answers[0], form)
    else:
        for answer in answers:
            click.echo(f"VIF {answer['vif']}: {answer['state']}")
            for fact in answer["facts"]:
                click.echo(f"  {fact}")
            for sentence in answer["advice"]:
                click.echo(f"  → {sentence}")
    click.get_current_context().exit(0 if all(answer["state"] == "lit" for answer in answers) else 1)


@click.command()
@click.argument("network", required=False)
@click.option("--table", default="", metavar="NAME", help="Only this table of the pipeline, by name or number.")
@click.option("--stats", is_flag=True, help="With packets and bytes that each flow has met.")
@format_option
@click.pass_obj
def flows(settings: Settings, network: str | None, table: str, stats: bool, form: str) -> None:
    """Flows of NETWORK (name or UUID) in the pipeline's words: tables, registers, ports and hosts by name.

    Without NETWORK: all flows of this host's opaque switches, as the agent last read them, in ovs-ofctl's syntax.

    \b
      hostagent flows blue --table LOCATE --stats
    """
    if network is None:
        if table or stats:
            raise Failure("--table and --stats need a NETWORK: hostagent flows NETWORK --table LOCATE", status=2)
        bridges = ask_agent(settings, "flows")["flows"]
        if form != "table":
            print_value(bridges, form)
            return
        for bridge, lines in bridges.items():
            click.echo(f"{bridge}:")
            for line in lines:
                click.echo(f"  {line}")
        return
    found = ask_agent(settings, "network-flows", network=network, table=table)["flows"]
    if form != "table":
        print_value(found if stats else [_without_counters(flow) for flow in found], form)
        return
    if not found:
        where = f" in table {table}" if table else ""
        click.echo(f"{network}: no flows{where}: a network has flows on a host that knows a port of it.")
    shown = ""
    for flow in found:
        if flow["table"] != shown:
            shown = flow["table"]
            click.echo(f"{shown} ({flow['number']})")
        counters = f"{flow['packets']:>8} packets {flow['bytes']:>10} bytes  " if stats else ""
        click.echo(
            f"  {flow['priority']:>5}  {counters}{' '.join(flow['match']) or 'any'}  →  {', '.join(flow['actions'])}"
        )


def _without_counters(flow: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flow.items() if key not in ("packets", "bytes")}


@click.command()
@format_option
@click.pass_obj
def drops(settings: Settings, form: str) -> None:
    """Frames that ended on this host, by port and reason, as the switch counts them, and the kernel at taps.

    A reason without a port is one that all ports share. A count begins anew when its flow is replaced, or the rate
    limit changed that it is of.
    """
    found = ask_agent(settings, "drops")["drops"]
    if form == "table":
        print_table("Drops", found, ("bridge", "port", "network", "packets", "reason"))
    else:
        print_value(found, form)


@click.command()
@click.option(
    "--textfile",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="PATH",
    help="Put them there at once instead of printing them; without an agent nothing is left there.",
)
@click.pass_obj
def metrics(settings: Settings, textfile: Path | None) -> None:
    """Metrics of this host for Prometheus, in its text format, from the running agent.

    What `hostagent drops` lists is a counter here, which only grows while the agent runs.

    \b
      hostagent metrics --textfile /var/lib/prometheus/node-exporter/hostagent.prom
    """
    from hostagent.metrics import metrics_text

    if textfile is None:
        click.echo(metrics_text(ask_agent(settings, "metrics")), nl=False)
        return
    try:
        try:
            text = metrics_text(ask_agent(settings, "metrics"))
        except Failure:
            textfile.unlink(missing_ok=True)  # figures of before would say that all is well
            raise
        put_whole(textfile, text)
    except OSError as error:
        raise Failure(f"{textfile} can't be written: {error.strerror or error}") from None


@click.command()
@format_option
@click.pass_obj
def plan(settings: Settings, form: str) -> None:
    """What the agent would change now. Reads this host by itself; changes nothing, needs no running agent."""
    result = _inspect(settings)
    if form != "table":
        print_value(result, form)
    elif result["unread"]:
        for sentence in result["unread"]:
            click.echo(f"unread: {sentence}")
    if form == "table":
        for step in result["steps"]:
            click.echo(step)
        if not result["steps"]:
            click.echo("nothing to do")


@click.command()
@format_option
@click.pass_context
def verify(context: click.Context, form: str) -> None:
    """Compare what is realized with what is wanted, without the agent's help.

    Exit status: 0 equal, 1 different, 2 a part of the host could not be read.
    """
    result = _inspect(context.obj)
    status = 2 if result["unread"] else 1 if result["steps"] else 0
    if form != "table":
        print_value({"equal": status == 0, **result}, form)
    else:
        for sentence in result["unread"]:
            click.echo(f"unread: {sentence}")
        for step in result["steps"]:
            click.echo(f"differs: {step}")
        for sentence in result["rejected"]:
            click.echo(f"can't be realized: {sentence}")
        if status == 0:
            click.echo(f"equal: {result['networks']} networks on {result['switches']} switches are as wanted")
        if not result["libvirt"]:
            click.echo("no libvirt runs here: its networks were not compared")
    context.exit(status)


def ask_agent(
    settings: Settings, verb: str, *, refused_status: int = 2, deadline_s: float = 10.0, **words: str
) -> dict[str, Any]:
    """The running agent's answer.

    Raises:
        Failure: nobody answers (status 2), or the answer is a refusal (*refused_status*).
    """
    from hostagent.control import RequestError, ask

    try:
        answer = ask(settings.socket, verb, deadline_s=deadline_s, **words)
    except OSError as error:
        raise Failure(
            f"the agent does not answer on {settings.socket} ({error.strerror or error}); start it with"
            " `systemctl start hostagent`, or look at the host itself with `hostagent verify`",
            status=2,
        ) from None
    except RequestError as error:
        raise Failure(str(error), status=2) from None
    if not answer.get("ok"):
        raise Failure(str(answer.get("sentence")), status=refused_status)
    return answer


def _inspect(settings: Settings) -> dict[str, Any]:
    import structlog

    from hostagent.inspect import InspectError, inspect_host

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # the answer says what is wrong
    try:
        return inspect_host(
            settings.state_dir,
            socket=settings.socket,
            ovs_rundir=settings.ovs_rundir,
            libvirt_uri=settings.libvirt_uri,
        )
    except InspectError as error:
        raise Failure(str(error), status=2) from None


COMMANDS = (show, vif, flows, drops, metrics, plan, verify)


def _peer_row(peer: dict[str, Any]) -> dict[str, Any]:
    """A peer in the words of the table: how large packets to it may be, and whether anything is sent there."""
    mtu = peer["mtu_passed"] or ("measuring" if peer["state"] == "up" else "")
    return {
        **peer,
        "for_s": peer["age_s"],
        "rtt_ms": "" if peer["rtt_ms"] is None else peer["rtt_ms"],
        "loss": f"{peer['loss_percent']} %",
        "mtu": mtu,
        "sends": "no" if peer["cut"] else "yes" if peer["shared"] else "no port there",
    }
