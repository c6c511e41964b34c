package hypervisor

// PlaceRequest describes a machine that looks for a host.
type PlaceRequest struct {
	VM VMID // an existing machine; else:

	CPUs        int
	MemoryBytes int64
	Datastore   DatastoreID
	Device      *DeviceRequest
}

// Recommendation is a host that would take the machine.
type Recommendation struct {
	Host   HostID  `json:"host"`
	Score  float64 `json:"score"` // 0 to 1, higher is better
	Reason string  `json:"reason,omitempty"`
	Native bool    `json:"native"` // from the platform's scheduler
}

// Move is one step of a plan.
type Move struct {
	VM     VMID   `json:"vm"`
	From   HostID `json:"from"`
	To     HostID `json:"to"`
	Reason string `json:"reason,omitempty"`
	Native bool   `json:"native"`
}
