package hawkbit_test

import (
	"errors"
	"testing"

	"tandem/test/hawkbit"
)

// What comes of a file may be wrong once or twice, whoever sent it; then its action has failed.
func TestDoubts(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	n := b.assign(hawkbit.Assignment{Set: b.release("2.0.0"), Type: "forced"})
	for i, want := range []bool{true, true, false} {
		b.sync()
		b.check(b.source().Doubted(b.sumOf("2.0.0"), errors.New("another file came")))
		b.sync()
		state, err := b.op.Action(b.ctx, device, n)
		b.check(err)
		if state.Active != want || !want && state.Status != "error" {
			t.Errorf("refused %d times: active %v, %s\n%s", i+1, state.Active, state.Status, b.history(n))
		}
	}
}
