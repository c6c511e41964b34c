package hypervisor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anyvisor/anyvisor/hypervisor"
	"github.com/anyvisor/anyvisor/hypervisor/capability"
	"github.com/anyvisor/anyvisor/hypervisor/op"
)

func init() {
	hypervisor.Register("stub", func(_ context.Context, u *url.URL, o *hypervisor.Options) (hypervisor.Driver, error) {
		if u.Host == "bad" {
			return nil, hypervisor.Errorf(hypervisor.ErrUnauthenticated, hypervisor.Ref{}, "login refused")
		}
		return &stub{support: map[capability.Name]hypervisor.Support{
			capability.CloneFull: {Level: hypervisor.LevelYes}, capability.CloneLinked: {Level: hypervisor.LevelNo, Reason: hypervisor.ReasonEdition, Detail: "not in this edition"}}}, nil
	})
}

func TestOpen(t *testing.T) {
	for name, tc := range map[string]struct {
		url     string
		require []capability.Name
		want    error
		text    string
	}{
		"good":                {"stub://", []capability.Name{capability.CloneFull}, nil, ""},
		"scheme with a tail":  {"stub+ssh://host", nil, nil, ""},
		"unknown scheme":      {"nosuch://host", nil, hypervisor.ErrInvalidArgument, "stub"},
		"malformed":           {"stub://%zz:s3cret@h", nil, hypervisor.ErrInvalidArgument, ""},
		"refused":             {"stub://user:s3cret@bad/", nil, hypervisor.ErrUnauthenticated, "login refused"},
		"refused parameter":   {"stub://user@bad/?password=s3cret", nil, hypervisor.ErrUnauthenticated, "login refused"},
		"missing capability":  {"stub://u:s3cret@good", []capability.Name{capability.CloneLinked}, hypervisor.ErrUnsupported, "edition"},
		"unproven capability": {"stub://", []capability.Name{capability.MigrateLive}, hypervisor.ErrUnsupported, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := hypervisor.Open(t.Context(), tc.url, &hypervisor.Options{Require: tc.require})
			if tc.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%v, want %v with %q", err, tc.want, tc.text)
			}
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

func TestCredentialsHideTheirPassword(t *testing.T) {
	c := hypervisor.Credentials{Username: "root", Password: "s3cret"}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "c", c, "p", &c)
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s", c, c, c, &c), fmt.Sprintf("%+v", hypervisor.Options{Credentials: &c}), log.String()} {
		if strings.Contains(s, "s3cret") {
			t.Errorf("the password shows in %s", s)
		}
	}
}

func TestReadsAreRepeatedOnce(t *testing.T) {
	for fails, want := range map[int]bool{0: true, 1: true, 2: false} {
		s := &stub{vms: []hypervisor.VMInfo{{ID: "1", Name: "one"}}}
		for range fails {
			s.listErr = append(s.listErr, errNative)
		}
		c := open(t, s, nil)
		all, err := hypervisor.Collect(c.VMs(t.Context(), nil))
		if (err == nil) != want || want && len(all) != 1 {
			t.Errorf("%d broken connections: %v, %d machines", fails, err, len(all))
		}
		if err != nil && !errors.Is(err, hypervisor.ErrUnavailable) || err != nil && !errors.Is(err, errNative) {
			t.Errorf("the error is %v, want ErrUnavailable and the native one", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestMissingAbility(t *testing.T) {
	s := &stub{support: map[capability.Name]hypervisor.Support{capability.CloneFull: {Level: hypervisor.LevelNo, Reason: hypervisor.ReasonAPIVersion, Detail: "too old"}}}
	c := open(t, s, nil)
	defer c.Close()
	_, err := c.VM("1").Clone(t.Context(), "copy", nil).Wait(t.Context())
	var u *hypervisor.UnsupportedError
	if !errors.Is(err, errors.ErrUnsupported) || !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonAPIVersion {
		t.Errorf("%v, want Unsupported with the reason that Supports gives", err)
	}
	_, err = c.VM("1").CreateSnapshot(t.Context(), "s", nil).Wait(t.Context())
	if !errors.As(err, &u) || u.Support.Reason != hypervisor.ReasonNotImplemented {
		t.Errorf("%v, want not-implemented", err)
	}
}

func TestAs(t *testing.T) {
	s := &stub{}
	c := open(t, s, nil)
	defer c.Close()
	if got, err := hypervisor.As[*stub](t.Context(), c, c.VM("1")); err != nil || got != s {
		t.Error("As doesn't give the driver's own object")
	}
	if _, err := hypervisor.As[int](t.Context(), c, c); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Error("As gives an int")
	}
}

func TestObserverAndLogger(t *testing.T) {
	type seen struct {
		op  hypervisor.Call
		end hypervisor.CallEnd
	}
	var got []seen
	var log bytes.Buffer
	s := &stub{vms: []hypervisor.VMInfo{{ID: "1"}}}
	s.start = func(context.Context) (hypervisor.DriverTask, error) {
		return hypervisor.DoneTask("job", hypervisor.TaskState{Err: errNative}), nil
	}
	c := open(t, s, &hypervisor.Options{
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Observer: func(ctx context.Context, op hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
			return ctx, func(e hypervisor.CallEnd) { got = append(got, seen{op, e}) }
		},
	})
	if _, err := hypervisor.Collect(c.VMs(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.VM("1").Start(t.Context()).Wait(t.Context()); err == nil {
		t.Fatal("Start succeeded")
	}
	_ = c.VM("1").Start(t.Context()) // nobody waits: its end is the Client's
	if len(got) != 2 {
		t.Fatalf("%d operations have ended, want 2", len(got))
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Fatalf("after Close %d operations have ended, want 3", len(got))
	}
	if g := got[0]; g.op.Name != op.VMList || g.op.Driver != "stub" || g.end.Calls != 1 || g.end.Err != nil {
		t.Errorf("the listing was observed as %+v", g)
	}
	if g := got[1]; g.op.Name != op.VMStart || g.op.Object.ID != "1" || g.end.Task != "job" || g.end.Kind != hypervisor.ErrUnavailable {
		t.Errorf("the start was observed as %+v", g)
	}
	if l := log.String(); !strings.Contains(l, "vm.list") || !strings.Contains(l, "level=WARN msg=vm.start") {
		t.Errorf("the log is %s", l)
	}
}

func TestWatchPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stub{vms: []hypervisor.VMInfo{{ID: "1", State: hypervisor.StateOff}, {ID: "2", State: hypervisor.StateRunning, Host: "a"}}}
		c := open(t, s, nil)
		defer c.Close()
		go func() {
			time.Sleep(7 * time.Second)
			s.mu.Lock()
			s.vms = []hypervisor.VMInfo{{ID: "1", State: hypervisor.StateRunning}, {ID: "2", State: hypervisor.StateRunning, Host: "b"}, {ID: "3"}}
			s.mu.Unlock()
			time.Sleep(5 * time.Second)
			s.mu.Lock()
			s.vms = s.vms[1:]
			s.mu.Unlock()
		}()
		want := map[string]hypervisor.EventType{"1": hypervisor.EventVMState, "2": hypervisor.EventVMMigrated, "3": hypervisor.EventVMCreated}
		for e, err := range c.Watch(t.Context(), "from earlier") {
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case e.Type == hypervisor.EventResync:
			case e.Type == hypervisor.EventVMDeleted && e.Object.ID == "1":
				if len(want) != 0 {
					t.Errorf("not told before: %v", want)
				}
				return
			case want[e.Object.ID] == e.Type:
				delete(want, e.Object.ID)
			default:
				t.Errorf("told %+v", e)
			}
		}
	})
}

// TestObserverHearsOfCloseInBetween: work that a driver accepts while its
// Client closes is told to have ended, once.
func TestObserverHearsOfCloseInBetween(t *testing.T) {
	ends := 0
	s := &stub{}
	c, err := hypervisor.New(t.Context(), s, &hypervisor.Options{
		Observer: func(ctx context.Context, _ hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
			return ctx, func(hypervisor.CallEnd) { ends++ }
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.start = func(context.Context) (hypervisor.DriverTask, error) {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		return hypervisor.DoneTask("late", hypervisor.TaskState{}), nil
	}
	if err := c.VM("1").Start(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if ends != 1 {
		t.Errorf("the end was told %d times, want once", ends)
	}
}

// TestObserverOfAFind: a name that no machine, or more than one, has is an error
// to the Observer too.
func TestObserverOfAFind(t *testing.T) {
	var got []hypervisor.CallEnd
	c := open(t, &stub{vms: []hypervisor.VMInfo{{ID: "1", Name: "a"}, {ID: "2", Name: "b"}, {ID: "3", Name: "b"}}}, &hypervisor.Options{
		Observer: func(ctx context.Context, _ hypervisor.Call) (context.Context, func(hypervisor.CallEnd)) {
			return ctx, func(e hypervisor.CallEnd) { got = append(got, e) }
		},
	})
	for name, want := range map[string]hypervisor.Kind{"a": hypervisor.ErrUnknown, "b": hypervisor.ErrAmbiguous, "c": hypervisor.ErrNotFound} {
		got = nil
		_, err := c.FindVM(t.Context(), name)
		if len(got) != 1 || !errors.Is(got[0].Err, err) || err != nil && got[0].Kind != want || (err == nil) != (name == "a") {
			t.Errorf("FindVM(%q): %v, observed as %+v", name, err, got)
		}
	}
}
