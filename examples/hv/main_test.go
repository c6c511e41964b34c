package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hypervisor"
)

// TestMain is hv itself where a test asks for the program.
func TestMain(m *testing.M) {
	if os.Getenv("HV_TEST_PROGRAM") != "" {
		main()
	}
	os.Exit(m.Run())
}

// hvOn returns a function that runs a command line on a URL and returns what
// it printed.
func hvOn(t *testing.T, url string) func(line string) (string, error) {
	return func(line string) (string, error) {
		var args cli
		k, err := parser(&args).Parse(append([]string{"-c", url, "--config", "testdata/empty.yaml"}, strings.Fields(line)...))
		if err != nil {
			return "", err
		}
		var out bytes.Buffer
		err = run(t.Context(), k, args.globals, &out)
		return out.String(), err
	}
}

// TestCommands runs a small story, each command as a user would type it.
func TestCommands(t *testing.T) {
	hv := hvOn(t, "fake://hv-test")
	for _, step := range []struct {
		line string
		want string // in the output, or in the error after a !
	}{
		{"hosts", "up"},
		{"create web-01 --memory 512 --disk 1024 --start", "id:"},
		{"create web-01x --memory 3 --disk 1024", "!MemoryBytes"},
		{"vms", "web-01"},
		{"info web-01", `"state": "running"`},
		{"info web-01 -o yaml", "state: running"},
		{"vms -o json", `"name": "web-01"`},
		{"vms -o yaml", "name: web-01"},
		{"vms -o xml", "!--output must be one of"},
		{"power pause web-01", ""},
		{"power resume web-01", ""},
		{"snapshot create web-01 before --memory", "id:"},
		{"snapshot list web-01", "\nbefore*"},
		{"snapshot create web-01 after", "id:"},
		{"snapshot list web-01", "\n  after*"},
		{"snapshot delete web-01 after", ""},
		{"snapshot revert web-01 before", ""},
		{"set web-01 -l tier=web", ""},
		{"set web-01 --cpus 2 --next-start", ""},
		{"vms -l tier=web", "web-01"},
		{"disk attach web-01 --size 64", ""},
		{"guest exec web-01 /bin/echo hello", "hello"},
		{"guest clock web-01", "ahead"},
		{"migrate web-01 --host fakehost2 --check", "nothing stands"},
		{"power off web-01", ""},
		{"snapshot delete web-01 before", ""},
		{"clone web-01 web-02 --mode linked", "id:"},
		{"volume list", "\n  web-02"},
		{"volume needs web-02", "\n  vol-"},
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
		{"volume create spare --store shared --size 64", "id:vol"},
		{"volume list --store shared", "spare"},
		{"volume list --store nowhere", "!no datastore is named"},
		{"create web-04 --image spare --store shared --network default", "id:"},
		{"create web-05 --image none", "!no disk image is named"},
		{"create web-05 --network none", "!no network is named"},
		{"delete web-04", ""},
		{"info web-01", "!is a template"},
		{"template unmark web-03", "!is a machine"},
		{"volume delete spare", ""},
		{"volume delete nothing", "!no disk image is named"},
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
		{"tour", "✓ clean up"},
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

// TestGuide runs each command of the guide, one after the other, on a state
// file as the guide says.
func TestGuide(t *testing.T) {
	text, err := os.ReadFile("../../docs/guides/hv.md")
	if err != nil {
		t.Fatal(err)
	}
	hv := hvOn(t, "fake:///"+strings.TrimPrefix(filepath.ToSlash(filepath.Join(t.TempDir(), "lab.json")), "/"))
	n := 0
	for line := range strings.Lines(string(text)) {
		command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ hv ")
		if !ok {
			continue
		}
		n++
		if _, err := hv(command); err != nil {
			t.Errorf("hv %s: %v", command, err)
		}
	}
	if n < 15 {
		t.Errorf("the guide has %d commands", n)
	}
}

// TestCommandsInPages: each command of hv that the pages mention in backquotes is one that hv accepts.
func TestCommandsInPages(t *testing.T) {
	command := regexp.MustCompile("`(?:go run \\./examples/)?hv ([^`]+)`")
	n := 0
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../docs/guides/*.md"} {
		pages, err := filepath.Glob(pattern)
		if err != nil || len(pages) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, page := range pages {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range command.FindAllStringSubmatch(string(text), -1) {
				n++
				if strings.HasPrefix(m[1], "--") { // a flag alone
					m[1] += " vms"
				}
				if _, err := parser(new(cli)).Parse(strings.Fields(m[1])); err != nil {
					t.Errorf("%s has hv %s: %v", page, m[1], err)
				}
			}
		}
	}
	if n < 12 {
		t.Errorf("the pages mention %d commands", n)
	}
}

// TestConnections: -c takes the names of connections, and one is the default.
func TestConnections(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	secret := filepath.Join(dir, "password")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(secret, "s3cret\n")
	write(file, "current: lab\nconnections:\n  lab: {url: 'fake://hv-lab'}\n  pool: {url: 'xapi://root@pool', passwordFile: '"+secret+"'}\n")
	c, err := readConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"": "fake://hv-lab", "lab": "fake://hv-lab", "pool": "xapi://root@pool", "kvm:///system": "kvm:///system"} {
		at, login, err := c.target(name)
		if err != nil || at != want {
			t.Errorf("%q is %q (%v), want %q", name, at, err, want)
		}
		if (login != nil) != (name == "pool") || login != nil && (login.Username != "root" || login.Password != "s3cret") {
			t.Errorf("the login of %q is %v", name, login)
		}
	}
	if _, _, err := c.target("none"); err == nil || !strings.Contains(err.Error(), "lab, pool") || exitCode(err) != 2 {
		t.Errorf("a connection that is not there: %v", err)
	}
	write(file, "connection: {}\n")
	if _, err := readConfig(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a misspelt key: %v", err)
	}
	if _, err := readConfig(filepath.Join(dir, "none")); err == nil {
		t.Error("a file that was asked for and is not there is no error")
	}
}

// TestExitCodes: hv's status says what kind of error it was, and its help says
// so.
func TestExitCodes(t *testing.T) {
	seen := map[int]bool{}
	for kind, code := range exitCodes {
		if got := exitCode(hypervisor.Errorf(kind, hypervisor.Ref{}, "x")); got != code || seen[code] {
			t.Errorf("%s exits with %d", kind, got)
		}
		if seen[code] = true; !strings.Contains(exitHelp, fmt.Sprintf(" %d ", code)) {
			t.Errorf("the help lacks status %d of %s", code, kind)
		}
	}
	if got := exitCode(&hypervisor.DetachedError{}); got != exitDetached {
		t.Errorf("detached work exits with %d", got)
	}
	_, err := parser(new(cli)).Parse([]string{"vms", "--nothing"})
	if exitCode(err) != 2 {
		t.Errorf("%v exits with %d", err, exitCode(err))
	}
}

// TestProgram runs the program itself: help without arguments, a status, and
// what a shell asks for completion.
func TestProgram(t *testing.T) {
	hv, err := os.Executable() // TestMain makes it hv
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, line string
		status     int
		want       string
	}{
		{"", "", 0, "snapshot"},
		{"info nothing", "", 3, "not found"},
		{"no-such-command", "", 2, "unexpected argument"},
		{"completion bash", "", 0, "complete -C hv hv"},
		{"", "hv sna", 0, "snapshot"},
		{"", "hv snapshot re", 0, "revert"},
	} {
		cmd := exec.Command(hv, strings.Fields(c.args)...)
		cmd.Env = append(os.Environ(), "HV_TEST_PROGRAM=1", "HV_CONFIG=testdata/empty.yaml")
		if c.line != "" {
			cmd.Env = append(cmd.Env, "COMP_LINE="+c.line, fmt.Sprintf("COMP_POINT=%d", len(c.line)))
		}
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != c.status || !strings.Contains(string(out), c.want) {
			t.Errorf("hv %s (completing %q) exited with %d and printed %q, want %d and %q", c.args, c.line, got, out, c.status, c.want)
		}
	}
}
