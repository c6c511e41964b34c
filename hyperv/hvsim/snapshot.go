package hvsim

// autoCheckpoint takes the automatic checkpoint of a starting machine [D: "Automatic checkpoints"].
func (m *machine) autoCheckpoint() {}
