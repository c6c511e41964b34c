package wql

import (
	"errors"
	"strings"
	"testing"

	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/cimx"
	"github.com/anyvisor/anyvisor/hyperv/hvsim/internal/schema"
)

func machine(t testing.TB) *cimx.Instance {
	c := schema.Lookup("root/virtualization/v2", schema.Newest).Class("Msvm_ComputerSystem")
	if c == nil {
		t.Fatal("no class")
	}
	return cimx.New(c, "HV01").Set("CreationClassName", "Msvm_ComputerSystem").Set("Name", "AB").Set("ElementName", `it's 100% "x\y"`).Set("EnabledState", 2).
		Set("OnTimeInMilliseconds", uint64(1)<<40)
}

func TestWhere(t *testing.T) {
	i := machine(t)
	for cond, want := range map[string]bool{
		`EnabledState = 2`: true, `EnabledState = '2'`: true, `2 = EnabledState`: true, `EnabledState <> 3`: true, `EnabledState != 2`: false,
		`EnabledState > 1 AND EnabledState <= 2`: true, `3 > EnabledState`: true, `EnabledState = 3 OR Name = 'ab'`: true, `NOT EnabledState = 2`: false,
		`(EnabledState = 3 OR Name = "AB") AND NOT (Caption IS NOT NULL)`: true, `Caption IS NULL`: true, `Caption = NULL`: true, `Name <> NULL`: true,
		`Caption = 'x'`: false, `Caption <> 'x'`: false, // NULL compares with nothing
		`ElementName = 'it\'s 100% "x\\y"'`: true, `ElementName LIKE 'it_s%'`: true, `ElementName LIKE '%[%]%'`: true, `ElementName LIKE '%\\y"'`: true,
		`Name LIKE '[a-c]_'`: true, `Name LIKE '[^a]B'`: false, `Name NOT LIKE 'X%'`: true, `Name LIKE 'A'`: false, `Name LIKE ''`: false,
		`OnTimeInMilliseconds = 1099511627776`: true, `OnTimeInMilliseconds > 0x10`: true, `__CLASS = 'msvm_computersystem'`: true,
	} {
		q, err := Parse("SELECT * FROM Msvm_ComputerSystem WHERE " + cond)
		if err != nil {
			t.Errorf("%s: %v", cond, err)
			continue
		}
		if err := Check(q, i.Class); err != nil {
			t.Errorf("%s: %v", cond, err)
		}
		if got := MatchInstance(q.Where, i); got != want {
			t.Errorf("%s is %v", cond, got)
		}
	}
}

func TestRefused(t *testing.T) {
	c := machine(t).Class
	for _, s := range []string{
		"", "SELECT", "SELECT * FROM", "SELECT FROM X", "SELECT * FROM X WHERE", "SELECT * FROM X WHERE a", "SELECT * FROM X WHERE a = ", "SELECT * FROM X WHERE a = 'b", "DELETE FROM X",
		"SELECT * FROM X WHERE a = 'b'c'", "SELECT * FROM X WHERE (a = 1", "SELECT * FROM X ORDER BY a", "SELECT a, FROM X", "SELECT * FROM X WHERE a LIKE 1", "SELECT * FROM X WHERE a == 1",
		"ASSOCIATORS OF x", "ASSOCIATORS OF {}", "ASSOCIATORS OF {x WHERE", "ASSOCIATORS OF {x} WHERE", "ASSOCIATORS OF {x} WHERE Nope = y", "REFERENCES OF {x} WHERE AssocClass = y", "SELECT * FROM X WHERE a IS 1", "SELECT ; FROM X",
	} {
		if _, err := Parse(s); !errors.Is(err, ErrQuery) {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"SELECT Nope FROM X", "SELECT * FROM X WHERE Nope = 1", "SELECT * FROM X WHERE NOT (Name = 'a' OR Nope IS NULL)", "SELECT * FROM X WHERE EnabledState = 'on'", "SELECT * FROM X WHERE OperationalStatus = 2"} {
		q, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(q, c); !errors.Is(err, ErrQuery) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestAssociators(t *testing.T) {
	q, err := Parse(`associators of {Msvm_X.Name="a}b",Other="c\"}"} where AssocClass = A ResultClass=B Role = r ResultRole=s KeysOnly`)
	if err != nil || q.Kind != Associators || q.Path != `Msvm_X.Name="a}b",Other="c\"}"` || q.AssocClass != "A" || q.ResultClass != "B" || q.Role != "r" || q.ResultRole != "s" || !q.KeysOnly {
		t.Fatalf("%+v %v", q, err)
	}
	q, err = Parse(`SELECT * FROM __InstanceModificationEvent WITHIN 0.5 WHERE TargetInstance ISA 'X' AND TargetInstance.A <> PreviousInstance.A`)
	if err != nil || q.Within != 0.5 {
		t.Fatalf("%+v %v", q, err)
	}
}

// FuzzParse: no text makes the parser fail in another way than by ErrQuery, and what is quoted as WQL demands comes back.
func FuzzParse(f *testing.F) {
	f.Add(`it's \ "x" %_[] }{`)
	f.Add("SELECT * FROM X")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := Parse(s); err != nil && !errors.Is(err, ErrQuery) {
			t.Fatalf("%q: %v", s, err)
		}
		q, err := Parse("SELECT * FROM X WHERE Name = '" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'")
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if c := q.Where.(Compare); c.Value != s {
			t.Fatalf("%q became %q", s, c.Value)
		}
	})
}
