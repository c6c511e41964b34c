package hypervisor

import (
	"context"
	"iter"

	"github.com/anyvisor/anyvisor/hypervisor/op"

	"github.com/anyvisor/anyvisor/hypervisor/capability"
)

// TemplateInfo is what is known about a template.
type TemplateInfo struct {
	ID          TemplateID        `json:"id"`
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"`
	CPUs        int               `json:"cpus"`
	MemoryBytes int64             `json:"memoryBytes"`
	Disks       []DiskInfo        `json:"disks,omitempty"`
	NICs        []NICInfo         `json:"nics,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Placement   Placement         `json:"placement"`
}

func templateInfo(v VMInfo) TemplateInfo {
	return TemplateInfo{ID: TemplateID(v.ID), Name: v.Name, Description: v.Description, CPUs: v.CPUs, MemoryBytes: v.MemoryBytes,
		Disks: v.Disks, NICs: v.NICs, Labels: v.Labels, Placement: v.Placement}
}

// Template is a handle on a machine that can't be started and serves as the
// source of new machines.
type Template struct {
	c  *Client
	id TemplateID
}

// Template returns the handle for an ID. It makes no call.
func (c *Client) Template(id TemplateID) *Template { return &Template{c, id} }

// ID returns the template's ID. It is the ID of the machine that became the
// template, where the platform keeps it.
func (t *Template) ID() TemplateID { return t.id }

// Ref returns the Ref of the template.
func (t *Template) Ref() Ref { return t.id.Ref() }

// Templates lists the templates.
func (c *Client) Templates(ctx context.Context) iter.Seq2[TemplateInfo, error] {
	return func(yield func(TemplateInfo, error) bool) {
		c.list(ctx, op.TemplateList, VMQuery{Templates: true}, nil, func(v VMInfo, err error) bool {
			return yield(templateInfo(v), err)
		})
	}
}

// FindTemplate returns the template with this name, or ErrNotFound or
// ErrAmbiguous.
func (c *Client) FindTemplate(ctx context.Context, name string) (*Template, error) {
	id, err := c.find(ctx, op.TemplateFind, ObjectTemplate, VMQuery{Detail: DetailBrief, Templates: true, Name: name})
	if err != nil {
		return nil, err
	}
	return c.Template(TemplateID(id)), nil
}

// Info reads the template. A machine that is not a template is ErrNotFound.
func (t *Template) Info(ctx context.Context) (TemplateInfo, error) {
	ctx, sp, err := t.c.begin(ctx, op.TemplateInfo, t.id.Ref())
	if err != nil {
		return TemplateInfo{}, err
	}
	v, err := retryRead(ctx, t.c, func() (VMInfo, error) { return t.c.d.GetVM(ctx, VMID(t.id)) })
	if err == nil && !v.Template {
		err = Errorf(ErrNotFound, t.id.Ref(), "this is a machine, not a template")
	}
	return templateInfo(v), sp.end(t.c.wrap(op.TemplateInfo, t.id.Ref(), err))
}

// Deploy makes a machine from the template; CloneOptions.From must be empty.
func (t *Template) Deploy(ctx context.Context, name string, o *CloneOptions) *Task[*VM] {
	r := CloneRequest{name, orDefault(o)}
	bad := checkClone(op.TemplateDeploy, t.id.Ref(), r)
	if bad == nil && r.From != "" {
		bad = invalid(op.TemplateDeploy, t.id.Ref(), "From is set: a template is deployed as it is")
	}
	if bad == nil && r.Mode == CloneModeInstant {
		bad = invalid(op.TemplateDeploy, t.id.Ref(), "a template does not run, so it can't be forked: use CloneModeFull or CloneModeLinked")
	}
	return start(ctx, t.c, op.TemplateDeploy, t.id.Ref(), r.Capability(), bad, func(ctx context.Context, d Cloner) (DriverTask, error) {
		return d.Clone(ctx, VMID(t.id), r)
	}, t.c.vmResult)
}

// MarkTemplate turns the machine, which must be Off, into a template.
func (m *VM) MarkTemplate(ctx context.Context) *Task[*Template] {
	return start(ctx, m.c, op.VMMarkTemplate, m.Ref(), capability.Templates, nil, func(ctx context.Context, d Templater) (DriverTask, error) {
		return d.MarkTemplate(ctx, m.id)
	}, func(_ context.Context, s TaskState) (*Template, error) {
		return m.c.Template(TemplateID(s.Result.ID)), nil
	})
}

// MarkVM turns the template back into a machine that can be started. It
// returns ErrBusy if linked clones depend on its disks.
func (t *Template) MarkVM(ctx context.Context, p Placement) *Task[*VM] {
	return start(ctx, t.c, op.TemplateMarkVM, t.id.Ref(), capability.Templates, nil, func(ctx context.Context, d Templater) (DriverTask, error) {
		return d.MarkVM(ctx, t.id, p)
	}, t.c.vmResult)
}

// Delete removes the template, and deletes or keeps its disks. If linked
// clones need the disks, it is refused with ErrBusy.
func (t *Template) Delete(ctx context.Context, disks DiskPolicy) *Task[None] {
	return start(ctx, t.c, op.TemplateDelete, t.id.Ref(), capability.VMDelete, checkPolicy(op.TemplateDelete, t.id.Ref(), disks), func(ctx context.Context, d Lifecycle) (DriverTask, error) {
		return d.DeleteVM(ctx, VMID(t.id), DeleteRequest{Disks: disks})
	}, noResult)
}

// SetLabels replaces the template's labels; see VM.SetLabels.
func (t *Template) SetLabels(ctx context.Context, labels map[string]string) error {
	return setLabels(ctx, t.c, op.TemplateSetLabels, t.id.Ref(), VMID(t.id), labels)
}
