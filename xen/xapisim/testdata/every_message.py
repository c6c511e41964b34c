"""Calls every message of the tables on stdin with Python's own xmlrpc.client: too few parameters, too many, each one of a wrong type,
and right ones. Prints a JSON list of what was answered otherwise than it must be, and a count."""
import datetime
import json
import sys
import xmlrpc.client

url, user, password = sys.argv[1:4]
tables = json.load(sys.stdin)
server = xmlrpc.client.ServerProxy(url)
wrong, count = [], 0


def login():
    return server.session.login_with_password(user, password, "2.0", "every")["Value"]


session = login()


def call(name, params):
    global count
    count += 1
    target = server
    for part in name.split("."):
        target = getattr(target, part)
    r = target(*params)
    return [] if r["Status"] == "Success" else r["ErrorDescription"]


def value(t):
    kind = t["kind"]
    if kind == "int":
        return "1"
    if kind == "bool":
        return False
    if kind == "float":
        return 0.0
    if kind == "datetime":
        return xmlrpc.client.DateTime(datetime.datetime(2026, 1, 1))
    if kind == "set":
        return []
    if kind == "map":
        return {}
    if kind == "record":
        return {f["name"]: value(f["type"]) for f in t["fields"]}
    if kind == "enum":
        return t["values"][0]
    if kind == "ref":
        return "OpaqueRef:nowhere"
    return "text"


def misfit(t):
    """a value that the type does not take"""
    return [True] if t["kind"] in ("string", "ref", "enum", "bool", "int", "float", "datetime", "map", "record") else {"no": "set"}


for m in tables:
    name, params, need = m["name"], m["params"], m["need"]
    head = [session] if m["session"] else []
    good = [value(p) for p in params]
    if m["removed"]:
        got = call(name, head + good[:need])
        if got != ["MESSAGE_REMOVED"]:
            wrong.append([name, "removed", got])
        continue
    if need > 0:
        got = call(name, head + good[: need - 1])
        if got != ["MESSAGE_PARAMETER_COUNT_MISMATCH", name, str(need), str(need - 1)]:
            wrong.append([name, "too few", got])
    if need == len(params):
        got = call(name, head + good + ["more"])
        if got != ["MESSAGE_PARAMETER_COUNT_MISMATCH", name, str(need), str(need + 1)]:
            wrong.append([name, "too many", got])
    for i, p in enumerate(params):
        bad = list(good)
        bad[i] = misfit(p)
        got = call(name, head + bad)
        if got[:1] != ["INTERNAL_ERROR"]:
            wrong.append([name, "wrong type of parameter %d" % i, got])
    if m["session"]:
        got = call(name, ["OpaqueRef:no session"] + good)
        if got[:1] != ["SESSION_INVALID"]:
            wrong.append([name, "no session", got])
        asynchronous = call("Async." + name, ["OpaqueRef:no session"] + good)
        if asynchronous[:1] != ["SESSION_INVALID"]:
            wrong.append([name, "Async, no session", asynchronous])
    if not m["async"] and m["session"] and m["name"] != "session.logout":
        got = call("Async." + name, head + good)
        if got != ["Fault", "No async mode for this operation (rpc: %s)" % name]:
            wrong.append([name, "Async", got])
    got = call(name, head + good)
    if got[:1] and got[0] in ("MESSAGE_PARAMETER_COUNT_MISMATCH", "MESSAGE_METHOD_UNKNOWN", "INTERNAL_ERROR", "NOT_IMPLEMENTED", "Fault"):
        wrong.append([name, "right", got])
    if name == "session.logout":
        session = login()
for name in ("VM.no_such", "Nothing.at_all", "VM", "Async.VM.no_such"):
    got = call(name, [session])
    if got != ["MESSAGE_METHOD_UNKNOWN", name.replace("Async.", "")]:
        wrong.append([name, "unknown", got])
print(json.dumps({"wrong": wrong, "calls": count}))
