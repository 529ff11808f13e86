// Package serve is the agent: it answers requests about one box until its deadline.
package serve

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"envfarm/agent/internal/wire"
)

const (
	helloPatience = 10 * time.Second // from connection to request
	writePatience = 30 * time.Second // for a client to take a frame
	keepAlive     = 5 * time.Second
	maxClients    = 256
)

// Server answers requests.
type Server struct {
	token    string
	reaper   *reaper
	bench    *bench
	journal  *journal
	started  time.Time
	lastBeat atomic.Int64 // nanoseconds since started
	clients  chan struct{}
	over     chan string // why the box ends
	counters struct {
		requests, faults, execs, running atomic.Int64
	}
}

// NewServer makes a server; token "" means that whoever can connect may ask.
func NewServer(token string) *Server {
	reaper := newReaper()
	return &Server{
		token: token, reaper: reaper, bench: &bench{reaper: reaper}, journal: newJournal(),
		started: time.Now(), clients: make(chan struct{}, maxClients), over: make(chan string, 1),
	}
}

func (s *Server) touch() { s.lastBeat.Store(int64(time.Since(s.started))) }

func (s *Server) sinceBeat() time.Duration {
	return time.Since(s.started) - time.Duration(s.lastBeat.Load())
}

// end makes Main kill the box.
func (s *Server) end(why string) {
	select {
	case s.over <- why:
	default: // it is ending already
	}
}

// accept serves connections until the listener fails, which ends the box: an agent nobody can reach is of no use.
func (s *Server) accept(listener net.Listener) {
	for {
		raw, err := listener.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ECONNABORTED) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			s.end("the listener failed: " + err.Error())
			return
		}
		s.clients <- struct{}{}
		go func() {
			defer func() { <-s.clients }()
			s.serve(wire.New(raw, writePatience))
		}()
	}
}

// serve answers one request.
func (s *Server) serve(conn *wire.Conn) {
	defer conn.Close()
	conn.ReadDeadline(time.Now().Add(helloPatience))
	kind, payload, err := conn.Read()
	if err != nil && !isFault(err) {
		return // a client that came and went
	}
	if err == nil {
		conn.ReadDeadline(time.Time{})
		err = s.answer(conn, kind, payload)
	}
	if err != nil {
		s.counters.faults.Add(1)
		var fault *wire.Fault
		if !errors.As(err, &fault) {
			fault = asFault(err)
		}
		if conn.WriteJSON(wire.Failure, fault) == nil {
			discard(conn)
		}
	}
}

func isFault(err error) bool {
	var fault *wire.Fault
	return errors.As(err, &fault)
}

// discard reads what the client still sends, so that it gets to read the answer instead of a broken pipe.
func discard(conn *wire.Conn) {
	if conn.Claimed || conn.Ended {
		return
	}
	until := time.Now().Add(time.Minute)
	conn.ReadDeadline(until)
	for {
		kind, _, err := conn.Read()
		if err != nil || kind == wire.End {
			return
		}
	}
}

// asFault gives an operating system error the vocabulary's reason.
func asFault(err error) *wire.Fault {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return wire.Faultf("disk_limit", "%v", err)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission), errors.Is(err, syscall.ENOTDIR),
		errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EROFS):
		return wire.Faultf("path_unusable", "%v", err)
	}
	return wire.Faultf("internal", "%v", err)
}

// answer carries out one request. It sends the result itself; an error becomes the failure frame.
func (s *Server) answer(conn *wire.Conn, kind byte, payload []byte) error {
	if kind != wire.Query {
		return wire.Faultf("protocol", "the first frame must be a request, not %q", kind)
	}
	var head struct {
		Op    string `json:"op"`
		Token string `json:"token"`
	}
	if err := json.Unmarshal(payload, &head); err != nil {
		return wire.Faultf("protocol", "the request is not JSON: %v", err)
	}
	if s.token != "" && subtle.ConstantTimeCompare([]byte(head.Token), []byte(s.token)) != 1 {
		return wire.Faultf("protocol", "the token is not this box's")
	}
	s.touch()
	s.counters.requests.Add(1)
	switch head.Op {
	case "exec":
		return s.opExec(conn, payload)
	case "put":
		return s.opPut(conn, payload)
	case "get":
		return s.opGet(conn, payload)
	case "stat":
		return s.opStat(conn, payload)
	case "kill":
		return s.opKill(conn, payload)
	case "info":
		return s.opInfo(conn)
	case "beat":
		return conn.WriteJSON(wire.Result, struct{}{})
	case "shutdown":
		err := conn.WriteJSON(wire.Result, struct{}{})
		s.end("asked to")
		return err
	}
	return wire.Faultf("protocol", "op %q is unknown", head.Op)
}

func decode(payload []byte, request any) error {
	if err := json.Unmarshal(payload, request); err != nil {
		return wire.Faultf("protocol", "the request cannot be read: %v", err)
	}
	return nil
}

func (s *Server) opKill(conn *wire.Conn, payload []byte) error {
	var request struct {
		Key string `json:"key"`
	}
	if err := decode(payload, &request); err != nil {
		return err
	}
	return conn.WriteJSON(wire.Result, map[string]bool{"killed": s.journal.kill(request.Key)})
}

func (s *Server) opInfo(conn *wire.Conn) error {
	load, _ := os.ReadFile("/proc/loadavg") // absent in some boxes; then it is empty
	return conn.WriteJSON(wire.Result, map[string]any{
		"pid":        os.Getpid(),
		"uptime_sec": time.Since(s.started).Seconds(),
		"requests":   s.counters.requests.Load(),
		"faults":     s.counters.faults.Load(),
		"execs":      s.counters.execs.Load(),
		"running":    s.counters.running.Load(),
		"load":       string(load),
	})
}
