package hypervisortest

import (
	"maps"
	"slices"
	"testing"
)

// Each field has a row, and each row a field.
func TestFieldRows(t *testing.T) {
	for _, x := range []struct {
		area   area
		fields []field
	}{{fields, requestFields()}, {results, resultFields()}} {
		want := map[string]bool{}
		for _, f := range x.fields {
			want[f.String()] = true
		}
		for _, r := range x.area.rows {
			if !want[r.name] {
				t.Errorf("%s/%s is the row of no field, or the second of one", x.area.name, r.name)
			}
			delete(want, r.name)
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			t.Errorf("%s has no row in area %s", name, x.area.name)
		}
		if len(x.fields) < 100 {
			t.Errorf("area %s has %d fields", x.area.name, len(x.fields))
		}
	}
}
