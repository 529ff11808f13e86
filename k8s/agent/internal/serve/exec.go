package serve

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"envfarm/agent/internal/child"
	"envfarm/agent/internal/wire"
)

// execRequest is op "exec".
type execRequest struct {
	Argv             []string          `json:"argv"`
	Cwd              string            `json:"cwd"`
	Env              map[string]string `json:"env"`
	TimeoutSec       float64           `json:"timeout_sec"`
	OutputLimitBytes int64             `json:"output_limit_bytes"`
	ReportFD         bool              `json:"report_fd"`
	ReportLimitBytes int64             `json:"report_limit_bytes"`
	Key              string            `json:"key"`
	Limits           child.Limits      `json:"limits"`
}

// execResult is the answer. Exactly one of ExitCode and Signal is set.
type execResult struct {
	Started        bool    `json:"started"`
	Problem        string  `json:"problem,omitempty"`
	ExitCode       *int    `json:"exit_code"`
	Signal         *int    `json:"signal"`
	TimedOut       bool    `json:"timed_out"`
	DurationSec    float64 `json:"duration_sec"`
	CPUSec         float64 `json:"cpu_sec"`
	MaxRSSKB       int64   `json:"max_rss_kb"`
	OOMKilled      bool    `json:"oom_killed"`
	StdoutCutBytes int64   `json:"stdout_cut_bytes"`
	StderrCutBytes int64   `json:"stderr_cut_bytes"`
	ReportCutBytes int64   `json:"report_cut_bytes"`
	Replayed       bool    `json:"replayed"`
}

// grace is what a supervisor gets to kill its command before it is taken to be stopped or stuck itself.
const grace = 5 * time.Second

func (r *execRequest) check() error {
	if len(r.Argv) == 0 {
		return wire.Faultf("protocol", "exec needs a command")
	}
	// Written so that a NaN fails too.
	if !(r.TimeoutSec > 0 && r.TimeoutSec <= math.MaxInt32) {
		return wire.Faultf("protocol", "exec needs a positive timeout_sec")
	}
	for name, value := range r.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return wire.Faultf("protocol", "environment variable %q cannot be passed on", name)
		}
	}
	for _, word := range append([]string{r.Cwd}, r.Argv...) {
		if strings.ContainsRune(word, 0) {
			return wire.Faultf("protocol", "a command's words cannot hold a NUL")
		}
	}
	return nil
}

// identity tells a retry of a keyed command from another command under the same key.
func (r *execRequest) identity() string {
	text, _ := json.Marshal(r) // plain data always marshals; map keys come sorted
	sum := fnv.New128a()
	_, _ = sum.Write(text)
	return string(sum.Sum(nil))
}

// environ is the box's environment with the request's own on top.
func environ(extra map[string]string) []string {
	var merged []string
	hasPath := false
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if _, replaced := extra[name]; !replaced {
			merged = append(merged, entry)
			hasPath = hasPath || name == "PATH"
		}
	}
	for name, value := range extra {
		merged = append(merged, name+"="+value)
		hasPath = hasPath || name == "PATH"
	}
	if !hasPath {
		merged = append(merged, "PATH=/usr/local/bin:/usr/bin:/bin")
	}
	return merged
}

// running is one command under way.
type running struct {
	server     *Server
	supervisor *supervisor
	once       sync.Once
	ended      chan struct{} // closed when the supervisor has spoken or died
}

// cancel kills the command; a supervisor that does not follow within grace is killed as well.
func (r *running) cancel() {
	r.once.Do(func() {
		r.supervisor.kill()
		go func() {
			timer := time.NewTimer(grace)
			defer timer.Stop()
			select {
			case <-r.ended:
			case <-timer.C:
				r.server.reaper.kill(r.supervisor.pid, syscall.SIGKILL)
			}
		}()
	})
}

// execute runs a command to its end. emit gets the frames, from several goroutines; started gets the command's handle
// as soon as it runs. The error is a Fault: no result.
func (s *Server) execute(request *execRequest, emit func(kind byte, data []byte), started func(*running)) (*execResult, error) {
	begin := time.Now()
	supervisor, err := s.bench.take(child.Request{
		Argv: request.Argv, Cwd: request.Cwd, Env: environ(request.Env), ReportFD: request.ReportFD, Limits: request.Limits,
	})
	if err != nil {
		return nil, wire.Faultf("box_lost", "no supervisor could be started: %v", err)
	}
	defer supervisor.close()
	run := &running{server: s, supervisor: supervisor, ended: make(chan struct{})}
	timeout := time.Duration(request.TimeoutSec * float64(time.Second))
	late := make(chan struct{})
	timer := time.AfterFunc(timeout, func() { close(late); run.cancel() })
	defer timer.Stop()

	var streams [3]*capture
	var pumps sync.WaitGroup
	for index, stream := range []struct {
		kind     byte
		source   *os.File
		limit    int64
		headOnly bool
	}{
		{wire.Stdout, supervisor.stdout, request.OutputLimitBytes, false},
		{wire.Stderr, supervisor.stderr, request.OutputLimitBytes, false},
		{wire.Report, supervisor.report, request.ReportLimitBytes, true},
	} {
		streams[index] = newCapture(stream.limit, stream.headOnly, func(data []byte) { emit(stream.kind, data) })
		pumps.Add(1)
		go func() {
			defer pumps.Done()
			pump(stream.source, run.ended, streams[index])
		}()
	}
	started(run)

	status, spoke := supervisor.await()
	duration := time.Since(begin)
	close(run.ended)
	if !spoke {
		if status, err = s.aftermath(supervisor); err != nil {
			return nil, err
		}
	}
	pumps.Wait()
	if status.Problem != "" {
		streams[1].write([]byte("envfarm-agent: " + status.Problem + "\n"))
	}
	for _, stream := range streams {
		stream.finish()
	}
	result := &execResult{
		Started: status.Started, Problem: status.Problem,
		DurationSec: duration.Seconds(), CPUSec: status.CPUSec, MaxRSSKB: status.MaxRSSKB,
		StdoutCutBytes: streams[0].cut, StderrCutBytes: streams[1].cut, ReportCutBytes: streams[2].cut,
	}
	select {
	case <-late:
		result.TimedOut = status.Killed
	default:
	}
	if status.Signal != 0 {
		result.Signal = &status.Signal
	} else {
		result.ExitCode = &status.Code
	}
	return result, nil
}

// aftermath deals with a supervisor that died without a word: somebody killed it, the command (it has the same user) or
// we did because it was stopped. Whatever it stood for, the result is a signal's, never a success.
func (s *Server) aftermath(supervisor *supervisor) (child.Status, error) {
	state, gone := supervisor.waitExit(grace)
	err := fmt.Errorf("the supervisor of a command did not end within %s of SIGKILL", grace)
	if gone {
		err = s.reaper.sweep(grace)
	}
	if err != nil {
		if os.Getpid() != 1 {
			return child.Status{}, wire.Faultf("box_lost", "%v", err)
		}
		// Atomic where the sweep is not: nothing forks its way past it. It ends parallel commands too.
		_ = syscall.Kill(-1, syscall.SIGKILL)
		if err := s.reaper.sweep(grace); err != nil {
			return child.Status{}, wire.Faultf("box_lost", "%v", err)
		}
	}
	status := child.Status{Started: true, Killed: true, Signal: int(syscall.SIGKILL)}
	if gone && state.Signaled() {
		status.Signal = int(state.Signal())
	}
	return status, nil
}
