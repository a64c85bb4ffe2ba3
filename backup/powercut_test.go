package backup

import (
	"math/rand/v2"
	"syscall"
	"testing"

	"tandem/backup/change"
	"tandem/internal/fsys/memfs"
)

// TestFailureThenCut lets each operation of an installation fail, and cuts the
// power after that, at once or after a boot that was cut, too: what failed to
// be made durable may come back, and must then find what belongs to it.
func TestFailureThenCut(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a search in memory, with one thing after the other")
	}
	m, content := bundleOf("1.1.0", nil)
	before := newLab(t, memfs.Options{NoExchange: true})
	before.mustInstall("1.0.0", nil, InstallOptions{})
	count := before.clone()
	start := count.m.Ops()
	if _, err := count.install(m, content, InstallOptions{}); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= count.m.Ops()-start; n++ {
		for k := range uint64(6) {
			choice := memfs.Random(rand.New(rand.NewPCG(1, k)))
			l := before.clone()
			l.m.FailAt(n, syscall.ENOSPC)
			_, _ = l.install(m, content, InstallOptions{})
			if k%2 == 1 {
				l.m.CutAt(2)
				_, _ = l.boot()
			}
			l.m.Restart(choice)
			if _, err := l.boot(); err != nil {
				t.Errorf("operation %d failed, seed %d: %v", n, k, err)
				continue
			}
			if a, b := l.holdsRelease(System, change.AppsDir, "1.0.0"), l.holdsRelease(System, change.AppsDir, "1.1.0"); a != nil && b != nil {
				t.Errorf("operation %d failed, seed %d: neither version: %v; %v", n, k, a, b)
			}
		}
	}
}

// TestRecoversWithoutNext has a side whose commit.json came back after all was
// in place: its removal was not synced, because that failed, and was lost in a
// power cut that the removal of next survived.
func TestRecoversWithoutNext(t *testing.T) {
	m, content := bundleOf("1.1.0", nil)
	for name, o := range map[string]memfs.Options{"exchange": {SyncCheap: true}, "flash": {}, "two renames": {NoExchange: true, NoSyncReports: true}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, o)
			l.mustInstall("1.0.0", nil, InstallOptions{})
			commits := map[SideName]string{}
			for _, machine := range l.m.Cuts(func(machine *memfs.Machine) { _, _ = (&lab{t, machine}).install(m, content, InstallOptions{}) }) {
				machine.Restart(memfs.Everything())
				after := &lab{t, machine}
				for _, side := range []SideName{System, UsrData} {
					if _, err := after.fs(side).Lstat(change.CommitFile); err == nil {
						commits[side] = after.read(side, change.CommitFile)
					}
				}
				if len(commits) < 2 || after.inStep("1.1.0") != nil {
					continue
				}
				for side, commit := range commits {
					after.write(side, change.CommitFile, commit)
				}
				after.mustBoot()
				after.wantInStep("1.1.0")
				return
			}
			t.Error("no cut left both sides done")
		})
	}
}
