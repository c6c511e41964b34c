"""Looks at a machine with Debian's os-xenapi client, snapshots it, starts it
and labels it; prints what it saw as JSON. Arguments: URL, user, password, uuid
of the machine."""
import json
import sys

from os_xenapi.client import XenAPI

url, user, password, uuid = sys.argv[1:]
session = XenAPI.Session(url)
session.login_with_password(user, password, "2.0", "interop")
api = session.xenapi
vm = api.VM.get_by_uuid(uuid)
record = api.VM.get_record(vm)
disks = [api.VDI.get_record(api.VBD.get_VDI(b))["virtual_size"] for b in record["VBDs"]]
snapshot = api.VM.snapshot(vm, "by os-xenapi", [])
api.VM.add_to_other_config(vm, "anyvisor:label:seen-by", "os-xenapi")
api.VM.start(vm, False, False)
print(json.dumps({
    "name": record["name_label"], "memory": record["memory_dynamic_max"], "vcpus": record["VCPUs_at_startup"],
    "disks": disks, "tier": record["other_config"].get("anyvisor:label:tier"), "networks": len(record["VIFs"]),
    "snapshot": api.VM.get_uuid(snapshot), "power": api.VM.get_power_state(vm),
}))
session.xenapi.session.logout()
