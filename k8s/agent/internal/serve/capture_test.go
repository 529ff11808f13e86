package serve

import (
	"bytes"
	"math/rand"
	"os"
	"testing"
	"time"
)

// reference is the contract in its plainest form.
func reference(whole []byte, limit int) ([]byte, int64) {
	if len(whole) <= limit {
		return whole, 0
	}
	head := limit - limit/2
	kept := append(append([]byte(nil), whole[:head]...), whole[len(whole)-limit/2:]...)
	return kept, int64(len(whole) - limit)
}

func TestCaptureKeepsHeadAndTail(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	for round := 0; round < 3000; round++ {
		whole := make([]byte, random.Intn(200))
		random.Read(whole)
		limit := random.Intn(100)
		var got []byte
		sink := newCapture(int64(limit), false, func(data []byte) { got = append(got, data...) })
		for rest := whole; len(rest) > 0; {
			count := 1 + random.Intn(min(len(rest), 40))
			sink.write(rest[:count])
			rest = rest[count:]
		}
		sink.finish()
		want, cut := reference(whole, limit)
		if !bytes.Equal(got, want) || sink.cut != cut {
			t.Fatalf("limit %d of %d bytes: kept %d, cut %d; want %d, %d", limit, len(whole), len(got), sink.cut, len(want), cut)
		}
	}
}

func TestCaptureOfAReportKeepsItsHead(t *testing.T) {
	var got []byte
	sink := newCapture(5, true, func(data []byte) { got = append(got, data...) })
	sink.write([]byte("abc"))
	sink.write([]byte("defgh"))
	sink.finish()
	if string(got) != "abcde" || sink.cut != 3 {
		t.Fatalf("kept %q, cut %d", got, sink.cut)
	}
}

func TestPumpGivesUpAPipeThatStaysOpen(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	if _, err := writer.WriteString("last words"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	close(ended)
	var got []byte
	begin := time.Now()
	sink := newCapture(100, false, func(data []byte) {
		time.Sleep(3 * drainPause) // a slow client must not cost bytes
		got = append(got, data...)
	})
	pump(reader, ended, sink)
	if string(got) != "last words" {
		t.Fatalf("got %q", got)
	}
	if took := time.Since(begin); took > 10*drainPause {
		t.Fatalf("took %s", took)
	}
}

func TestPumpBoundsAPipeThatKeepsTalking(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	go func() {
		chunk := make([]byte, 32<<10)
		for {
			if _, err := writer.Write(chunk); err != nil {
				return
			}
		}
	}()
	ended := make(chan struct{})
	close(ended)
	done := make(chan struct{})
	go func() {
		pump(reader, ended, newCapture(1, false, func([]byte) {}))
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("pump did not end")
	}
}
