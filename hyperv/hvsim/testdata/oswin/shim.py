"""A PyMI-like WMI connection over WS-Management: just enough for OpenStack's os-win to run on Linux.

It speaks to any WinRM endpoint. Types, which WS-Management does not carry, come from a class table
(lines "c class super keys", "p name type", "m name param:type:dir ...").
"""
import re
import uuid
import xml.etree.ElementTree as ET
from types import SimpleNamespace
from xml.sax.saxutils import escape, quoteattr

import requests
from os_win import exceptions


def numeric(s):
    return escape(s).replace("&amp;", "&#38;").replace("&lt;", "&#60;")


S = "http://www.w3.org/2003/05/soap-envelope"
A = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
W = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
N = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
X = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
XSI = "{http://www.w3.org/2001/XMLSchema-instance}"
WMI = "http://schemas.microsoft.com/wbem/wsman/1/wmi/"
WQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
ANON = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"


class Schema:
    def __init__(self, path):
        self.classes, ns, cls = {}, "", None
        with open(path) as f:
            for line in f:
                w = line.split()
                if not w or w[0] == "#":
                    continue
                if w[0] == "n":
                    ns = w[1].lower()
                elif w[0] == "c":
                    up = self.classes.get((ns, w[2].lower()))
                    cls = SimpleNamespace(name=w[1], keys=up.keys if up else [], props=dict(up.props) if up else {}, methods=dict(up.methods) if up else {})
                    if w[3] != "-":
                        cls.keys = w[3].split(",")
                    self.classes[(ns, w[1].lower())] = cls
                elif w[0] == "p":
                    cls.props[w[1]] = w[2]
                elif w[0] == "m":
                    cls.methods[w[1]] = [p.split(":") for p in w[2:]]

    def get(self, ns, name):
        return self.classes[(ns.lower(), name.lower())]


def local(e):
    return e.tag.rsplit("}", 1)[-1]


def convert(t, text):
    base = t.rstrip("[]")
    if base == "boolean":
        return text.strip().lower() == "true"
    if re.match(r"[us]int\d+$", base):
        return int(text)
    return text


class Site:
    """The hosts by name: name -> (url, user, password)."""

    def __init__(self, hosts, schema, ca):
        self.hosts, self.schema, self.ca, self.conns = {k.lower(): v for k, v in hosts.items()}, Schema(schema), ca, {}
        self.first = next(iter(hosts))

    def conn(self, host, ns):
        host = self.first if host in (".", "", "localhost") else host
        key = (host.lower(), ns.lower())
        if key not in self.conns:
            if host.lower() not in self.hosts:
                raise exceptions.x_wmi("no such host " + host, SimpleNamespace(hresult=-2147023174))
            self.conns[key] = Conn(self, host, ns)
        return self.conns[key]

    def open(self, moniker):
        """A connection for //host/namespace, an instance for an object path."""
        m = re.match(r"^[\\/]{2}([^\\/]+)[\\/]([^:]+)(?::(.*))?$", moniker, re.S)
        conn = self.conn(m[1], m[2].replace("\\", "/"))
        return conn.get(m[3]) if m[3] else conn


class Conn:
    def __init__(self, site, host, ns):
        self._site, self._host, self._ns = site, host, ns
        self._url, user, password = site.hosts[host.lower()]
        self._http = requests.Session()
        self._http.auth = (user, password)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return Class(self, name)

    def _send(self, uri, action, body, selectors=""):
        sel = "<w:SelectorSet>%s</w:SelectorSet>" % selectors if selectors else ""
        env = ('<s:Envelope xmlns:s="%s" xmlns:a="%s" xmlns:w="%s" xmlns:n="%s"><s:Header><a:To>%s</a:To><w:ResourceURI s:mustUnderstand="true">%s</w:ResourceURI>'
               '<a:ReplyTo><a:Address>%s</a:Address></a:ReplyTo><a:Action s:mustUnderstand="true">%s</a:Action><w:MaxEnvelopeSize>512000</w:MaxEnvelopeSize>'
               '<a:MessageID>uuid:%s</a:MessageID>%s</s:Header><s:Body>%s</s:Body></s:Envelope>'
               % (S, A, W, N, escape(self._url), escape(uri), ANON, escape(action), uuid.uuid4(), sel, body))
        r = self._http.post(self._url, data=env.encode(), headers={"Content-Type": "application/soap+xml;charset=UTF-8"}, timeout=60, verify=self._site.ca)
        if not r.content:
            raise exceptions.x_wmi("HTTP %d" % r.status_code, SimpleNamespace(hresult=-2147024891))
        root = ET.fromstring(r.content).find("{%s}Body" % S)
        f = root.find("{%s}Fault" % S)
        if f is not None:
            code = [e.get("Code") for e in f.iter() if local(e) == "WSManFault"]
            text = "".join(t.text or "" for t in f.iter() if local(t) in ("Message", "Text"))
            hr = int(code[-1]) if code else 0
            raise exceptions.x_wmi(text, SimpleNamespace(hresult=hr - (1 << 32) if hr >= 1 << 31 else hr))
        return root

    def _uri(self, cls):
        return WMI + self._ns + "/" + cls

    def query(self, wql):
        uri, out = self._uri("*"), []
        body = '<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>100</w:MaxElements><w:Filter Dialect="%s">%s</w:Filter></n:Enumerate>' % (WQL, escape(wql))
        cls = re.search(r"\bFROM\s+(\w+)", wql, re.I)
        r = self._send(uri, N + "/Enumerate", body)[0]
        while True:
            ctx, end = None, False
            for e in r:
                if local(e) == "Items":
                    out += [self._instance(i, cls and cls[1]) for i in e]
                elif local(e) == "EnumerationContext":
                    ctx = e.text
                elif local(e) == "EndOfSequence":
                    end = True
            if end:
                return out
            r = self._send(uri, N + "/Pull", "<n:Pull><n:EnumerationContext>%s</n:EnumerationContext><n:MaxElements>100</n:MaxElements></n:Pull>" % ctx)[0]

    def get(self, relpath):
        cls, _, keys = relpath.partition(".")
        sel = "".join('<w:Selector Name="%s">%s</w:Selector>' % (k, escape(re.sub(r"\\(.)", r"\1", v))) for k, v in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', keys))
        return self._instance(self._send(self._uri(cls), X + "/Get", "", sel)[0], cls)

    def _instance(self, e, cls):
        name = cls if local(e) == "XmlFragment" else local(e)
        return Inst(self, self._site.schema.get(self._ns, name), self._values(self._site.schema.get(self._ns, name).props, e))

    def _values(self, types, e):
        out = {}
        for k in e:
            n, t = local(k), types.get(local(k), "string")
            if k.get(XSI + "nil") == "true":
                v = None
            elif k.find("{%s}ReferenceParameters" % A) is not None:
                v = self._path(k)
            elif t.startswith("object("):
                c = (k.get(XSI + "type") or "").split(":")[-1].removesuffix("_Type")
                v = self._instance_of(c, k)
            elif len(k):
                v = k[0].text
            else:
                v = convert(t, k.text or "")
            if t.endswith("[]") and v is not None:
                out[n] = (out.get(n) or []) + [v]
            else:
                out[n] = v
        return out

    def _instance_of(self, cls, e):
        c = self._site.schema.get(self._ns, cls)
        return Inst(self, c, self._values(c.props, e))

    def _path(self, e):
        uri = e.find(".//{%s}ResourceURI" % W).text
        ns, cls = uri[len(WMI):].rsplit("/", 1)
        keys = ['%s="%s"' % (s.get("Name"), (s.text or "").replace("\\", "\\\\").replace('"', '\\"')) for s in e.iter("{%s}Selector" % W) if s.get("Name") != "__cimnamespace"]
        return r"\\%s\%s:%s.%s" % (self._host.upper(), ns.replace("/", "\\"), cls, ",".join(keys))

    def _epr(self, path):
        m = re.match(r"^(?:[\\/]{2}[^\\/]+[\\/]([^:]+):)?(\w+)\.(.*)$", path, re.S)
        ns = (m[1] or self._ns).replace("\\", "/")
        sel = "".join('<w:Selector Name="%s">%s</w:Selector>' % (k, escape(re.sub(r"\\(.)", r"\1", v))) for k, v in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', m[3]))
        return ('<a:Address>%s</a:Address><a:ReferenceParameters><w:ResourceURI>%s%s/%s</w:ResourceURI><w:SelectorSet><w:Selector Name="__cimnamespace">%s</w:Selector>%s'
                '</w:SelectorSet></a:ReferenceParameters>' % (ANON, WMI, ns, m[2], ns, sel))


class Class:
    def __init__(self, conn, name):
        self.conn, self.name = conn, name

    def __call__(self, fields=None, **filters):
        q = "SELECT %s FROM %s" % (", ".join(fields) if fields else "*", self.name)
        cond = ["%s = %s" % (k, v if isinstance(v, int) and not isinstance(v, bool) else "'%s'" % str(v).replace("\\", "\\\\").replace("'", "\\'")) for k, v in filters.items()]
        return self.conn.query(q + (" WHERE " + " AND ".join(cond) if cond else ""))

    def new(self):
        return Inst(self.conn, self.conn._site.schema.get(self.conn._ns, self.name), {})


class Inst:
    def __init__(self, conn, cls, values):
        self.__dict__.update(_conn=conn, _cls=cls, _values=values)

    def _name(self, n):
        for p in self._cls.props:
            if p.lower() == n.lower():
                return p
        return None

    def __getattr__(self, n):
        p = self._name(n)
        if p:
            v = self._values.get(p)
            if self._cls.props[p].startswith("ref(") and v:
                return self._conn._site.open(v)
            return v
        for m, params in self._cls.methods.items():
            if m == n:
                return lambda *a, **k: self._invoke(m, params, a, k)
        raise AttributeError(n)

    def __setattr__(self, n, v):
        p = self._name(n)
        if not p:
            raise AttributeError(n)
        self._values[p] = v

    def path_(self):
        keys = ['%s="%s"' % (k, str(self._values[k]).replace("\\", "\\\\").replace('"', '\\"')) for k in self._cls.keys]
        return r"\\%s\%s:%s.%s" % (self._conn._host.upper(), self._conn._ns.replace("/", "\\"), self._cls.name, ",".join(keys))

    def path(self):
        return SimpleNamespace(RelPath=self.path_().split(":", 1)[1])

    def GetText_(self, _):
        out = "<INSTANCE CLASSNAME=%s>" % quoteattr(self._cls.name)
        for p, t in self._cls.props.items():
            v = self._values.get(p)
            if v is None or t.startswith(("ref(", "object(")) or t.startswith("datetime"):
                continue
            # the simulator takes &amp; and &lt; over COM alone, as this stands in for
            text = lambda x: numeric(str(x).lower() if t.startswith("boolean") else str(x))
            if t.endswith("[]"):
                out += '<PROPERTY.ARRAY NAME="%s" TYPE="%s"><VALUE.ARRAY>%s</VALUE.ARRAY></PROPERTY.ARRAY>' % (p, t[:-2], "".join("<VALUE>%s</VALUE>" % text(x) for x in v))
            else:
                out += '<PROPERTY NAME="%s" TYPE="%s"><VALUE>%s</VALUE></PROPERTY>' % (p, t, text(v))
        return out + "</INSTANCE>"

    def associators(self, wmi_association_class=None, wmi_result_class=None):
        where = [w for w in (wmi_association_class and "AssocClass = " + wmi_association_class, wmi_result_class and "ResultClass = " + wmi_result_class) if w]
        return self._conn.query("ASSOCIATORS OF {%s}%s" % (self.path_(), " WHERE " + " ".join(where) if where else ""))

    def _invoke(self, method, params, args, kwargs):
        """In parameters by position go in order of their names, and so do the results, as with PyMI."""
        ins = {p[0]: p[1] for p in params if p[2].startswith("in")}
        outs = {p[0]: p[1] for p in params if p[2].endswith("out")}
        kwargs = {**dict(zip(sorted(ins), args)), **kwargs}
        uri = self._conn._uri(self._cls.name)
        body = '<p:%s_INPUT xmlns:p="%s">' % (method, uri)
        for n, t in ins.items():
            v = kwargs.pop(n, None)
            for x in (v if isinstance(v, (list, tuple)) else [] if v is None else [v]):
                text = self._conn._epr(x.path_() if isinstance(x, Inst) else x) if t.startswith("ref(") else escape(str(x).lower() if isinstance(x, bool) else str(x))
                body += "<p:%s>%s</p:%s>" % (n, text, n)
        if kwargs:
            raise TypeError("%s has no parameter %s" % (method, ", ".join(kwargs)))
        sel = "".join('<w:Selector Name="%s">%s</w:Selector>' % (k, escape(str(self._values[k]))) for k in self._cls.keys)
        r = self._conn._send(uri, uri + "/" + method, body + "</p:%s_INPUT>" % method, sel)[0]
        vals = self._conn._values({**outs, "ReturnValue": "uint32"}, r)
        return tuple(vals.get(n) for n in sorted([*outs, "ReturnValue"]))
