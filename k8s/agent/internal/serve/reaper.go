package serve

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"envfarm/agent/internal/procs"
)

// reaper is the only place that waits for processes: as PID 1 the agent inherits every orphan of the box, and a wait
// for one's own child elsewhere would race with it.
type reaper struct {
	mutex sync.Mutex
	over  bool                            // the box ends; nothing is started any more
	known map[int]chan syscall.WaitStatus // supervisors, by pid
}

func newReaper() *reaper {
	r := &reaper{known: make(map[int]chan syscall.WaitStatus)}
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, syscall.SIGCHLD)
	go func() {
		for range chld {
			r.reap()
		}
	}()
	return r
}

// start forks under the lock, so that no child is reaped before it is known.
func (r *reaper) start(argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.over {
		return 0, nil, errors.New("the box ends")
	}
	// /proc/self/exe is the very file this process runs, whatever has become of its path.
	pid, err := syscall.ForkExec("/proc/self/exe", argv, attr)
	if err != nil {
		return 0, nil, err
	}
	exited := make(chan syscall.WaitStatus, 1)
	r.known[pid] = exited
	return pid, exited, nil
}

func (r *reaper) reap() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for {
		var state syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &state, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if exited, ok := r.known[pid]; ok {
			exited <- state
			delete(r.known, pid)
		}
	}
}

// kill sends a signal to a supervisor that has not been reaped; the lock keeps its pid from being another's.
func (r *reaper) kill(pid int, signal syscall.Signal) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if _, ok := r.known[pid]; ok {
		_ = syscall.Kill(pid, signal) // ESRCH: a zombie about to be reaped
	}
}

// sweep kills what a dead supervisor left behind: only such processes are children of the agent without being
// supervisors. It says so when some are left after patience.
func (r *reaper) sweep(patience time.Duration) error {
	for until := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		r.reap()
		r.mutex.Lock()
		living := make(map[int]bool, len(r.known))
		for pid := range r.known {
			living[pid] = true
		}
		left, err := procs.KillBelow(os.Getpid(), living)
		r.mutex.Unlock()
		if err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(until) {
			return fmt.Errorf("%d processes did not end within %s of SIGKILL", left, patience)
		}
	}
}

// killAll ends the supervisors too, and forgets them: the sweep that follows is for everything.
func (r *reaper) killAll() {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.over = true
	for pid := range r.known {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		delete(r.known, pid)
	}
}
