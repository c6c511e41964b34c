package vsphere

import (
	"os"
	"testing"

	"github.com/vmware/govmomi/cli"
	_ "github.com/vmware/govmomi/cli/device"
	_ "github.com/vmware/govmomi/cli/object"
	_ "github.com/vmware/govmomi/cli/vm"
	_ "github.com/vmware/govmomi/cli/vm/snapshot"
	"go.uber.org/goleak"
)

// govcEnv makes the test's program govc: that program's own module is not
// published with versions, and its commands are in govmomi's.
const govcEnv = "ANYVISOR_TEST_GOVC"

func TestMain(m *testing.M) {
	if os.Getenv(govcEnv) != "" {
		os.Exit(cli.Run(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}
