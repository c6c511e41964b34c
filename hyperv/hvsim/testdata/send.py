"""Sends envelopes with python3-winrm's transport. Standard input: JSON list of {url, transport, user, password, ca,
encryption, body}, user and password not with kerberos; standard output: one JSON line each."""
import json
import sys

from winrm.protocol import Protocol

for m in json.load(sys.stdin):
    p = Protocol(endpoint=m["url"], transport=m["transport"], username=m.get("user"), password=m.get("password"),
                 ca_trust_path=m.get("ca"), server_cert_validation="validate", message_encryption=m.get("encryption", "auto"))
    try:
        out = {"result": p.send_message(m["body"])}
        if isinstance(out["result"], bytes):
            out["result"] = out["result"].decode()
    except Exception as e:
        out = {"error": type(e).__name__, "text": str(e)}
    print(json.dumps(out), flush=True)
