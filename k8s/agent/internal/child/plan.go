package child

import (
	"os"
	"strings"
	"syscall"
)

// Request is what the agent asks of a supervisor: one command.
type Request struct {
	Argv     []string `json:"argv"`
	Cwd      string   `json:"cwd"`
	Env      []string `json:"env"`
	ReportFD bool     `json:"report_fd"`
	Limits   Limits   `json:"limits"`
}

// Limits become rlimits of the command and all that descends from it. Zero leaves the inherited limit, but for core
// dumps: those are off unless asked for.
type Limits struct {
	Nproc      uint64 `json:"nproc"` // counts threads of this user in the user namespace, the agent's too
	FsizeBytes uint64 `json:"fsize_bytes"`
	AsBytes    uint64 `json:"as_bytes"`
	Nofile     uint64 `json:"nofile"`
	CPUSec     uint64 `json:"cpu_sec"`
	Core       uint64 `json:"core"`
}

// Status is what a supervisor says once the command and all its descendants are gone.
type Status struct {
	Started  bool    `json:"started"`
	Problem  string  `json:"problem,omitempty"` // why it did not start
	Code     int     `json:"code"`              // exit status; of a command that did not start, what a shell would give
	Signal   int     `json:"signal"`
	Killed   bool    `json:"killed"` // the agent's kill came before the command's own end
	CPUSec   float64 `json:"cpu_sec"`
	MaxRSSKB int64   `json:"max_rss_kb"`
}

const (
	rlimitCPU    = syscall.RLIMIT_CPU
	rlimitFsize  = syscall.RLIMIT_FSIZE
	rlimitCore   = syscall.RLIMIT_CORE
	rlimitNproc  = 6 // package syscall lacks it
	rlimitNofile = syscall.RLIMIT_NOFILE
	rlimitAs     = syscall.RLIMIT_AS

	defaultNofile = 65536
)

// resourceLimit is one argument pair of prlimit64.
type resourceLimit struct {
	resource uintptr
	value    syscall.Rlimit
}

// table resolves the limits. No hard limit is ever raised: where the inherited one is lower, it holds.
func (l Limits) table() ([]resourceLimit, error) {
	if l.Nofile == 0 {
		// The Go runtime has raised the soft limit of this process; unbounded, it makes programs that close "all"
		// descriptors crawl.
		l.Nofile = defaultNofile
	}
	wanted := []resourceLimit{
		limit(rlimitCore, l.Core, 0),
		limit(rlimitNofile, l.Nofile, 0),
	}
	for _, next := range []resourceLimit{
		limit(rlimitNproc, l.Nproc, 0),
		limit(rlimitFsize, l.FsizeBytes, 0),
		limit(rlimitAs, l.AsBytes, 0),
		limit(rlimitCPU, l.CPUSec, 1), // SIGXCPU first, SIGKILL a second later
	} {
		if next.value.Cur > 0 {
			wanted = append(wanted, next)
		}
	}
	for index := range wanted {
		var held syscall.Rlimit
		if err := syscall.Getrlimit(int(wanted[index].resource), &held); err != nil {
			return nil, err
		}
		value := &wanted[index].value
		value.Max = min(value.Max, held.Max)
		value.Cur = min(value.Cur, value.Max)
	}
	return wanted, nil
}

func limit(resource int, value, grace uint64) resourceLimit {
	return resourceLimit{uintptr(resource), syscall.Rlimit{Cur: value, Max: value + grace}}
}

// candidates lists the paths execve tries, as execvp does: the name itself where it holds a slash, else one for each
// folder of the command's own PATH.
func candidates(name string, env []string) []string {
	if name == "" || strings.Contains(name, "/") {
		return []string{name}
	}
	path := "/usr/local/bin:/usr/bin:/bin"
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value
		}
	}
	var found []string
	for _, folder := range strings.Split(path, ":") {
		if folder == "" {
			folder = "."
		}
		found = append(found, folder+"/"+name)
	}
	return found
}

// refusal is the status of a command that execve refused: 127 for nothing there, 126 for something that cannot run.
func refusal(what string, errno error) Status {
	if os.IsNotExist(errno) || errno == syscall.ENOTDIR {
		return Status{Code: 127, Problem: what + ": not found"}
	}
	return Status{Code: 126, Problem: what + ": " + errno.Error()}
}
