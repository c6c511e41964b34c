package main

import "fmt"

// completionCmd prints what a user puts into the shell's start-up file. The
// shell then runs hv with COMP_LINE in the environment, which kongcompletion
// answers.
type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish"`
}

var completions = map[string]string{
	"bash": "complete -C hv hv",
	"zsh":  "autoload -U +X bashcompinit && bashcompinit && complete -C hv hv",
	"fish": `complete -c hv -f -a '(set -lx COMP_LINE (commandline -cp); set -lx COMP_POINT (string length "$COMP_LINE"); hv)'`,
}

func (k *completionCmd) Run(a *app) error {
	_, err := fmt.Fprintln(a.out, completions[k.Shell])
	return err
}
