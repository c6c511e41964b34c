"""Runs os-win calls against WinRM endpoints. Standard input: JSON with hosts, schema, ca and calls; each call is
[host, object, method, args...]. Standard output: one JSON line per call, {"result": ...} or {"error": class, "text": ...}."""
import json
import sys

import shim

spec = json.load(sys.stdin)
site = shim.Site(spec["hosts"], spec["schema"], spec["ca"])

from os_win.utils import baseutils  # noqa: E402

open_ = lambda self, moniker="", *a, **k: site.open(moniker)
baseutils.BaseUtils._get_wmi_obj = open_
baseutils.BaseUtils._get_wmi_conn = open_
baseutils.BaseUtilsVirt._get_wmi_obj = open_
baseutils.BaseUtilsVirt._os_version = [10, 0, 20348]

from os_win.utils import hostutils10  # noqa: E402
from os_win.utils.compute import livemigrationutils, migrationutils, vmutils10  # noqa: E402

makers = {"vmutils": vmutils10.VMUtils10, "hostutils": hostutils10.HostUtils10,
          "livemigration": lambda host: on(livemigrationutils.LiveMigrationUtils(), host), "migration": lambda host: on(migrationutils.MigrationUtils(), host)}


def on(obj, host):
    """These classes take no host; they and their job helper work on one all the same."""
    obj._host = host
    if hasattr(obj, "_jobutils"):
        obj._jobutils._host = host
    if hasattr(obj, "_vmutils"):
        obj._vmutils = vmutils10.VMUtils10(host)
    return obj


for host, kind, method, *args in spec["calls"]:
    try:
        print(json.dumps({"result": getattr(makers[kind](host), method)(*args)}, default=str), flush=True)
    except Exception as e:  # what went wrong is the answer
        print(json.dumps({"error": type(e).__name__, "text": str(e)}), flush=True)
