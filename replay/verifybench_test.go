package replay_test

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"testing"

	"sallyport/recorder/trec"
	"sallyport/replay"
)

// BenchmarkVerifyNode verifies large recordings against their ledger, as many at
// once as there are processors. Beside it: SHA-256 alone, which bounds it.
func BenchmarkVerifyNode(b *testing.B) {
	s := newState(b, "N-1")
	noise := make([]byte, 200<<10)
	_, _ = rand.Read(noise)
	var size int64
	for i := range 4 {
		r := s.begin(b, fmt.Sprintf("S-%d", i+1))
		for range 200 {
			value[trec.Position](b)(r.w.Add(trec.Frame{Kind: trec.KindOutput, Time: r.at, Data: noise}))
			value[[]trec.Leaf](b)(r.w.Seal(trec.EffortNone))
		}
		r.close(b, "exit")
		size += value[os.FileInfo](b)(os.Stat(s.path(r.session))).Size()
	}
	s.publish(b)
	files := s.files()
	b.Run("verify", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			if r := value[replay.NodeReport](b)(replay.VerifyNode(b.Context(), files)); !r.Intact {
				b.Fatal(r.Text())
			}
		}
	})
	b.Run("SHA-256 of one core", func(b *testing.B) {
		b.SetBytes(int64(len(noise)))
		for b.Loop() {
			sha256.Sum256(noise)
		}
	})
}
