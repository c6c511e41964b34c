"""The acceptor's side of a security context by MIT's libgssapi. Standard input: a JSON line {op, data[, signature]} with
base64 values; standard output: one JSON line each, {data[, signature]} or {error}. Operations: accept (data is a token),
unseal (signature and data as WinRM splits them), seal (the same), wrap (a token in one piece)."""
import base64
import json
import sys

import gssapi
from gssapi.raw import ChannelBindings, IOV, IOVBufferType, unwrap_iov, wrap_iov

gssapi.SecurityContext.__DEFER_STEP_ERRORS__ = False
binding = base64.b64decode(sys.argv[1]) if len(sys.argv) > 1 else None
ctx = gssapi.SecurityContext(creds=gssapi.Credentials(usage="accept"), usage="accept",
                             channel_bindings=ChannelBindings(application_data=binding) if binding else None)


def do(m):
    data = base64.b64decode(m["data"])
    if m["op"] == "accept":
        return {"data": ctx.step(data)}
    if m["op"] == "unseal":
        iov = IOV((IOVBufferType.header, False, base64.b64decode(m["signature"])), (IOVBufferType.data, False, data), std_layout=False)
        if not unwrap_iov(ctx, iov).encrypted:
            raise ValueError("not encrypted")
        return {"data": iov[1].value}
    if m["op"] == "seal":
        iov = IOV(IOVBufferType.header, (IOVBufferType.data, False, data), IOVBufferType.padding, std_layout=False)
        wrap_iov(ctx, iov, confidential=True)
        return {"signature": iov[0].value, "data": iov[1].value + (iov[2].value or b"")}
    return {"data": ctx.wrap(data, True).message}


for line in sys.stdin:
    try:
        out = {k: base64.b64encode(v or b"").decode() for k, v in do(json.loads(line)).items()}
    except Exception as e:
        out = {"error": type(e).__name__ + ": " + str(e)}
    print(json.dumps(out), flush=True)
