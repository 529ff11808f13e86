// Package procs reads the process tree from /proc.
package procs

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// Children maps a process to its children, for every process in this pid namespace.
func Children() (map[int][]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	tree := make(map[int][]int)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		// A process that has gone since the listing is no error.
		if parent, ok := parentOf(name); ok {
			tree[parent] = append(tree[parent], pid)
		}
	}
	return tree, nil
}

func parentOf(name string) (int, bool) {
	stat, err := os.ReadFile("/proc/" + name + "/stat")
	if err != nil {
		return 0, false
	}
	// pid (comm) state ppid ...; comm may hold blanks and brackets, so count from its last bracket.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(string(fields[1]))
	return parent, err == nil
}

// Below lists the descendants of pid, parents first, without the subtrees of the pids in spare.
func Below(tree map[int][]int, pid int, spare map[int]bool) []int {
	var found []int
	queue := []int{pid}
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		for _, child := range tree[next] {
			if !spare[child] {
				found = append(found, child)
				queue = append(queue, child)
			}
		}
	}
	return found
}

// KillBelow sends SIGKILL to every descendant of pid but the subtrees in spare, and says how many there were.
// Callers repeat it until none is left: a process may fork between the listing and its death.
func KillBelow(pid int, spare map[int]bool) (int, error) {
	tree, err := Children()
	if err != nil {
		return 0, err
	}
	found := Below(tree, pid, spare)
	for _, target := range found {
		// ESRCH: it ended by itself. EPERM cannot be mended here; the caller's loop reports what stays.
		_ = syscall.Kill(target, syscall.SIGKILL)
	}
	return len(found), nil
}
