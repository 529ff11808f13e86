package child

import (
	"reflect"
	"syscall"
	"testing"
)

func TestCandidatesFollowTheCommandsOwnPath(t *testing.T) {
	for _, c := range []struct {
		name string
		env  []string
		want []string
	}{
		{"/bin/sh", []string{"PATH=/a"}, []string{"/bin/sh"}},
		{"./x", nil, []string{"./x"}},
		{"x", []string{"PATH=/a:/b"}, []string{"/a/x", "/b/x"}},
		{"x", []string{"PATH=/a:"}, []string{"/a/x", "./x"}},
		{"x", nil, []string{"/usr/local/bin/x", "/usr/bin/x", "/bin/x"}},
		{"", []string{"PATH=/a"}, []string{""}},
	} {
		if got := candidates(c.name, c.env); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q with %v: %v", c.name, c.env, got)
		}
	}
}

func TestLimitsNeverRaise(t *testing.T) {
	var held syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &held); err != nil {
		t.Fatal(err)
	}
	table, err := Limits{Nofile: held.Max + 1, CPUSec: 3}.table()
	if err != nil {
		t.Fatal(err)
	}
	byResource := map[uintptr]syscall.Rlimit{}
	for _, next := range table {
		byResource[next.resource] = next.value
	}
	if got := byResource[rlimitNofile]; got.Max != held.Max || got.Cur != held.Max {
		t.Errorf("descriptors: %+v", got)
	}
	if got := byResource[rlimitCPU]; got.Cur != 3 || got.Max != 4 {
		t.Errorf("processor time: %+v", got)
	}
	if got, set := byResource[rlimitCore]; !set || got.Max != 0 {
		t.Errorf("core dumps: %+v", got)
	}
	if _, set := byResource[rlimitAs]; set {
		t.Error("an unset limit was set")
	}
}
