package procs

import (
	"os"
	"os/exec"
	"reflect"
	"testing"
	"time"
)

func TestBelowListsParentsFirstAndSparesSubtrees(t *testing.T) {
	tree := map[int][]int{1: {2, 3}, 2: {4}, 3: {5}, 5: {6}, 9: {10}}
	if got := Below(tree, 1, nil); !reflect.DeepEqual(got, []int{2, 3, 4, 5, 6}) {
		t.Fatal(got)
	}
	if got := Below(tree, 1, map[int]bool{3: true}); !reflect.DeepEqual(got, []int{2, 4}) {
		t.Fatal(got)
	}
}

func TestKillBelowReachesGrandchildren(t *testing.T) {
	command := exec.Command("sh", "-c", "setsid sleep 60 & wait")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		tree, err := Children()
		if err != nil {
			t.Fatal(err)
		}
		if len(Below(tree, os.Getpid(), nil)) >= 2 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("the grandchild did not appear")
		}
	}
	if count, err := KillBelow(os.Getpid(), nil); err != nil || count < 2 {
		t.Fatal(count, err)
	}
	if err := command.Wait(); err == nil {
		t.Fatal("the child was not killed")
	}
}
