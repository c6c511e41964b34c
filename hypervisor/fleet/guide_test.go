package fleet_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestGuide looks whether the code in the guide is part of an example, so that
// it compiles. The guide is in another module.
func TestGuide(t *testing.T) {
	text, err := os.ReadFile("../../docs/guides/fleets.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := ""
	for _, file := range []string{"example_test.go", "dbosfleet/example_test.go"} {
		e, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		examples += string(e)
	}
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	if len(blocks) == 0 {
		t.Error("the guide has no code")
	}
	for _, b := range blocks {
		if !strings.Contains(examples, b[1]) {
			t.Errorf("no example has this code of the guide:\n%s", b[1])
		}
	}
}
