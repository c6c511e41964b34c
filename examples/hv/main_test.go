package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestCommands runs a small story, each command as a user would type it.
func TestCommands(t *testing.T) {
	hv := func(line string) (string, error) {
		var args cli
		p, err := kong.New(&args, kong.Name("hv"))
		if err != nil {
			t.Fatal(err)
		}
		k, err := p.Parse(append([]string{"-c", "fake://hv-test"}, strings.Fields(line)...))
		if err != nil {
			return "", err
		}
		var out bytes.Buffer
		err = run(t.Context(), k, args.globals, &out)
		return out.String(), err
	}
	for _, step := range []struct {
		line string
		want string // in the output, or in the error after a !
	}{
		{"hosts", "up"},
		{"create web-01 --memory 512 --disk 1024 --start", "id:"},
		{"create web-01x --memory 3 --disk 1024", "!MemoryBytes"},
		{"vms", "web-01"},
		{"info web-01", `"state": "running"`},
		{"power pause web-01", ""},
		{"power resume web-01", ""},
		{"snapshot create web-01 before --memory", "id:"},
		{"snapshot list web-01", "before*"},
		{"snapshot revert web-01 before", ""},
		{"set web-01 -l tier=web", ""},
		{"set web-01 --cpus 2 --next-start", ""},
		{"vms -l tier=web", "web-01"},
		{"disk attach web-01 --size 64", ""},
		{"guest exec web-01 /bin/echo hello", "hello"},
		{"guest clock web-01", "ahead"},
		{"migrate web-01 --host fakehost2 --check", "WHAT"},
		{"power off web-01", ""},
		{"snapshot delete web-01 before", ""},
		{"clone web-01 web-02 --mode linked", "id:"},
		{"delete web-01", "!linked"},
		{"delete web-02", ""},
		{"template mark web-01", ""},
		{"templates", "web-01"},
		{"clone web-01 web-03 --template --start", "id:"},
		{"migrate web-03 --host fakehost2", "stood still"},
		{"evacuate fakehost2", "is on"},
		{"devices --class display", "10de"},
		{"prepare nothing --vfs 2", "!no such"},
		{"nic attach web-03", ""},
		{"guest freeze web-03", ""},
		{"guest thaw web-03", ""},
		{"volume create spare --store ds-shared --size 64", "vol"},
		{"volume list --store ds-shared", "spare"},
		{"volume delete nothing", "!no such"},
		{"volume needs web-03", "DEPENDANTS"},
		{"place --cpus 2 --memory 1024", "host-2"},
		{"place", "!how many CPUs"},
		{"balance", "WHY"},
		{"ha", "medium"},
		{"ha web-03 --priority high", ""},
		{"ha web-03", "high"},
		{"ha web-03 --priority soon", "!best-effort"},
		{"replication web-03", "HEALTH"},
		{"maintenance enter fakehost1", "!Evacuate"},
		{"maintenance enter fakehost1 --evacuate", ""},
		{"hosts", "maintenance"},
		{"maintenance exit fakehost1", ""},
		{"caps --vm web-03", "clone.linked"},
		{"stores", "MiB"},
		{"networks", "id:"},
		{"delete nothing", "!not found"},
		{"delete web-03", "!Force"},
		{"delete web-03 --force", ""},
		{"task wait nosuch", "!no"},
		{"template delete web-01", ""},
	} {
		out, err := hv(step.line)
		if want, fails := strings.CutPrefix(step.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("hv %s: %v, want an error with %q", step.line, err, want)
			}
			continue
		}
		if err != nil || !strings.Contains(out, step.want) {
			t.Errorf("hv %s: %v, printed %q, want %q in it", step.line, err, out, step.want)
		}
	}
}
