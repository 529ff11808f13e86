// Command envfarm-agent is the process inside (install, serve, child) and around (launch, reap) an envfarm box.
package main

import (
	"fmt"
	"os"

	"envfarm/agent/internal/child"
	"envfarm/agent/internal/host"
	"envfarm/agent/internal/install"
	"envfarm/agent/internal/serve"
)

const usage = "usage: envfarm-agent serve|install|launch|reap [options]\n"

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "serve":
		os.Exit(serve.Main(args))
	case "install":
		os.Exit(install.Main(args))
	case "child":
		os.Exit(child.Main())
	case "launch":
		os.Exit(host.Launch(args))
	case "reap":
		os.Exit(host.Reap(args))
	}
	fmt.Fprint(os.Stderr, usage)
	os.Exit(2)
}
