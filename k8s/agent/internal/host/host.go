// Package host holds the host-side half of the local provider: starting a box and reaping what outlived its owner.
package host

import (
	"fmt"
	"os"
)

// Launch starts a box and returns the exit code.
func Launch(args []string) int { return unavailable("launch") }

// Reap ends boxes whose owner is gone and returns the exit code.
func Reap(args []string) int { return unavailable("reap") }

func unavailable(name string) int {
	fmt.Fprintf(os.Stderr, "envfarm-agent: this build has no %s\n", name)
	return 2
}
