package xapisim_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/xen/xapisim"
)

// TestRecorded sends the requests that were recorded from a xapi 24.11 and wants the recorded answers. In testdata/recorded-24.11.txt a line is
// a request and its answer; $name is the reference that an answer gave. A line that begins with "!" says why xapisim answers the next one
// otherwise; it must.
func TestRecorded(t *testing.T) {
	data, err := os.ReadFile("testdata/recorded-24.11.txt")
	if err != nil {
		t.Fatal(err)
	}
	sim, c := start(t, xapisim.Config{Hosts: 2, Build: "24.11.0", GCPause: -1})
	r := &replay{c: c, refs: map[string]string{"$gone": "OpaqueRef:11111111-1111-4111-8111-111111111111"}, names: map[string]string{}}
	hosts := c.hosts()
	r.name("$h1", hosts[0])
	r.name("$h2", hosts[1])
	r.name("$net", c.network())
	r.name("$sr", c.ref("pool.get_default_SR", sim.Refs("pool")[0]))
	for _, s := range sim.Refs("SR") {
		if c.must("SR.get_type", s) == "ext" && r.refs["$local"] == "" {
			r.name("$local", s)
		}
	}
	r.names[r.refs["$gone"]] = "$gone"
	why, lines, differ := "", 0, 0
	for n, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
			continue
		case strings.HasPrefix(line, "!"):
			why = strings.TrimSpace(line[1:])
			continue
		}
		want, got := line[strings.LastIndex(line, "] -> ")+5:], r.send(t, line)
		same := strings.HasPrefix(line, strings.Fields(got)[0]) && equalJSON(want, got[strings.Index(got, " ")+1:])
		switch {
		case same && why != "":
			t.Errorf("line %d is answered as recorded: %s", n+1, why)
		case !same && why == "":
			t.Errorf("line %d\n%s\nxapisim: %s", n+1, line, got)
		case !same:
			differ++
		}
		why = ""
		lines++
	}
	t.Logf("%d answers compared, %d agreed to be different", lines, differ)
}

// replay maps the names of the recording to references.
type replay struct {
	c     *client
	refs  map[string]string // by name
	names map[string]string // by reference
}

func (r *replay) name(name, ref string) { r.refs[name], r.names[ref] = ref, name }

var (
	anyRef  = regexp.MustCompile(`OpaqueRef:[0-9a-f]{8}-[0-9a-f-]{27}`)
	anyUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	aName   = regexp.MustCompile(`\$\w+`)
	request = regexp.MustCompile(`^(OK|FAIL) ([\w.]+) (\[.*\]) -> (.*)$`)
)

// send sends a line's request and returns OK or FAIL and the answer, with names.
func (r *replay) send(t *testing.T, line string) string {
	t.Helper()
	m := request.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("no request: %s", line)
	}
	text := aName.ReplaceAllStringFunc(m[3], func(n string) string {
		if ref, ok := r.refs[n]; ok {
			return ref
		}
		return n
	})
	var args []any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&args); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	if len(args) == 1 && strings.HasSuffix(m[2], ".create") {
		if rec, ok := args[0].(map[string]any); ok && len(rec) > 0 {
			args[0] = full(m[2], rec)
		}
	}
	v, err := r.c.call(m[2], args...)
	if e, failed := err.(*apiError); failed {
		v = []any{e.Code, append([]string{}, e.Params...)}
	} else if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	if ref, ok := v.(string); ok && err == nil && anyRef.MatchString(ref) && strings.HasPrefix(m[4], `"$`) {
		r.name(strings.Trim(m[4], `"`), ref)
	}
	b, _ := json.Marshal(v)
	out := anyRef.ReplaceAllStringFunc(string(b), func(ref string) string {
		if n, ok := r.names[ref]; ok {
			return n
		}
		return "<ref>"
	})
	if !strings.Contains(m[4], "11111111-") {
		out = anyUUID.ReplaceAllString(out, "<uuid>")
	}
	if err != nil {
		return "FAIL " + out
	}
	return "OK " + out
}

// full adds what the recorded records had besides.
func full(method string, with map[string]any) map[string]any {
	const mib = 1 << 20
	rec := map[string]map[string]any{
		"VM.create": {
			"name_description": "", "user_version": 1, "is_a_template": false, "affinity": "OpaqueRef:NULL", "memory_static_max": 256 * mib,
			"memory_dynamic_max": 256 * mib, "memory_dynamic_min": 128 * mib, "memory_static_min": 64 * mib, "VCPUs_params": map[string]any{}, "VCPUs_max": 2, "VCPUs_at_startup": 1,
			"actions_after_shutdown": "destroy", "actions_after_reboot": "restart", "actions_after_crash": "restart", "PV_bootloader": "", "PV_kernel": "",
			"PV_ramdisk": "", "PV_args": "", "PV_bootloader_args": "", "PV_legacy_args": "", "HVM_boot_policy": "BIOS order", "HVM_boot_params": map[string]any{},
			"platform": map[string]any{}, "PCI_bus": "", "other_config": map[string]any{}, "recommendations": "",
		},
		"VDI.create": {"name_description": "", "type": "user", "sharable": false, "read_only": false, "other_config": map[string]any{}},
		"VBD.create": {
			"bootable": true, "mode": "RW", "type": "Disk", "unpluggable": true, "empty": false, "other_config": map[string]any{}, "qos_algorithm_type": "",
			"qos_algorithm_params": map[string]any{},
		},
		"VIF.create": {"MAC": "", "MTU": 1500, "other_config": map[string]any{}, "qos_algorithm_type": "", "qos_algorithm_params": map[string]any{}},
	}[method]
	out := maps.Clone(rec)
	maps.Copy(out, with)
	return out
}

func equalJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && fmt.Sprint(x) == fmt.Sprint(y)
}
