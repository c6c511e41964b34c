package xapisim

// Messages that a real xapi refuses as NOT_IMPLEMENTED itself, with names that are not always the messages' (xen-api ocaml/xapi/xapi_vm.ml,
// xapi_host.ml, api_server_common.ml).

var refusedHandlers = map[string]handler{
	"VM.send_sysrq":     whenOp("send_sysrq", notImplemented("send_sysrq")),
	"VM.send_trigger":   whenOp("send_trigger", notImplemented("send_trigger")),
	"VM.query_services": whenOp("query_services", notImplemented("query_services")),
}

var refusedAs = map[string]string{
	"host.dmesg_clear": "dmesg_clear", "host.get_log": "get_log", "host.list_methods": "list_method",
	"console.create": "Console.create", "console.destroy": "Console.destroy",
}

func notImplemented(name string) handler {
	return func(*call) (any, error) { return nil, fail("NOT_IMPLEMENTED", name) }
}
