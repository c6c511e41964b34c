"""Drives a pool with Debian's python3-os-xenapi: login, Async, failure details, event.from. Prints what it saw as JSON."""
import json
import sys

from os_xenapi.client import XenAPI

url, user, password, uuid = sys.argv[1:5]
seen = {}
session = XenAPI.Session(url)
try:
    session.login_with_password(user, "wrong")
except XenAPI.Failure as e:
    seen["bad_login"] = e.details
session.login_with_password(user, password, "2.0", "interop")
seen["api"] = session.API_version
x = session.xenapi
vm = x.VM.get_by_uuid(uuid)
seen["record_types"] = {k: type(v).__name__ for k, v in x.VM.get_record(vm).items() if k in ("is_a_template", "memory_static_max", "snapshot_time", "VBDs", "platform", "HVM_shadow_multiplier")}
try:
    x.VM.pause(vm)
except XenAPI.Failure as e:
    seen["failure"] = e.details
batch = session.xenapi_request("event.from", (["VM"], "", 0.0))
token = batch["token"]
task = getattr(x, "Async").VM.start(vm, False, False)
while True:
    batch = session.xenapi_request("event.from", (["task/" + task], token, 10.0))
    token = batch["token"]
    states = [e["snapshot"]["status"] for e in batch["events"] if e["operation"] != "del"]
    if states and states[-1] != "pending":
        break
seen["task"] = x.task.get_record(task)["status"]
seen["power"] = x.VM.get_power_state(vm)
x.task.destroy(task)
session.logout()
print(json.dumps(seen))
