package host

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// process names a process for good: a pid alone is used again, a pid with its start time is not.
type process struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, field 22 of /proc/PID/stat
}

// record is box.json, which the provider writes before it starts a box and completes afterwards.
type record struct {
	ID       string    `json:"id"`
	Provider string    `json:"provider"` // instance of the provider object, not its kind
	Owner    process   `json:"owner_process"`
	Monitor  process   `json:"monitor"` // bwrap, outside the box
	Init     process   `json:"init"`    // the agent: process 1 of the box
	Cgroups  []string  `json:"cgroups"`
	PidSpace string    `json:"pid_namespace"` // in which the pids above mean something
	Deadline time.Time `json:"deadline_at"`
	Detached bool      `json:"detached"`
}

func readRecord(dir string) (*record, error) {
	data, err := os.ReadFile(filepath.Join(dir, "box.json"))
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s/box.json: %w", dir, err)
	}
	return &r, nil
}

// here says that the record's pids are ours to judge: a home may be shared between containers.
func (r *record) here() bool {
	space, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && space == r.PidSpace
}

// overdue says that the box cannot be running any more, wherever it was: its own agent has ended it.
func (r *record) overdue() bool {
	return !r.Deadline.IsZero() && time.Now().After(r.Deadline.Add(deadlineGrace))
}

// startTime of a live process; a zombie counts as dead.
func startTime(pid int) (uint64, bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	// The name in parentheses may itself hold blanks and parentheses: the fields start after the last one.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0, false
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	return start, err == nil
}

func (p process) alive() bool {
	if p.Pid <= 0 {
		return false
	}
	start, ok := startTime(p.Pid)
	return ok && start == p.Start
}

func (p process) kill() {
	if p.alive() {
		// Gone in between is what was wanted.
		_ = syscall.Kill(p.Pid, syscall.SIGKILL)
	}
}
