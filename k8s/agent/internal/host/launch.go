// Package host holds what the agent binary does on the host, outside every box: it starts a box without our
// privileges (launch) and removes what a box leaves behind once we are gone (reap).
package host

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// list collects a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

// launchPlan is everything launch does before it becomes the command.
type launchPlan struct {
	uid, gid int // -1: keep ours
	parent   int // 0: live on without it
	cgroups  []string
	fds      map[int]int // destination -> source
	limits   map[int]uint64
	argv     []string
}

// Launch joins cgroups, gives up every privilege, sets resource limits and becomes the command. It returns only when
// it could not, with exit status 126; the reason is one line on standard error.
//
//	envfarm-agent launch [--uid U --gid G] [--die-with PID] [--cgroup DIR]... [--fd SRC:DST]...
//	                     [--core N] [--fsize N] [--nofile N] -- CMD...
func Launch(args []string) int {
	plan, err := parseLaunch(args)
	if err == nil {
		err = plan.exec()
	}
	fmt.Fprintf(os.Stderr, "launch: %v\n", err)
	return 126
}

func parseLaunch(args []string) (*launchPlan, error) {
	flags := flag.NewFlagSet("launch", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	plan := &launchPlan{fds: map[int]int{}, limits: map[int]uint64{}}
	var cgroups, fds list
	flags.IntVar(&plan.uid, "uid", -1, "user id to become")
	flags.IntVar(&plan.gid, "gid", -1, "group id to become")
	flags.IntVar(&plan.parent, "die-with", 0, "parent whose death kills the command")
	flags.Var(&cgroups, "cgroup", "cgroup folder to join")
	flags.Var(&fds, "fd", "descriptor to hand over, SRC:DST")
	limits := map[string]int{"core": syscall.RLIMIT_CORE, "fsize": syscall.RLIMIT_FSIZE, "nofile": syscall.RLIMIT_NOFILE}
	for name, resource := range limits {
		flags.Func(name, "resource limit", func(text string) error {
			value, err := strconv.ParseUint(text, 10, 64)
			plan.limits[resource] = value
			return err
		})
	}
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	for _, pair := range fds {
		from, to, _ := strings.Cut(pair, ":")
		source, err := strconv.Atoi(from)
		if err != nil {
			return nil, fmt.Errorf("--fd %q: %w", pair, err)
		}
		target, err := strconv.Atoi(to)
		if err != nil {
			return nil, fmt.Errorf("--fd %q: %w", pair, err)
		}
		plan.fds[target] = source
	}
	plan.cgroups, plan.argv = cgroups, flags.Args()
	if len(plan.argv) == 0 {
		return nil, errors.New("no command given")
	}
	return plan, nil
}

func (p *launchPlan) exec() error {
	// Credentials and no_new_privs belong to a thread; the one that execs must be the one that set them.
	runtime.LockOSThread()
	for _, dir := range p.cgroups {
		if err := joinCgroup(dir); err != nil {
			return err
		}
	}
	if err := p.moveDescriptors(); err != nil {
		return err
	}
	for resource, value := range p.limits {
		if err := lowerLimit(resource, value); err != nil {
			return fmt.Errorf("resource limit %d = %d: %w", resource, value, err)
		}
	}
	if err := p.dropPrivileges(); err != nil {
		return err
	}
	if p.parent > 0 {
		if err := dieWith(p.parent); err != nil {
			return err
		}
	}
	err := syscall.Exec(p.argv[0], p.argv, os.Environ())
	return fmt.Errorf("%s: %w", p.argv[0], err)
}

// lowerLimit sets both limits; one that is lower already stays, since not even root may always raise it.
func lowerLimit(resource int, value uint64) error {
	var held syscall.Rlimit
	if err := syscall.Getrlimit(resource, &held); err != nil {
		return err
	}
	value = min(value, held.Max)
	return syscall.Setrlimit(resource, &syscall.Rlimit{Cur: value, Max: value})
}

// joinCgroup moves this process. Plain system calls: the os package could open its poller on a descriptor that
// moveDescriptors is about to use.
func joinCgroup(dir string) error {
	path := filepath.Join(dir, "cgroup.procs")
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", path, err)
	}
	defer syscall.Close(fd)
	if _, err := syscall.Write(fd, []byte("0")); err != nil {
		return fmt.Errorf("cgroup %s: %w", path, err)
	}
	return nil
}

// moveDescriptors goes through high numbers first, so that one pair's target may be another's source. Not too high:
// beyond 64 the kernel enlarges the table, and with several threads that waits for an RCU grace period (16 ms measured).
func (p *launchPlan) moveDescriptors() error {
	const high = 32
	parked := map[int]uintptr{}
	for target, source := range p.fds {
		fd, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(source), syscall.F_DUPFD_CLOEXEC, high)
		if errno != 0 {
			return fmt.Errorf("descriptor %d: %w", source, errno)
		}
		parked[target] = fd
	}
	for _, source := range p.fds {
		syscall.CloseOnExec(source)
	}
	for target, fd := range parked {
		if err := syscall.Dup3(int(fd), target, 0); err != nil {
			return fmt.Errorf("descriptor %d: %w", target, err)
		}
	}
	return nil
}

func (p *launchPlan) dropPrivileges() error {
	// To these system calls 1<<32 - 1 means "as it is".
	const most = 1<<32 - 2
	if (p.uid >= 0) != (p.gid >= 0) || p.uid > most || p.gid > most {
		return fmt.Errorf("user %d: not a user id", p.uid)
	}
	if p.gid >= 0 {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
			return fmt.Errorf("setgroups: %w", errno)
		}
		gid := uintptr(p.gid)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, gid, gid, gid); errno != 0 {
			return fmt.Errorf("group %d: %w", p.gid, errno)
		}
	}
	if p.uid >= 0 {
		uid := uintptr(p.uid)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid); errno != 0 {
			return fmt.Errorf("user %d: %w", p.uid, errno)
		}
	}
	// Whatever was asked for: a box started by root is no boundary.
	if uid, _, _ := syscall.RawSyscall(syscall.SYS_GETEUID, 0, 0, 0); uid == 0 {
		return errors.New("user 0: a box must not be started by root")
	}
	const prSetNoNewPrivs = 38
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("no_new_privs: %w", errno)
	}
	return dropAmbient()
}

// dieWith asks the kernel for SIGKILL at the parent's death. Only now: giving up privileges clears the request. The
// question that follows closes the gap in which the parent may already have died.
func dieWith(parent int) error {
	const prSetPdeathsig = 1
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetPdeathsig, uintptr(syscall.SIGKILL), 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("parent death signal: %w", errno)
	}
	if os.Getppid() != parent {
		return fmt.Errorf("parent %d is gone", parent)
	}
	return nil
}

// dropAmbient empties the capability sets that a uid of 0 in a user namespace, or a service manager, may have given
// us: the ambient set survives exec even of an ordinary program.
func dropAmbient() error {
	const prCapAmbient, clearAll = 47, 4
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prCapAmbient, clearAll, 0, 0, 0, 0)
	if errno != 0 && errno != syscall.EINVAL {
		return fmt.Errorf("ambient capabilities: %w", errno)
	}
	return nil
}
