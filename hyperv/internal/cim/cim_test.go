package cim_test

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"
	"testing/quick"
	"time"
	"unicode"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

// hostile are texts that break careless quoting.
var hostile = []string{"", " ", "plain", `a'b`, `a"b`, `a\b\`, `\'`, `%_[]^`, "<a>&amp;</a>", "]]>", "<![CDATA[x]]>", "ünïcode 日本 🖥", "tab\tline\nreturn\r", `C:\x\y.vhdx`, `a,b="c"`, "{a} WHERE"}

func TestEmbeddedRoundTrip(t *testing.T) {
	for _, s := range hostile {
		e := cim.NewEmbedded("Msvm_X", "Text", s, "Array", []string{s, "two", s}, "Flag", true, "N", uint64(1<<63), "Neg", int32(-5))
		got, err := cim.ParseInstance(e.XML())
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if got.Class != "Msvm_X" || got.Str("Text") != s || got.Uint("N") != 1<<63 || !got.Bool("Flag") || got.Get("Neg").Int() != -5 {
			t.Errorf("%q came back as %+v", s, got)
		}
		if a := got.Strs("Array"); len(a) != 3 || a[0] != s || a[2] != s {
			t.Errorf("array of %q came back as %q", s, a)
		}
	}
}

// valid are the texts that XML can carry.
func valid(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return r == unicode.ReplacementChar || r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF
	}) < 0
}

func TestRoundTripsOfAnyText(t *testing.T) {
	roundTrip := func(s string, n uint8) bool {
		if !valid(s) {
			return true
		}
		k := "Key" + string('A'+rune(n%26))
		inner := cim.NewEmbedded("Msvm_Inner", "A", s)
		outer, err := cim.ParseInstance(cim.NewEmbedded("Msvm_Outer", "E", inner, "B", s).XML())
		if err != nil {
			t.Errorf("%q: %v", s, err)
			return false
		}
		if in := outer.Insts("E"); len(in) != 1 || in[0].Str("A") != s || outer.Str("B") != s {
			t.Errorf("%q came back as %+v", s, outer)
			return false
		}
		r := cim.NewRef("Msvm_X", k, s)
		back, err := cim.ParsePath(r.Path())
		if err != nil || !back.Equal(r) || back.Namespace != cim.Virtualization || back.Key(k) != s {
			t.Errorf("%s came back as %+v, %v", r, back, err)
			return false
		}
		return true
	}
	for _, s := range hostile {
		roundTrip(s, 0)
	}
	if err := quick.Check(roundTrip, nil); err != nil {
		t.Error(err)
	}
}

func TestParsePath(t *testing.T) {
	r, err := cim.ParsePath(`\\HV01\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="a\\b\"c"`)
	if err != nil || r.Server != "HV01" || r.Class != "Msvm_ComputerSystem" || r.Key("name") != `a\b"c` {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = cim.ParsePath(`Win32_X.Id=5,Name="n"`); err != nil || r.Key("Id") != "5" || r.Key("Name") != "n" || r.Namespace != "" {
		t.Errorf("%+v, %v", r, err)
	}
	for _, bad := range []string{"", "C", `C.`, `C.K`, `C.K=`, `C.K="x`, `C.K="x"y`, `C.K="x",`, `\\h`, `=1`, `.K="x"`} {
		if r, err := cim.ParsePath(bad); err == nil {
			t.Errorf("%q was taken as %+v", bad, r)
		}
	}
}

func TestQuoting(t *testing.T) {
	for in, want := range map[string]string{`a`: `'a'`, `a'b`: `'a\'b'`, `a\`: `'a\\'`} {
		if got := cim.Quote(in); got != want {
			t.Errorf("Quote(%q) = %s, want %s", in, got, want)
		}
	}
	if got := cim.LikePrefix(`1%_[`); got != `'1[%][_][[]%'` {
		t.Errorf("LikePrefix: %s", got)
	}
	if got := cim.Selected(cim.Select("C", []string{"A", "B"}, "A = '1'")); len(got) != 2 || got[1] != "B" {
		t.Errorf("Selected: %q", got)
	}
	for _, all := range []string{cim.Select("C", nil), "ASSOCIATORS OF {C.K=1}"} {
		if got := cim.Selected(all); got != nil {
			t.Errorf("Selected(%s): %q", all, got)
		}
	}
	q := cim.AssociatorsOf(cim.NewRef("C", "K", `a"b`), cim.Assoc{Class: "A", Result: "R"})
	if q != `ASSOCIATORS OF {C.K="a\"b"} WHERE AssocClass = A ResultClass = R` {
		t.Error(q)
	}
	if q := cim.ReferencesOf(cim.NewRef("C", "K", "x"), "A", "Dependent"); q != `REFERENCES OF {C.K="x"} WHERE ResultClass = A Role = Dependent` {
		t.Error(q)
	}
}

func TestValues(t *testing.T) {
	if n := cim.TextValue("-1").Uint(); n != 0xFFFFFFFF {
		t.Errorf("a uint32 as automation shows it: %d", n)
	}
	at := time.Date(2024, 2, 3, 4, 5, 6, 7000, time.UTC)
	for _, s := range []string{"20240203040506.000007+000", "20240203060506.000007+120", "2024-02-03T04:05:06.000007Z"} {
		if got := cim.TextValue(s).Time(); !got.Equal(at) {
			t.Errorf("%s is %v", s, got)
		}
	}
	if !cim.TextValue("nonsense").Time().IsZero() {
		t.Error("nonsense is a time")
	}
	var v cim.Value
	if !v.IsNull() || v.Strings() != nil {
		t.Error("the zero Value is not null")
	}
	for _, s := range []string{"a", "b", "c"} {
		v.Append(cim.TextValue(s))
	}
	if got := v.Strings(); len(got) != 3 || got[2] != "c" {
		t.Errorf("%q", got)
	}
}

func TestReturnCodesOfBothRanges(t *testing.T) {
	for code, want := range map[uint32]cim.Kind{
		1: cim.Unsupported, 4: cim.InvalidArgument, 5: cim.InvalidState,
		32769: cim.Permission, 32770: cim.Unsupported, 32773: cim.InvalidArgument, 32774: cim.Busy, 32775: cim.InvalidState, 32778: cim.Exhausted, 32779: cim.NotFound,
	} {
		err := (&cim.Result{Method: "M", Return: code}).Err()
		if got := cim.KindOf(err); got != want {
			t.Errorf("return value %d is kind %d, want %d", code, got, want)
		}
		if cim.ReturnOf(err) != code {
			t.Errorf("ReturnOf: %d", cim.ReturnOf(err))
		}
	}
	for _, code := range []uint32{0, 4096} {
		if err := (&cim.Result{Return: code}).Err(); err != nil {
			t.Errorf("return value %d: %v", code, err)
		}
	}
	for h, want := range map[uint32]cim.Kind{cim.WBEMNotFound: cim.NotFound, cim.WBEMAccessDenied: cim.Permission, cim.WBEMInvalidNamespace: cim.Unsupported, cim.RPCUnavailable: cim.Unavailable} {
		if got := (&cim.Error{HResult: h}).Kind(); got != want {
			t.Errorf("0x%X is kind %d, want %d", h, got, want)
		}
	}
}

// jobs is a session that knows one job, whose states it plays back.
type jobs struct {
	cim.Session
	states  []*cim.Instance
	invoked []string
}

func (j *jobs) Get(context.Context, cim.Ref) (*cim.Instance, error) {
	if len(j.states) == 0 {
		return nil, &cim.Error{Op: "get", HResult: cim.WBEMNotFound}
	}
	s := j.states[0]
	j.states = j.states[1:]
	return s, nil
}

func (j *jobs) Invoke(_ context.Context, _ cim.Ref, method string, args ...cim.Arg) (*cim.Result, error) {
	n := args[0].Value.(uint16)
	j.invoked = append(j.invoked, method)
	if n == 4 {
		return &cim.Result{Return: 32775}, nil // this one can only be killed
	}
	return &cim.Result{}, nil
}

func (j *jobs) Query(context.Context, string, string) iter.Seq2[*cim.Instance, error] { return nil }

func job(state, percent, code string) *cim.Instance {
	i := &cim.Instance{}
	i.Add("JobState", cim.TextValue(state))
	i.Add("PercentComplete", cim.TextValue(percent))
	i.Add("ErrorCode", cim.TextValue(code))
	return i
}

func TestJobs(t *testing.T) {
	ref := cim.NewRef("Msvm_ConcreteJob", "InstanceID", "1")
	quick := cim.Poll{First: time.Microsecond, Last: time.Microsecond}
	s := &jobs{states: []*cim.Instance{job("4", "10", "0"), job("4", "60", "0"), job("7", "100", "0")}}
	var seen []uint8
	if err := cim.WaitJob(t.Context(), s, ref, quick, func(st cim.JobStatus) { seen = append(seen, st.Percent) }); err != nil || len(seen) != 3 || seen[1] != 60 {
		t.Errorf("%v, progress %v", err, seen)
	}
	s.states = []*cim.Instance{job("10", "50", "32778")}
	if err := cim.WaitJob(t.Context(), s, ref, quick, nil); cim.KindOf(err) != cim.Exhausted {
		t.Errorf("a failed job: %v", err)
	}
	s.states = []*cim.Instance{job("4", "0", "0")} // and then it is gone
	if err := cim.WaitJob(t.Context(), s, ref, quick, nil); !errors.Is(err, cim.ErrJobForgotten) || cim.KindOf(err) != cim.NotFound {
		t.Errorf("a forgotten job: %v", err)
	}
	s.states = []*cim.Instance{job("9", "0", "0")}
	var ce *cim.Error
	if err := cim.WaitJob(t.Context(), s, ref, quick, nil); !errors.As(err, &ce) || ce.Job == nil || !ce.Job.Cancelled {
		t.Errorf("a killed job: %v", err)
	}
	if err := cim.CancelJob(t.Context(), s, ref); err != nil || len(s.invoked) != 2 {
		t.Errorf("CancelJob: %v after %v", err, s.invoked)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	s.states = []*cim.Instance{job("4", "0", "0"), job("4", "0", "0")}
	if err := cim.WaitJob(ctx, s, ref, cim.DefaultPoll, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}
