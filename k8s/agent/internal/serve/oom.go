package serve

import (
	"os"
	"strconv"
	"strings"
)

// Files in which the kernel counts processes that it killed for want of memory in the box's own cgroup, where the box
// can read them: a container can, a box of the local provider cannot (there the host counts).
var oomFiles = []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"}

// oomKills is the count; -1 where there is none.
func oomKills() int64 {
	for _, path := range oomFiles {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(text), "\n") {
			if value, found := strings.CutPrefix(line, "oom_kill "); found {
				if count, err := strconv.ParseInt(value, 10, 64); err == nil {
					return count
				}
			}
		}
	}
	return -1
}
