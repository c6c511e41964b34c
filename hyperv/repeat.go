package hyperv

import (
	"context"
	"errors"
	"fmt"

	"github.com/anyvisor/anyvisor/hyperv/internal/cim"
)

// refusals is how often a call is made that the host refuses because of a
// state that may pass. This takes some seconds in all. Hyper-V has the same
// codes for a wrong state and for a machine that it is at work on, even after
// the last job has ended. os-win and microsoft/wmi repeat settings for that
// reason.
const refusals = 12

// repeatable are the methods that are called again. A refused call has done
// nothing, so that no call is done twice. These methods may be refused for a
// machine that the driver has just found ready.
var repeatable = map[string]bool{
	"AddResourceSettings": true, "ModifyResourceSettings": true, "RemoveResourceSettings": true,
	"AddFeatureSettings": true, "ModifyFeatureSettings": true, "RemoveFeatureSettings": true, "ModifySystemSettings": true,
	"ExportSystemDefinition": true, "ImportSystemDefinition": true, "RealizePlannedSystem": true, "DestroySystem": true,
	"DestroySnapshot": true, "DestroySnapshotTree": true,
}

// passing reports whether a method, or the job that it started, was refused
// for a state that may pass: the system is in use, or in an invalid state.
func passing(method string, err error) bool {
	var e *cim.Error
	if !repeatable[method] || !errors.As(err, &e) {
		return false
	}
	code := e.Return
	if e.Job != nil && !e.Job.Cancelled {
		code = e.Job.Code
	}
	return code == cim.ReturnInUse || code == cim.ReturnInvalidState
}

// persist makes a call, and repeats it while the host refuses it because of a
// state that may pass.
func (d *driver) persist(ctx context.Context, method string, call func() error) error {
	for step := 1; ; step++ {
		err := call()
		if !passing(method, err) {
			return err
		}
		if step == refusals {
			return fmt.Errorf("the host refused it %d times; call again when its work on the machine has ended: %w", step, err)
		}
		if d.poll.Next(ctx, step) != nil {
			return err
		}
	}
}
