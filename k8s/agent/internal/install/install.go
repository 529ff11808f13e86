// Package install puts the agent into a box whose image knows nothing of it: the work of a Pod's init container.
package install

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Main copies the running program into the folder args[0], under its own name.
func Main(args []string) int {
	if len(args) != 1 {
		return complain(2, errors.New("usage: envfarm-agent install FOLDER"))
	}
	if err := copySelf(filepath.Join(args[0], "envfarm-agent")); err != nil {
		return complain(5, err)
	}
	return 0
}

func copySelf(path string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o555)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		_ = to.Close()
		return err
	}
	return to.Close()
}

func complain(code int, err error) int {
	fmt.Fprintf(os.Stderr, "envfarm-agent: %v\n", err)
	return code
}
