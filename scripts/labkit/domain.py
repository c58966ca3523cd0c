"""Domain XML of a lab guest, for those who start guests with libvirt alone."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from scripts.labkit.guest import COMMAND_LINE, GuestImage

__all__ = ["domain_xml"]


def domain_xml(
    *,
    name: str,
    image: GuestImage,
    words: str = "",
    network: str | None = None,
    vif_uuid: str | None = None,
    mac: str | None = None,
    memory_mib: int = 128,
) -> str:
    """A guest without KVM, with a NIC on the libvirt network *network* if given. *words*: `ip=10.0.0.5/24 host=web`.

    Virtio's offloads are off: on a userspace datapath TCP would fail with them. Without *vif_uuid* libvirt invents one,
    and another one at each live migration.
    """
    nic = ""
    if network is not None:
        parameters = f"<parameters interfaceid={quoteattr(vif_uuid)}/>" if vif_uuid else ""
        nic = f"""
    <interface type='network'>
      {f"<mac address={quoteattr(mac)}/>" if mac else ""}
      <source network={quoteattr(network)}/>
      <virtualport type='openvswitch'>{parameters}</virtualport>
      <model type='virtio'/>
      <driver>
        <host csum='off' gso='off' tso4='off' tso6='off' ecn='off' ufo='off'/>
        <guest csum='off' tso4='off' tso6='off' ecn='off' ufo='off'/>
      </driver>
    </interface>"""
    return f"""<domain type='qemu'>
  <name>{escape(name)}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{escape(str(image.kernel))}</kernel>
    <initrd>{escape(str(image.initrd))}</initrd>
    <cmdline>{escape(f"{COMMAND_LINE} {words}".strip())}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <devices>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='pty'/>
    <console type='pty'/>{nic}
  </devices>
</domain>
"""
