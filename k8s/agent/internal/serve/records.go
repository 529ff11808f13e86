package serve

import (
	"container/list"
	"sync"

	"envfarm/agent/internal/wire"
)

// Bounds of the result log.
const (
	maxRecords     = 256
	maxRecordBytes = 64 << 20
)

// frame is one recorded piece of output.
type frame struct {
	kind byte
	data []byte
}

// record is the first, and only, run of a keyed command.
type record struct {
	key     string
	command string // the request, to tell a retry from a key used twice
	done    chan struct{}
	mutex   sync.Mutex
	frames  []frame
	bytes   int64
	result  *execResult
	fault   error
	run     *running // while it runs
	evicted bool     // its outputs are gone; the key still guards against a second run
}

// journal maps keys to records: at most maxRecords finished ones with outputs, of at most maxRecordBytes together.
// Beyond that the oldest lose their outputs but stay known: a command is never run twice.
type journal struct {
	mutex    sync.Mutex
	records  map[string]*record
	finished *list.List // *record, oldest first
	bytes    int64
}

func newJournal() *journal {
	return &journal{records: make(map[string]*record), finished: list.New()}
}

// open returns the record of key; fresh is true for the caller that has to run it.
func (j *journal) open(key, command string) (found *record, fresh bool, err error) {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	if found = j.records[key]; found == nil {
		found = &record{key: key, command: command, done: make(chan struct{})}
		j.records[key] = found
		return found, true, nil
	}
	if found.command != command {
		return nil, false, wire.Faultf("protocol", "key %q was used for another command", key)
	}
	return found, false, nil
}

// close makes the record's result known and bounds the log.
func (j *journal) close(r *record, result *execResult, fault error) {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	r.result, r.fault, r.run = result, fault, nil
	close(r.done)
	j.finished.PushBack(r)
	j.bytes += r.bytes
	for j.finished.Len() > maxRecords || (j.bytes > maxRecordBytes && j.finished.Len() > 0) {
		oldest := j.finished.Remove(j.finished.Front()).(*record)
		j.bytes -= oldest.bytes
		oldest.frames, oldest.evicted = nil, true
	}
}

// add keeps a copy of a piece of output.
func (r *record) add(kind byte, data []byte) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.frames = append(r.frames, frame{kind, append([]byte(nil), data...)})
	r.bytes += int64(len(data))
}

// replay sends what was recorded. Only for a record that is done.
func (j *journal) replay(conn *wire.Conn, r *record) error {
	j.mutex.Lock()
	frames, evicted := r.frames, r.evicted
	j.mutex.Unlock()
	if r.fault != nil {
		return r.fault
	}
	if evicted {
		return wire.Faultf("protocol", "the result of key %q is no longer kept", r.key)
	}
	for _, piece := range frames {
		if err := conn.Write(piece.kind, piece.data); err != nil {
			return nil // the client is gone; there is nobody to tell
		}
	}
	result := *r.result
	result.Replayed = true
	return conn.WriteJSON(wire.Result, &result)
}

// kill ends the running command of key, and says whether there was one.
func (j *journal) kill(key string) bool {
	j.mutex.Lock()
	found := j.records[key]
	var run *running
	if found != nil {
		run = found.run
	}
	j.mutex.Unlock()
	if run == nil {
		return false
	}
	run.cancel()
	return true
}

// attach names the running command of a record, for kill.
func (j *journal) attach(r *record, run *running) {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	r.run = run
}
