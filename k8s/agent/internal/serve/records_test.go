package serve

import (
	"fmt"
	"testing"
)

func TestJournalBoundsAndNeverForgetsAKey(t *testing.T) {
	j := newJournal()
	for n := 0; n < maxRecords+10; n++ {
		r, fresh, err := j.open(fmt.Sprint(n), "command")
		if err != nil || !fresh {
			t.Fatalf("%d: %v %v", n, fresh, err)
		}
		r.add('O', make([]byte, 1<<20))
		j.close(r, &execResult{}, nil)
		if j.bytes > maxRecordBytes || j.finished.Len() > maxRecords {
			t.Fatalf("%d: %d bytes in %d records", n, j.bytes, j.finished.Len())
		}
	}
	for n := 0; n < maxRecords+10; n++ {
		if _, fresh, err := j.open(fmt.Sprint(n), "command"); fresh || err != nil {
			t.Fatalf("key %d would run again: %v", n, err)
		}
	}
	if _, _, err := j.open("0", "other"); err == nil {
		t.Fatal("a key took another command")
	}
}

func TestJournalSurvivesARecordLargerThanItself(t *testing.T) {
	j := newJournal()
	r, _, _ := j.open("k", "c")
	r.add('P', make([]byte, maxRecordBytes+1))
	j.close(r, &execResult{}, nil)
	if j.bytes != 0 || !r.evicted {
		t.Fatalf("%d bytes kept", j.bytes)
	}
}
